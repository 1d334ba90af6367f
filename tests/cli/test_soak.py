"""Many short real runs and conversions; engines, ranks, workers, apps and viewers are killed at random."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch

from engine.contract import events as ev
from engine.contract.check import require_settings
from engine.contract.errors import UserError
from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir, RunList
from engine.train.resume import sha256
from rwkv_tui.services import launch as launching
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import RESUMABLE, is_alive, stop_run, summarise
from tests.fakes import forged
from tests.fakes.terminal import Terminal

RUNS = 200
AT_ONCE = 3
VIEWERS = 2


def children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


class Conversion:
    """One data set that several processes convert, again and again; most are disturbed."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.source, self.wanted, self.prefix = folder / "rows.jsonl", folder / "wanted", folder / "got"
        self.random = draw
        self.did: Counter[str] = Counter()
        rows = (f"User: {number}\n\nAssistant: {'words ' * (number % 200)}" for number in range(9000))
        self.source.write_text("\n".join(json.dumps({"text": row}) for row in rows))  # enough for workers
        self._start(self.wanted)
        assert self.process.wait() == 0
        self._start(self.prefix)

    def _start(self, prefix: Path) -> None:
        words = ["convert", str(self.source), f"--out={prefix}", "--force", "--repeat=2"]
        with prefix.with_suffix(".told").open("wb") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", *words], stdout=told, stderr=subprocess.DEVNULL
            )
        self.ended = ""
        self.workers: set[int] = set()

    def disturb(self) -> None:
        self.workers |= (workers := set(children(self.process.pid)))
        if self.ended or not workers:
            return
        self.ended = self.random.choice(["worker killed", "worker killed", "killed", "stopped", "left"])
        if self.ended == "worker killed":
            os.kill(self.random.choice(sorted(workers)), signal.SIGKILL)
        elif self.ended != "left":
            self.process.send_signal(signal.SIGKILL if self.ended == "killed" else signal.SIGTERM)

    def turn(self) -> None:
        """Begins anew when one has ended: then the pair is as it was before, or whole."""
        if self.process.poll() is None:
            return
        self.judge()
        self._start(self.prefix)

    def judge(self) -> None:
        status = self.process.wait()
        told = self.prefix.with_suffix(".told").read_bytes().splitlines(keepends=True)[-1:]
        last = ev.parse_event(told[0]) if told else None
        self.did[f"conversions {self.ended}" if status else "conversions whole"] += 1
        if status == 1:
            assert self.ended == "worker killed" and isinstance(last, ev.Failed), (self.ended, last)
            assert "exit status -9" in last.reason
        elif status == 0:
            assert isinstance(last, ev.Converted)
        else:
            assert status == (-signal.SIGKILL if self.ended == "killed" else 130), (self.ended, last)
        files = [Path(f"{self.prefix}{end}") for end in (".bin", ".idx")]
        if status != -signal.SIGKILL:  # then the next one clears up
            assert not list(self.prefix.parent.glob(".got.*"))
            assert all(file.exists() for file in files) or not self.did["conversions whole"]
        if files[1].exists():
            assert all(filecmp.cmp(f, f"{self.wanted}{f.suffix}", shallow=False) for f in files)
        _, left = psutil.wait_procs([p for pid in self.workers if (p := _process(pid))], timeout=10)
        assert not left


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


