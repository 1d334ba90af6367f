"""What goes wrong on bad days ends in one clear sentence, and what was saved before stays as it was."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints.save import load_tensors, save_tensors
from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.memory import advice, savings
from engine.contract.oom import OomKills
from engine.contract.paths import UserPaths
from engine.contract.plain import say
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.estimate import needed, needed_of_host, what_fits
from engine.models import load_model
from engine.models.base import RWKV
from engine.train import module
from engine.train.failure import failed
from engine.train.infctx import backward_in_chunks
from engine.train.resume import sha256
from engine.train.run import run_training
from engine.train.writer import EventWriter
from rwkv_tui.services.diagnosis import diagnose
from rwkv_tui.services.launch import launch
from rwkv_tui.services.postmortem import short_of_memory, shortage
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import ending_of, summarise
from tests.train.test_run import CALL, told

Making = Callable[..., RunDir]
At = Callable[[int, Callable[[], float | None]], None]


@pytest.fixture
def make(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Making:
    """Makes the folder of a run of two epochs of three steps."""

    def folder(**more: Any) -> RunDir:
        run = RunDir(tmp_path / "run")
        run.claim("run")
        values: dict[str, Any] = {
            "load_model": tiny_model, "data_file": tiny_data, "proj_dir": run.path, "ctx_len": 16,
            "micro_bsz": 2, "epoch_steps": 3, "epoch_count": 2, "precision": "fp32", "accelerator": "cpu",
            "grad_cp": 0, "sample_len": 0, "eval_docs": 0, "save_minutes": 0, **more,
        }  # fmt: skip
        run.settings.write_text(render_yaml(TrainSettings(**values), "run"))
        return run

    return folder


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """`at(step, act)`: acts in the midst of that step, and may change its loss by returning a factor."""
    acts: dict[int, Callable[[], Any]] = {}
    taken = 0

    def step(model: Any, tokens: Any, targets: Any, chunk_ctx: int, backward: Any, *rest: Any) -> Any:
        nonlocal taken
        taken += 1
        factor = acts[taken]() if taken in acts else None
        factor = 1.0 if factor is None else factor
        return factor * backward_in_chunks(
            model, tokens, targets, chunk_ctx, lambda loss: backward(loss * factor), *rest
        )

    monkeypatch.setattr(module, "backward_in_chunks", step)
    return acts.__setitem__


def read(run: RunDir) -> list[events.Event]:
    return [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def of(kind: type[Any], run: RunDir) -> list[Any]:
    return [e for e in read(run) if isinstance(e, kind)]


def failure(run: RunDir) -> events.Failed:
    """The last word of a run that failed, in one line each."""
    end = read(run)[-1]
    assert isinstance(end, events.Failed) and "\n" not in end.reason + end.remedy and end.remedy, end
    return end


def first_file_is_whole(run: RunDir) -> None:
    saved = of(events.Checkpoint, run)[0]
    assert saved.sha256 == sha256(run.checkpoint(0))
    assert all(t.isfinite().all() for t in load_tensors(run.checkpoint(0)).values())
    assert not list(run.path.glob(".*.part"))


def limited(size: int) -> None:
    """Files that grow beyond `size` bytes meet a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def forked(act: Callable[[], int]) -> int:
    """The exit status of `act` in a process of its own: a limit on files is for it alone."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        status = 99
        try:
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Numbers that are none


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_file(make: Making, at: At) -> None:
    run = make()
    for step in (4, 5, 6):
        at(step, lambda: float("nan"))
    assert run_training(run, on_finish=CALL) == 1
    assert told(run) == f"failed {of(events.Step, run)[2].loss_smooth:.6g}"
    end = failure(run)
    assert end.reason.startswith("The loss is nan since step 4 (learning rate 0.") and "lr_init" in end.remedy
    first_file_is_whole(run)
    assert not run.checkpoint(1).exists()


def test_what_runs_away_leaves_a_point_to_go_back_to(make: Making, at: At) -> None:
    """Each step could save one, each epoch of three steps does, and only two files are kept."""
    run = make(epoch_count=30, save_minutes=1e-9, keep_checkpoints=2)
    for step in range(26, 31):
        at(step, lambda: 1000.0)
    for step in range(31, 34):
        at(step, lambda: float("nan"))
    assert run_training(run) == 1
    assert "since step 31" in failure(run).reason
    assert run.resume_steps() == [25, 24]
    saved = [e.step for e in of(events.Checkpoint, run)]
    assert saved == [*range(1, 26), 27, 30]
    assert {run.checkpoint(epoch).exists() for epoch in (7, 8, 9)} == {True}


def test_a_folder_deleted_meanwhile_ends_the_run(make: Making, at: At) -> None:
    """Its events are gone with it: whoever still watches is told."""
    run = make()

    def delete() -> None:
        shutil.rmtree(run.path)
        run.path.mkdir()  # as when something is written into it at the same time

    at(2, delete)
    assert run_training(run) == 1
    assert not list(run.path.glob("rwkv-*")) and not run.resume_steps()


def test_one_bad_batch_does_not_spoil_a_run(make: Making, at: At) -> None:
    run = make()
    at(2, lambda: float("inf"))
    assert run_training(run) == 0
    steps = of(events.Step, run)
    assert steps[1].loss is None and all(s.loss is not None for s in (*steps[:1], *steps[2:]))
    first_file_is_whole(run)


def test_values_that_are_no_numbers_are_never_saved(make: Making, at: At, monkeypatch: Any) -> None:
    run = make()
    step = torch.optim.Adam.step

    def spoil() -> None:
        def spoilt(self: Any, *rest: Any, **more: Any) -> Any:
            result = step(self, *rest, **more)
            self.param_groups[0]["params"][0].data[0, 0, 0] = float("nan")
            return result

        monkeypatch.setattr(torch.optim.Adam, "step", spoilt)

    at(6, spoil)
    assert run_training(run) == 1
    assert "no numbers (in blocks.0.att.time_state); they were not saved" in failure(run).reason
    first_file_is_whole(run)
    assert not run.checkpoint(1).exists() and run.resume_steps() == [3]


def test_a_run_that_runs_away_is_warned_of_and_ended(make: Making, at: At) -> None:
    """From the 25th step on the loss, and with it the gradients, is a thousand times what it was."""
    run = make(epoch_steps=90)
    for step in range(25, 91):
        at(step, lambda: 1000.0)
    assert run_training(run) == 1
    assert ["step 27: training runs away" in e.text for e in of(events.Warned, run)] == [True]
    end = failure(run)
    assert end.reason.startswith("Training has run away since step 25: the loss is ")
    assert "gradients' norm" in end.reason and "learning rate" in end.reason
    assert of(events.Step, run)[-1].step == 73


# Memory


def test_a_full_gpu_is_told_with_what_takes_less(make: Making, at: At, monkeypatch: Any) -> None:
    run = make(micro_bsz=4)
    hidden = RWKV.hidden

    def out_of_memory() -> None:
        def full(*_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nx")

        monkeypatch.setattr(RWKV, "hidden", full)

    at(5, out_of_memory)
    assert run_training(run) == 1
    monkeypatch.setattr(RWKV, "hidden", hidden)
    end = failure(run)
    assert end.reason.startswith(
        "The memory of the GPU is full: CUDA out of memory. Tried to allocate 2.00 GiB"
    )
    order = ["grad_cp 1", "micro_bsz 1 with accumulate_grad_batches 4", "bf16", "quant int8", "smaller model"]
    places = [end.remedy.index(word) for word in order]
    assert places == sorted(places) and "OutOfMemoryError" in end.detail
    first_file_is_whole(run)


@pytest.mark.parametrize(("room", "fits"), [(1.2, True), (100, True), (0.1, False)])
def test_a_full_gpu_is_told_with_what_fits(
    room: float, fits: bool, make: Making, at: At, monkeypatch: Any
) -> None:
    """`room` is in units of what the run needs with one row at a time; with 100 it should not have failed, so
    that the arithmetic is known to be too low."""
    run = make(micro_bsz=4, precision="bf16", ctx_len=64, epoch_count=1)
    tiny = TrainSettings(my_testing="x070", n_layer=2, n_embd=64, ctx_len=64, micro_bsz=1, grad_cp=1)
    need = needed(tiny)
    assert need is not None
    free = int(room * need.total)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free - 1000, 1 << 40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 1000)

    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    at(1, out_of_memory)
    assert run_training(run) == 1
    end = failure(run)
    if not fits:
        assert end.fix == {"grad_cp": "1"} and end.remedy.startswith("What takes less")
        return
    assert end.fix == {"grad_cp": "1", "micro_bsz": "1", "accumulate_grad_batches": "4"}
    assert end.remedy.startswith(
        "Set grad_cp 1 (the same result, a third slower) and micro_bsz 1 with accumulate_grad_batches 4 (the"
    )
    told = float(end.remedy.partition("takes about ")[2].partition(" GB")[0]) * 1e9
    assert need.total * 0.99 < told < 0.91 * free and f"GB of the {free / 1e9:.3g} GB" in end.remedy


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("CUDA error: out of memory\nmore"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), ""),
    ],
)
def test_a_gpu_that_is_full_says_so_in_several_ways(error: Exception, cause: str, make: Making) -> None:
    told = failed(error, make())
    assert (told.cause or "") == cause and ("GPU is full" in told.reason) == bool(cause)


def test_only_what_would_change_something_is_advised() -> None:
    least = TrainSettings(grad_cp=2, micro_bsz=1, precision="bf16", quant="nf4", ctx_len=128)
    assert savings(least) == [] and advice(least).endswith("first: a smaller model.")
    full = TrainSettings(train_type="none", lr_init=1e-4, grad_cp=2, micro_bsz=2, ctx_len=512)
    assert [saving.changes for saving in savings(full)] == [
        {"micro_bsz": "1", "accumulate_grad_batches": "2"}, {"peft": "lora", "train_type": "auto"},
        {"ctx_len": "256"},
    ]  # fmt: skip
    for saving in savings(TrainSettings(micro_bsz=4, precision="fp32", grad_cp=0)):
        changed = TrainSettings.model_validate({"micro_bsz": 4, "precision": "fp32", **saving.changes})
        assert saving.changes not in [s.changes for s in savings(changed)]


def test_what_waits_in_the_hosts_memory_is_a_saving_of_a_gpu() -> None:
    """Of two changes of one parameter the last is told; what saves nothing where it is to run is not."""
    s = TrainSettings(my_testing="x070", n_layer=32, n_embd=4096, ctx_len=16384, grad_cp=0, quant="nf4")
    assert [saving.changes["grad_cp"] for saving in savings(s)[:2]] == ["1", "2"]
    found = what_fits(s, 14e9)
    assert found is not None and found[1] == {"grad_cp": "2"} and "grad_cp 1" not in found[0]
    host = what_fits(s, 14e9, needed_of_host)
    assert host is not None and host[1]["grad_cp"] == "1" and "ctx_len" in host[1]
    on_cpu = s.model_copy(update={"accelerator": "cpu"})
    assert {"grad_cp": "2"} not in [saving.changes for saving in savings(on_cpu)]


@pytest.mark.parametrize("content", ["", "\n \n"], ids=["no bytes", "blank lines"])
def test_data_without_documents_are_told(make: Making, content: str, tmp_path: Path) -> None:
    data = tmp_path / "empty.jsonl"
    data.write_text(content)
    run = make(data_file=data, data_type="jsonl")
    assert run_training(run) == 1
    assert f"{data} holds no documents." in failure(run).reason and not list(run.path.glob("*.pth"))


def _groups(root: Path, kind: str, count: int) -> None:
    """A file system in which the kernel counts what it ends: one of its two kinds of groups, or none."""
    files = {
        "v2": ("0::/mine\n", "sys/fs/cgroup/mine/memory.events", f"low 0\noom 2\noom_kill {count}\n"),
        "v1": ("4:memory:/mine\n", "sys/fs/cgroup/memory/memory.oom_control", f"oom_kill {count}\n"),
        "none": ("0::/\n", "proc/vmstat", f"nr_free_pages 7\noom_kill {count}\n"),
    }  # fmt: skip
    group, name, text = files[kind]
    for path, content in ((root / "proc/self/cgroup", group), (root / name, text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("kind", "where"),
    [("v2", "in its memory group"), ("v1", "in its memory group"), ("none", "on this")],
)
def test_a_process_that_the_kernel_ended_for_lack_of_memory_is_told_as_such(
    kind: str, where: str, make: Making, tmp_path: Path, monkeypatch: Any
) -> None:
    """The counts are made up: a test cannot make the kernel run out of memory."""
    run, root = make(), tmp_path / "root"
    _groups(root, kind, 3)
    now = OomKills.now
    monkeypatch.setattr(OomKills, "now", lambda: now(root))
    run.record_process("run", forked_and_gone())
    assert run.oom_kills() == now(root) and not short_of_memory(run)
    assert "memory" not in ending_of(summarise("run", run))
    _groups(root, kind, 4)
    said = ending_of(summarise("run", run))
    assert "died before its first step" in said and "`rwkv-tune resume run`" in said
    assert f"Most likely the kernel killed it {said.partition('killed it ')[2]}" in said
    assert f"since the run began that has happened once {where}" in said and "grad_cp 1 (" in said
    found = diagnose("died", RunModel(), "words", run.read_settings(), shortage(run, "cpu"))
    assert found is not None and "kernel" in found.cause and found.changes == (("grad_cp", "1"),)
    owner = run.owner()
    assert owner is not None
    run.record_process("run", Process(owner.pid, owner.started, "another boot"))
    _groups(root, kind, 5)
    assert not short_of_memory(run)  # the counts began anew with the machine


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A memory group within that of the test, in which the kernel holds processes to LIMIT bytes."""
    kinds = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().split())
    if "memory" in kinds:
        root, most = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    else:
        root, most = Path("/sys/fs/cgroup"), "memory.max"
    made = root / kinds.get("memory", kinds.get("", "")).lstrip("/") / f"rwkv-tune-{os.getpid()}"
    try:
        made.mkdir()
        (made / most).write_text(str(LIMIT))
    except OSError:
        pytest.skip("there is no memory group here, or not the right to make one")
    try:
        yield made
    finally:
        for pid in (made / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        while (made / "cgroup.procs").read_text():
            time.sleep(0.05)
        made.rmdir()


LIMIT = 900 << 20


@pytest.mark.soak
def test_the_kernel_ends_a_run_that_takes_too_much(make: Making, group: Path) -> None:
    """For real: nothing but the group's limit is made up. The settings that it advises are taken and fit."""
    run = make(micro_bsz=256, ctx_len=512, data_type="dummy", epoch_steps=1, epoch_count=1, grad_cp=0)

    def train() -> int:
        def enter() -> None:
            (group / "cgroup.procs").write_text("0")

        words = [sys.executable, "-m", "engine", "train", str(run.path)]
        return subprocess.run(words, preexec_fn=enter, capture_output=True, check=False).returncode

    assert train() == -signal.SIGKILL
    lacked = shortage(run, "cpu")
    assert lacked is not None and "has happened once in its memory group" in lacked.said
    assert lacked.remedy.startswith("Set grad_cp 1 (") and f"of the {LIMIT / 1e9:.3g} GB" in lacked.remedy
    assert "Most likely the kernel killed it" in ending_of(summarise("run", run))
    settings = TrainSettings.model_validate(run.read_settings().model_dump() | lacked.changes)
    run.settings.write_text(render_yaml(settings, "run"))
    assert train() == 0, lacked


def forked_and_gone() -> Process:
    """A process that was killed."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    found = Process.of(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return found


# A full disk


def test_a_disk_that_is_full_when_saving_ends_the_run_and_keeps_the_last_file(make: Making, at: At) -> None:
    run = make()
    at(6, lambda: limited(20_000))  # a state of 33 kB
    assert forked(lambda: run_training(run)) == 1
    end = failure(run)
    assert end.reason == f"Cannot write {run.checkpoint(1)} (File too large)."
    first_file_is_whole(run)
    assert not run.checkpoint(1).exists() and run.resume_steps() == [3]


def test_a_disk_too_full_for_resuming_ends_nothing(make: Making, at: At) -> None:
    run = make()
    at(6, lambda: limited(60_000))  # the point has the optimizer's two moments, too
    assert forked(lambda: run_training(run)) == 0
    (warned,) = of(events.Warned, run)
    assert "resume-6.pt (File too large)" in warned.text and run.resume_steps() == [3]
    assert run.checkpoint(1).exists() and not list(run.path.glob(".*.part"))


def test_events_and_logs_wait_for_a_full_disk(make: Making, at: At) -> None:
    """From the middle of a line on nothing can be written for some steps; then all is told, in order."""
    run = make(epoch_steps=8, epoch_count=1)
    at(3, lambda: limited(run.events.stat().st_size + 100))
    at(6, lambda: limited(resource.RLIM_INFINITY))
    assert forked(lambda: run_training(run)) == 0
    lines = run.events.read_bytes().splitlines()
    assert len(lines) == len(read(run))  # no line is torn
    assert [e.step for e in of(events.Step, run)] == list(range(1, 9))
    assert isinstance(read(run)[-1], events.Finished)


def test_a_disk_that_stays_full_ends_the_run(tmp_path: Path) -> None:
    def act() -> int:
        writer = EventWriter(tmp_path / "events.ndjson")
        limited(0)
        writer(events.Log(text="x" * (3 << 20)))
        try:
            writer(events.Log(text="x" * (3 << 20)))
        except UserError as error:
            writer.close()
            return 7 if "File too large" in error.message and "resume" in error.remedy else 8
        return 9

    assert forked(act) == 7


def test_an_engine_log_on_a_full_disk_hides_no_failure(make: Making, at: At) -> None:
    run = make()
    at(2, lambda: 1 / 0)

    def act() -> int:
        run.log.write_text("x" * 9000)
        sys.stderr = run.log.open("a")
        limited(9000)
        with pytest.raises(OSError, match="large"):
            say("y", error=True)
        os._exit(run_training(run))

    assert forked(act) == 1
    assert "ZeroDivisionError: division by zero" in failure(run).reason


def test_a_disk_too_full_to_start_leaves_nothing_behind(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    paths = UserPaths.under(tmp_path / "user")
    settings = TrainSettings(load_model=tiny_model, data_file=tiny_data, proj_dir=tmp_path / "run")

    def act() -> int:
        paths.runs.mkdir(parents=True)
        for size in (0, 60, 100):  # in the list of runs, the claim, the settings
            limited(size)
            try:
                launch(settings, paths)
                return 8
            except UserError as error:
                if "File too large" not in error.message:
                    return 9
        return 7

    assert forked(act) == 7
    assert not list(paths.runs.iterdir()) and not list((tmp_path / "run").iterdir())


# Broken packages


@pytest.mark.parametrize(
    ("package", "flags", "without"),
    [
        ("bitsandbytes", {"quant": "nf4"}, "set quant none"),
        ("peft", {"peft": "lora", "lr_init": 1e-4, "lr_final": 0}, "set peft state, which needs no package"),
        ("wandb", {"wandb": "project"}, "leave wandb empty"),
    ],
)
def test_a_broken_package_is_named_with_the_way_without(
    package: str, flags: dict[str, Any], without: str, make: Making, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise OSError('libcudart.so.99: cannot open')\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    run = make(**flags)
    assert run_training(run) == 1
    end = failure(run)
    assert end.reason == f"The package {package} does not work here (OSError: libcudart.so.99: cannot open)."
    assert end.remedy.endswith(f", or {without}.") and f"--force-reinstall {package}" in end.remedy


def test_bitsandbytes_without_its_library_is_named(make: Making, monkeypatch: Any) -> None:
    import bitsandbytes.functional as bnb

    def unusable(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Attempted to use bitsandbytes native library but it's not available.\nlong story")

    monkeypatch.setattr(bnb, "quantize_4bit", unusable)
    run = make(quant="nf4")
    assert run_training(run) == 1
    assert (
        "The package bitsandbytes does not work here (RuntimeError: Attempted to use" in failure(run).reason
    )


# Clocks, data and states


@pytest.mark.parametrize("jump", [-3e7, 3e7])
def test_a_clock_that_is_set_meanwhile_changes_no_duration(
    jump: float, make: Making, at: At, monkeypatch: Any
) -> None:
    run, clock = make(), time.time
    at(2, lambda: monkeypatch.setattr(time, "time", lambda: clock() + jump))
    began = time.monotonic()
    assert run_training(run) == 0
    took = time.monotonic() - began
    model = RunModel()
    for event in read(run):
        model.apply(event)
        assert event.t == pytest.approx(clock(), abs=took + 1)
        assert model.seconds_left is None or 0 <= model.seconds_left < took
    assert 0 < model.elapsed <= took
    end = read(run)[-1]
    assert isinstance(end, events.Finished) and 0 < end.seconds <= took


def test_fewer_documents_than_a_batch_are_told_and_trained_on(make: Making, tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    run = make(data_file=tmp_path / "two.jsonl", data_type="jsonl", micro_bsz=5)
    assert run_training(run) == 0
    (warned,) = of(events.Warned, run)
    assert "2 documents" in warned.text and "micro_bsz 5" in warned.text


def test_a_state_for_another_model_names_both_shapes(tiny_model: Path, tmp_path: Path) -> None:
    from engine.checkpoints.merge import merge

    state = {f"blocks.{i}.att.time_state": torch.zeros(2, 64, 64) for i in range(3)}
    save_tensors(state, tmp_path / "s.pth")
    for act in (
        lambda: load_model(tiny_model, state=tmp_path / "s.pth"),
        lambda: merge(tiny_model, tmp_path / "out.pth", state=tmp_path / "s.pth"),
    ):
        with pytest.raises(UserError) as error:
            act()
        said = error.value.message
        assert "3 layers of 2 heads of 64" in said or "3 layers of 2x64x64" in said
        assert "model 2 of 1 of 64" in said or "2 layers of 1x64x64" in said
    assert not (tmp_path / "out.pth").exists()
