"""Many short real runs, with kills of engines, viewers and launchers at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from engine.contract import events as ev
from engine.contract.check import require_settings
from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir, RunList
from engine.train.resume import sha256
from rwkv_tui.services import launch as launching
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import is_alive, stop_run, summarise
from tests.fakes.terminal import Terminal

SECONDS = 90  # of chaos; some thirty more until all has ended
AT_ONCE = 3
VIEWERS = 2


def fork_engine(run: RunDir, on_finish: str) -> int:
    """As launching._start, but for the seconds in which a fresh interpreter imports torch."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, launching.STOPPING)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    status = 70
    try:
        os.setsid()
        log = os.open(run.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(source, target)
        os.closerange(3, 4096)  # the viewers' terminals among them
        from engine.train.run import run_training

        status = run_training(run, on_finish=on_finish)
    finally:
        os._exit(status)


@contextmanager
def reaped() -> Iterator[None]:
    """Takes leave of every child that has ended, as a launcher's threads do."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    yield


class Chaos:
    """Starts runs, resumes those that ended too early, and disturbs whatever lives."""

    def __init__(self, folder: Path, model: Path, data: Path, seed: int) -> None:
        self.folder, self.model, self.data = folder, model, data
        self.broken = folder / "broken.pth"
        self.broken.write_bytes(b"no model")
        self.paths = UserPaths.of_user()
        self.random = random.Random(seed)
        self.runs: dict[str, RunDir] = {}
        self.viewers: list[Terminal] = []
        self.did: Counter[str] = Counter()

    def start(self) -> None:
        draw = self.random
        values = {
            "load_model": draw.choice([self.model] * 9 + [self.broken]), "data_file": self.data,
            "proj_dir": self.folder / f"run {len(self.runs)}", "precision": "fp32", "accelerator": "cpu",
            "ctx_len": 16, "micro_bsz": draw.choice([1, 2]),
            "epoch_steps": draw.randint(1, 8), "epoch_count": draw.randint(1, 3), "grad_cp": 0,
            "save_minutes": draw.choice([0, 1e-9]), "eval_docs": draw.choice([0, 2]), "sample_len": 0,
            "accumulate_grad_batches": draw.choice([1, 2]),
        }  # fmt: skip
        name, run = launching.launch(require_settings(values), self.paths)
        self.runs[name] = run
        self.did["started"] += 1

    def alive(self) -> list[tuple[str, RunDir]]:
        return [(name, run) for name, run in self.runs.items() if is_alive(run) is not False]

    def to_resume(self) -> list[tuple[str, RunDir]]:
        ended = [(n, r) for n, r in self.runs.items() if is_alive(r) is False]
        return [(n, r) for n, r in ended if summarise(n, r).status in ("died", "stopped")]

    def resume(self, name: str, run: RunDir) -> None:
        launching.resume(name, run, RunList(self.paths.runs))
        self.did["resumed"] += 1

    def disturb(self) -> None:
        name, run = self.random.choice(self.alive())
        what = self.random.choice(["kill", "kill", "stop", "stop twice", "view", "nothing", "nothing"])
        if what == "kill" and stop_run(run, now=True):
            self.did["engines killed"] += 1
        elif (what == "stop" and stop_run(run)) or (what == "stop twice" and stop_run(run) and stop_run(run)):
            self.did["stopped"] += 1
        elif what == "view" and len(self.viewers) < VIEWERS:
            more = self.random.choice([[], ["--plain"], ["--json"]])
            self.viewers.append(Terminal([sys.executable, "-m", "rwkv_tui", "attach", name, *more]))
            self.did["viewers"] += 1

    def lose_a_viewer(self) -> None:
        viewer = self.viewers.pop(self.random.randrange(len(self.viewers)))
        way = self.random.choice(["killed", "hung up", "closed"])
        if way == "closed":
            viewer.hang_up()
        else:
            viewer.process.send_signal(signal.SIGKILL if way == "killed" else signal.SIGHUP)
        self.did["viewers lost"] += 1

    def turn(self) -> None:
        with reaped():
            if len(self.alive()) < AT_ONCE:
                waiting = self.to_resume()
                if waiting and self.random.random() < 0.6:
                    self.resume(*self.random.choice(waiting))
                else:
                    self.start()
            if self.random.random() < 0.3 and self.alive():
                self.disturb()
            if self.viewers and self.random.random() < 0.05:
                self.lose_a_viewer()
        time.sleep(self.random.random() * 0.1)

    def settle(self) -> None:
        """Resumes what can go on, undisturbed, until nothing is left to do."""
        deadline = time.monotonic() + 240
        while self.alive() or self.to_resume():
            assert time.monotonic() < deadline, [summarise(n, r) for n, r in self.alive()]
            with reaped():
                for name, run in self.to_resume()[: AT_ONCE - len(self.alive())]:
                    self.resume(name, run)
            time.sleep(0.05)
        for viewer in self.viewers:
            viewer.end()


@pytest.mark.soak
def test_after_many_kills_every_run_is_whole(
    home: Path, tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine.train.callbacks
    import engine.train.run
    import engine.train.validation  # noqa: F401 what every fork would import again

    torch.set_num_threads(1)
    monkeypatch.setattr(launching, "_start", fork_engine)
    seed = int(time.time())
    chaos = Chaos(tmp_path, tiny_model, tiny_data, seed)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        chaos.turn()
    chaos.settle()
    ends = Counter(judge(name, run) for name, run in chaos.runs.items())
    print(f"seed {seed}: {dict(chaos.did)}, ended {dict(ends)} after {time.monotonic() - began:.0f} s")
    assert ends["finished"] > 0.7 * len(chaos.runs) and len(chaos.runs) >= 20
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=10)
    assert not left
    listed = {run.path for _, run in RunList(chaos.paths.runs).all()}
    assert listed == {run.path for run in chaos.runs.values()}


def judge(name: str, run: RunDir) -> str:
    """Finished with all its steps, files and logs whole, or failed with a reason; no third thing."""
    status = summarise(name, run).status
    lines = run.events.read_bytes().split(b"\n")
    assert lines[-1] == b""
    told = [ev.parse_event(line) for line in lines[:-1]]
    for place, event in enumerate(told):  # a line torn by a kill is followed by a new process's first word
        assert event is not None or isinstance(told[place + 1], ev.Resumed | ev.Warned), lines[place]
    model = RunModel()
    for event in told:
        if event is not None:
            model.apply(event)
    settings = run.read_settings()
    if status == "failed":
        assert isinstance(model.closing, ev.Failed) and "broken.pth" in model.closing.reason, model.closing
        return status
    assert status == "finished", (name, run.log.read_text())
    assert list(model.loss.xs) == list(range(1, settings.total_steps + 1))
    assert not list(run.path.glob(".*.part"))
    sums = {c.path: c.sha256 for c in model.checkpoints}
    assert isinstance(model.closing, ev.Finished) and model.closing.files
    for path in model.closing.files:
        assert sha256(Path(path)) == sums[path]
        assert torch.load(path, weights_only=True)
    losses = [json.loads(line)["loss"] for line in run.loss_data.read_text().splitlines()]
    assert losses == pytest.approx(list(model.loss.ys))
    assert len(run.train_log.read_text().splitlines()) == settings.epoch_count
    return status