class Chaos:
    """Starts runs, resumes those that ended too early, and disturbs whatever lives."""

    def __init__(self, folder: Path, model: Path, data: Path, seed: int) -> None:
        self.folder, self.model, self.data = folder, model, data
        self.broken = folder / "broken.pth"
        self.broken.write_bytes(b"no model")
        self.paths = UserPaths.of_user()
        self.random = random.Random(seed)
        self.runs: dict[str, RunDir] = {}
        self.engines: set[int] = set()
        self.viewers: list[Terminal] = []
        self.did: Counter[str] = Counter()
        self.conversion = Conversion(folder, self.random)

    def forge(self, run: RunDir, on_finish: str) -> int:
        """launching._start, but for the seconds in which a fresh interpreter imports torch."""
        return forged.start(["train", str(run.path), f"--on_finish={on_finish}"], run.log).pid

    def start(self) -> None:
        draw = self.random
        values = {
            "load_model": draw.choice([self.model] * 9 + [self.broken]), "data_file": self.data,
            "proj_dir": self.folder / f"run {len(self.runs)}", "precision": "fp32", "accelerator": "cpu",
            "ctx_len": 16, "micro_bsz": draw.choice([1, 2]), "devices": draw.choice([1] * 9 + [2]),
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
        how = [(n, r, summarise(n, r).status) for n, r in ended]
        return [(n, r) for n, r, status in how if status in RESUMABLE and not self.hopeless(r, status)]

    def hopeless(self, run: RunDir, status: str) -> bool:
        if status != "failed" or run.read_settings().load_model != self.broken:
            return False
        end = ev.parse_event(run.events.read_bytes().splitlines()[-1])
        return isinstance(end, ev.Failed) and self.broken.name in end.reason  # else a rank was killed before

    def resume(self, name: str, run: RunDir) -> None:
        if self.random.random() < 0.1 and len(self.viewers) < VIEWERS:  # by an app, at an engine's real pace
            viewer = self.view(name)
            viewer.sees("Resume")
            viewer.keys("r")
            self.did["resumed by apps"] += 1
            return
        try:
            launching.resume(name, run, RunList(self.paths.runs))
        except UserError as error:  # an app was faster
            assert "nothing to resume" in error.remedy
        else:
            self.did["resumed"] += 1

    def view(self, *words: str) -> Terminal:
        self.did["apps"] += not {"--plain", "--json"} & set(words)
        self.viewers.append(Terminal([sys.executable, "-m", "rwkv_tui", *(words and ("attach", *words))]))
        return self.viewers[-1]

    def disturb(self) -> None:
        name, run = self.random.choice(self.alive())
        what = self.random.choice(["kill", "kill a rank", "stop", "stop twice", "view", "nothing", "nothing"])
        if what == "kill" and stop_run(run, now=True):
            self.did["engines killed"] += 1
        elif what == "kill a rank":
            for rank in [r for _, run in self.alive() if (o := run.owner()) for r in children(o.pid)][-1:]:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(rank, signal.SIGKILL)
                    self.did["ranks killed"] += 1
        elif (what == "stop" and stop_run(run)) or (what == "stop twice" and stop_run(run) and stop_run(run)):
            self.did["stopped"] += 1
        elif what == "view" and len(self.viewers) < VIEWERS:
            self.view(*self.random.choice([[], [name], [name, "--plain"], [name, "--json"]]))

    def lose_a_viewer(self) -> None:
        viewer = self.viewers.pop(self.random.randrange(len(self.viewers)))
        way = self.random.choice(["killed", "hung up", "closed"])
        if way == "closed":
            viewer.hang_up()
        else:
            viewer.process.send_signal(signal.SIGKILL if way == "killed" else signal.SIGHUP)
        viewer.wait()
        self.did["viewers and apps lost"] += 1

    def turn(self) -> None:
        self.engines |= {owner.pid for run in self.runs.values() if (owner := run.owner())}
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
        if self.random.random() < 0.3:
            self.conversion.disturb()
        self.conversion.turn()
        time.sleep(self.random.random() * 0.1)

    def settle(self) -> None:
        """Resumes what can go on, undisturbed, until nothing is left to do."""
        deadline = time.monotonic() + 240
        while self.viewers:
            self.lose_a_viewer()
        while self.alive() or self.to_resume():
            assert time.monotonic() < deadline, [summarise(n, r) for n, r in self.alive()]
            for name, run in self.to_resume()[: AT_ONCE - len(self.alive())]:
                launching.resume(name, run, RunList(self.paths.runs))
            time.sleep(0.05)
        self.conversion.judge()


@pytest.mark.soak
def test_after_many_kills_every_run_is_whole(
    home: Path, tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(time.time())
    chaos = Chaos(tmp_path, tiny_model, tiny_data, seed)
    monkeypatch.setattr(launching, "_start", chaos.forge)
    began = time.monotonic()
    while len(chaos.runs) < RUNS:
        chaos.turn()
    chaos.settle()
    ends = Counter(judge(name, run) for name, run in chaos.runs.items())
    did = dict(chaos.did + chaos.conversion.did)
    print(f"seed {seed}: {did}, ended {dict(ends)} after {time.monotonic() - began:.0f} s")
    assert ends["finished"] > 0.7 * RUNS
    for what in ("engines killed", "ranks killed", "stopped", "resumed by apps", "viewers and apps lost",
                 "conversions worker killed", "conversions killed", "conversions whole"):  # fmt: skip
        assert did.get(what), f"no {what}: {did}"
    assert not [p.pid for p in psutil.process_iter() if session_of(p.pid) in chaos.engines]
    listed = {run.path for _, run in RunList(chaos.paths.runs).all()}
    assert listed == {run.path for run in chaos.runs.values()}


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


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
    if status == "failed":  # what a killed rank failed has been resumed
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
