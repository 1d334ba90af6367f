"""A run that was killed and goes on does what it would have done if left alone, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.paths import UserPaths
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir, RunList
from engine.contract.settings import TrainSettings
from engine.ops import choice
from engine.ops.choice import choose
from engine.ops.parts import TORCH, Parts
from engine.ops.registry import Need, Selected
from engine.train import module, prepare
from engine.train.infctx import backward_in_chunks
from engine.train.resume import Remaining, newest_point, sha256
from engine.train.run import run_training
from engine.train.writer import EventWriter
from rwkv_tui.services.launch import resume
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import find_run, summarise
from tests.conftest import Command

STEPS = 10
Making = Callable[..., RunDir]


@pytest.fixture(scope="module")
def make(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Making:
    """Makes the folder of a run of two epochs, accumulating 3 steps."""

    def folder(**more: Any) -> RunDir:
        run = RunDir(tmp_path_factory.mktemp("runs") / "run")
        run.claim("run")
        values: dict[str, Any] = {
            "load_model": tiny_model, "data_file": tiny_data, "proj_dir": run.path, "ctx_len": 16,
            "micro_bsz": 2, "epoch_steps": STEPS // 2, "epoch_count": 2, "accumulate_grad_batches": 3,
            "precision": "fp32", "accelerator": "cpu", "grad_cp": 0, "sample_len": 0, "eval_docs": 2,
            "save_minutes": 0, **more,
        }  # fmt: skip
        run.settings.write_text(render_yaml(TrainSettings(**values), "run"))
        return run

    return folder


def read(run: RunDir) -> list[events.Event]:
    return [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def log_lines(run: RunDir) -> list[str]:
    return run.train_log.read_text().splitlines()


def fold(run: RunDir) -> RunModel:
    model = RunModel()
    for event in read(run):
        model.apply(event)
    return model


def killed(run: RunDir, last: Callable[[events.Event], bool]) -> None:
    """Trains in a process that is killed right after the event that `last` accepts."""
    child = os.fork()
    if not child:
        write = EventWriter.__call__

        def write_and_die(self: EventWriter, event: events.Event) -> None:
            write(self, event)
            if last(event):
                os.kill(os.getpid(), signal.SIGKILL)

        EventWriter.__call__ = write_and_die  # type: ignore[method-assign]
        run_training(run)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def at_step(step: int) -> Callable[[events.Event], bool]:
    return lambda event: isinstance(event, events.Step) and event.step == step


def same(run: RunDir, alone: RunDir) -> None:
    """Curves, epochs, logs and trained files are those of the run left alone."""
    one, other = fold(run), fold(alone)
    assert list(one.loss.xs) == list(range(1, STEPS + 1))
    for series in ("loss", "loss_smooth", "lr", "grad_norm"):
        assert getattr(one, series).ys.tobytes() == getattr(other, series).ys.tobytes(), series
    assert (one.tokens, one.epoch_marks) == (other.tokens, other.epoch_marks)
    epochs = [e.loss for e in read(run) if isinstance(e, events.Epoch)]
    assert epochs[-1] == [e.loss for e in read(alone) if isinstance(e, events.Epoch)][-1]
    lines, expected = ([(*line.split()[:4], line.split()[-1]) for line in log_lines(r)] for r in (run, alone))
    assert lines == expected
    end, wanted = one.closing, other.closing
    assert isinstance(end, events.Finished) and isinstance(wanted, events.Finished)
    assert (end.status, end.step, end.loss_before) == (wanted.status, wanted.step, wanted.loss_before)
    assert end.loss_after == wanted.loss_after
    assert [Path(f).name for f in end.files] == [Path(f).name for f in wanted.files]
    for name in ("rwkv-0.pth", "rwkv-1.pth"):
        assert sha256(run.path / name) == sha256(alone.path / name)


class Fused(Parts):
    """In the place of the fused parts, which need a GPU."""

    name = "fused"


@pytest.mark.parametrize("op", ["auto", "reference"])
@pytest.mark.parametrize("parts", [TORCH, Fused()], ids=lambda parts: parts.name)
def test_a_resumed_run_keeps_the_operator_and_the_parts_it_began_with(
    parts: Parts, op: str, make: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is faster by now: chosen anew it would be chunked, or reference with torch's parts."""
    asked: list[str] = []

    def fastest(op: str, need: Need, cache: Path | None) -> Selected:
        return replace(choose("reference", need, cache), parts=parts)

    def again(op: str, need: Need, cache: Path | None) -> Selected:
        asked.append(op)
        return choose(op, need, cache)

    run = make(epoch_steps=1, accumulate_grad_batches=1, op=op)
    with monkeypatch.context() as first:
        first.setattr(prepare, "choose", fastest)
        killed(run, at_step(2))
    monkeypatch.setattr(prepare, "choose", again)
    monkeypatch.setattr(choice, "_parts_of", lambda name, need: {p.name: p for p in (TORCH, parts)}[name])
    assert run_training(run) == 0
    assert asked == [f"reference {parts.name}"]
    assert [e.plan.op for e in read(run) if isinstance(e, events.Started)] == ["reference"] * 2
    assert newest_point(run, lambda event: None).document["op"] == asked[0]


def test_a_resumed_run_does_without_what_works_no_more_and_says_so(
    make: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(op: str, need: Need, cache: Path | None) -> Selected:
        return replace(choose(op, need, cache), parts=Fused())

    run = make(epoch_steps=1, accumulate_grad_batches=1)
    with monkeypatch.context() as first:
        first.setattr(prepare, "choose", fused)
        killed(run, at_step(2))
    assert run_training(run) == 0
    (warned,) = (e.text for e in read(run) if isinstance(e, events.Warned))
    assert warned == (
        "op: the fused element-wise parts do not work here: it needs an NVIDIA GPU. "
        "The run began so and goes on with what works."
    )


def test_an_operator_asked_for_since_is_taken(make: Making) -> None:
    run = make(epoch_steps=1, accumulate_grad_batches=1)
    killed(run, at_step(2))
    run.settings.write_text(render_yaml(run.read_settings().model_copy(update={"op": "reference"}), "run"))
    assert run_training(run) == 0
    assert [e.plan.op for e in read(run) if isinstance(e, events.Started)] == ["chunked", "reference"]


@pytest.fixture(scope="module")
def alone(make: Making) -> RunDir:
    run = make()
    assert run_training(run) == 0
    return run


@pytest.mark.parametrize(
    ("minutes", "step"),
    [*((1e-9, step) for step in range(1, STEPS + 1)), *((0, step) for step in (3, 5, 6, 10))],
)
def test_a_run_killed_at_any_step_goes_on_exactly(
    minutes: float, step: int, make: Making, alone: RunDir
) -> None:
    """Saved after each step, and at the end of epochs only."""
    run = make(save_minutes=minutes)
    killed(run, at_step(step))
    assert run_training(run) == 0
    same(run, alone)
    (resumed,) = (e for e in read(run) if isinstance(e, events.Resumed))
    # the step's own save comes after it is told
    assert resumed.step == (step - 1 if minutes else (step - 1) // 5 * 5)


@pytest.mark.parametrize("kind", [events.Evaluated, events.Started, events.Epoch, events.Checkpoint])
def test_a_run_killed_between_its_steps_goes_on_exactly(
    kind: type[events.Event], make: Making, alone: RunDir
) -> None:
    run = make()
    killed(run, lambda event: isinstance(event, kind))
    assert run_training(run) == 0
    same(run, alone)


def test_a_run_killed_again_and_again_goes_on_exactly(make: Making, alone: RunDir) -> None:
    run = make(save_minutes=1e-9)
    for step in (2, 3, 6, 9):
        killed(run, at_step(step))
    killed(run, lambda event: isinstance(event, events.Evaluated) and event.when == "after")
    assert run_training(run) == 0
    same(run, alone)
    assert sorted(p.name for p in run.path.glob("resume-*")) == [
        "resume-10.pt", "resume-10.sha256", "resume-9.pt", "resume-9.sha256",
    ]  # fmt: skip
    assert subprocess.run(["sha256sum", "-c", "resume-10.sha256"], cwd=run.path, check=False).returncode == 0


@pytest.mark.parametrize("step", [4, 5])
def test_a_stopped_run_goes_on_from_its_last_step(step: int, make: Making, alone: RunDir) -> None:
    run = make()
    child = os.fork()
    if not child:
        write = EventWriter.__call__

        def write_and_ask(self: EventWriter, event: events.Event) -> None:
            if at_step(step)(event):
                os.kill(os.getpid(), signal.SIGTERM)
            write(self, event)

        EventWriter.__call__ = write_and_ask  # type: ignore[method-assign]
        os._exit(run_training(run))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    end = read(run)[-1]
    assert isinstance(end, events.Finished) and (end.status, end.step) == ("stopped", step)
    assert summarise("run", run).status == "stopped"
    assert run_training(run) == 0
    same(run, alone)
    assert [e.step for e in read(run) if isinstance(e, events.Resumed)] == [step]
    assert summarise("run", run).step == STEPS


def test_ctrl_c_in_the_middle_of_saving_spoils_nothing(make: Making, alone: RunDir) -> None:
    """Each file is being written when both signals come, twice."""
    run = make()
    child = os.fork()
    if not child:
        save = torch.save

        def save_and_ask(*given: Any, **more: Any) -> None:
            save(*given, **more)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)

        torch.save = save_and_ask
        os._exit(run_training(run))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    told = read(run)
    end, saved = told[-1], {e.path: e.sha256 for e in told if isinstance(e, events.Checkpoint)}
    assert isinstance(end, events.Finished) and (end.status, end.step) == ("stopped", 6)
    assert saved == {path: sha256(Path(path)) for path in saved} and run.resume_steps() == [6, 5]
    assert not list(run.path.glob(".*.part"))
    assert run_training(run) == 0
    same(run, alone)


def test_full_tuning_goes_on_exactly(make: Making) -> None:
    flags = {
        "train_type": "none", "lr_init": 1e-3, "lr_final": 1e-4, "weight_decay": 0.1, "keep_checkpoints": 1,
        "eval_docs": 0, "epoch_steps": 2,
    }  # fmt: skip
    whole, run = make(**flags), make(**flags)
    assert run_training(whole) == 0
    killed(run, at_step(3))
    assert run_training(run) == 0
    assert sha256(run.checkpoint(1)) == sha256(whole.checkpoint(1))
    for folder in (run, whole):  # the older one is pruned
        assert [p.name for p in folder.path.glob("rwkv-*.pth")] == ["rwkv-1.pth"]


def test_an_adapter_trained_in_chunks_goes_on_exactly(make: Making) -> None:
    flags: dict[str, Any] = {
        "peft": "lora", "peft_config": {"r": 2, "lora_dropout": 0.2}, "train_parts": "ln",
        "train_type": "infctx", "chunk_ctx": 6, "lr_init": 1e-3, "lr_final": 1e-4, "eval_docs": 0,
    }  # fmt: skip
    whole, run = make(**flags), make(save_minutes=1e-9, **flags)
    assert run_training(whole) == 0
    for step in (2, 8):
        killed(run, at_step(step))
    assert run_training(run) == 0
    assert sha256(run.checkpoint(1)) == sha256(whole.checkpoint(1))


def test_a_run_that_early_stop_has_ended_does_not_train_on(make: Making) -> None:
    """Killed when its last step is saved, but before its last word."""
    flags: dict[str, Any] = {
        "val_split": 1, "early_stop": 2, "lr_init": 3.0, "lr_final": 3.0, "epoch_count": 30, "epoch_steps": 4,
        "accumulate_grad_batches": 1, "warmup_steps": 0,
    }  # fmt: skip
    whole, run = make(**flags), make(**flags)
    assert run_training(whole) == 0
    killed(run, lambda event: isinstance(event, events.Evaluated) and event.when == "after")
    assert run_training(run) == 0
    end, wanted = read(run)[-1], read(whole)[-1]
    assert isinstance(end, events.Finished) and isinstance(wanted, events.Finished)
    assert (end.status, end.step, end.loss_after) == ("finished", wanted.step, wanted.loss_after)
    assert wanted.step < 120


def test_what_a_step_draws_at_random_goes_on_too(make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(
        model: Any, tokens: Any, targets: Any, chunk_ctx: int, backward: Any, *more: Any
    ) -> torch.Tensor:
        factor = torch.rand(())
        return factor * backward_in_chunks(
            model, tokens, targets, chunk_ctx, lambda loss: backward(loss * factor), *more
        )

    monkeypatch.setattr(module, "backward_in_chunks", noisy)
    whole, run = make(), make(save_minutes=1e-9)
    assert run_training(whole) == 0
    killed(run, at_step(3))
    killed(run, at_step(6))
    assert run_training(run) == 0
    same(run, whole)


def test_the_loss_scale_of_fp16_goes_on_too(make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale comes down from where all overflows and grows again; a run is killed on the way."""
    monkeypatch.setattr(
        module, "make_scaler",
        lambda model, settings: torch.amp.GradScaler("cpu", init_scale=2.0**26, growth_interval=2),
    )  # fmt: skip
    flags: dict[str, Any] = {"precision": "fp16", "accumulate_grad_batches": 1}
    whole, run = make(**flags), make(save_minutes=1e-9, **flags)
    assert run_training(whole) == 0
    for step in (2, 7):
        killed(run, at_step(step))
    assert run_training(run) == 0
    same(run, whole)
    skipped = [e.text for e in read(whole) if isinstance(e, events.Log) and "overflowed" in e.text]
    assert 2 <= len(skipped) <= 8


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_point_falls_back_to_the_one_before(harm: str, make: Making, alone: RunDir) -> None:
    run = make(save_minutes=1e-9)
    killed(run, at_step(8))
    path = run.resume_file(7)
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        half = len(whole) // 2
        flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
        path.write_bytes(flipped if harm == "flipped" else whole[:half])
    assert run_training(run) == 0
    same(run, alone)
    told = read(run)
    (warned,) = (e for e in told if isinstance(e, events.Warned))
    assert "resume-7.pt is damaged" in warned.text and "step 6" in warned.text
    assert [e.step for e in told if isinstance(e, events.Resumed)] == [6]


def test_when_all_points_are_damaged_it_begins_anew_and_says_so(make: Making, alone: RunDir) -> None:
    run = make()
    killed(run, at_step(7))
    run.resume_file(5).write_bytes(b"nothing")
    assert run_training(run) == 0
    same(run, alone)
    assert any("the beginning" in e.text for e in read(run) if isinstance(e, events.Warned))


def test_a_file_half_written_is_removed(make: Making, alone: RunDir) -> None:
    run = make()
    killed(run, at_step(7))
    left = [run.path / ".rwkv-1.pth.77.part", run.path / ".resume-10.pt.77.part", run.resume_file(7)]
    for path in left:
        path.write_bytes(b"half")
    assert run_training(run) == 0
    same(run, alone)
    assert not any(path.exists() for path in left)
    assert not any(isinstance(e, events.Warned) for e in read(run))  # it never counted as saved


def test_a_new_run_leaves_a_log_that_was_there(make: Making) -> None:
    run = make(epoch_steps=1, epoch_count=1)
    run.train_log.write_text("mine\n")
    assert run_training(run) == 0
    lines = log_lines(run)
    assert lines[0] == "mine" and len(lines) == 2


def test_a_checkpoint_has_its_checksum(alone: RunDir) -> None:
    saved = [e for e in read(alone) if isinstance(e, events.Checkpoint)]
    assert [(Path(e.path).name, e.sha256) for e in saved] == [
        (name, sha256(alone.path / name)) for name in ("rwkv-0.pth", "rwkv-1.pth")
    ]


def test_a_run_whose_method_was_changed_is_refused(make: Making) -> None:
    run = make()
    killed(run, at_step(7))
    settings = run.read_settings().model_copy(update={"train_type": "none", "lr_init": 1e-4, "lr_final": 0})
    run.settings.write_text(render_yaml(settings, "run"))
    assert run_training(run) == 1
    end = read(run)[-1]
    assert isinstance(end, events.Failed) and "other parameters" in end.reason


def test_a_torn_last_line_is_closed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.events.write_bytes(events.dump_event(events.Log(text="whole")).encode() + b'{"type":"st')
    writer = EventWriter(run.events)
    writer(events.Log(text="after"))
    writer.close()
    assert [e.text for e in read(run) if isinstance(e, events.Log)] == ["whole", "after"]


def test_two_processes_cannot_train_one_run(make: Making, alone: RunDir) -> None:
    before = alone.events.read_bytes()
    writer = EventWriter(alone.events)
    with pytest.raises(UserError, match="alive"):
        run_training(alone)
    writer.close()
    assert alone.events.read_bytes() == before


def test_the_rest_of_an_epoch() -> None:
    class Order:
        def __init__(self) -> None:
            self.epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Any:
            return iter(range(10 * self.epoch, 10 * self.epoch + 10))

    rest = Remaining(Order(), 2, 4)
    assert list(rest) == list(rest) == [24, 25, 26, 27, 28, 29]
    rest.set_epoch(3)
    assert list(rest) == list(range(30, 40))


# The command


def test_the_command_resumes_a_killed_run(
    tiny_model: Path, tiny_data: Path, rwkv_tune: Command, home: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "folder" / "long")
    command = [
        sys.executable, "-m", "rwkv_tui", "train", "--load_model", tiny_model, "--data_file", tiny_data,
        "--proj_dir", run.path, "--epoch_steps=40", "--epoch_count=2", "--eval_docs=0", "--sample_len=0",
        "--precision=fp32", "--accelerator=cpu", "--ctx_len=16", "--grad_cp=0",
    ]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 90
    while not run.checkpoint(0).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    refused = rwkv_tune("resume", "lo")
    owner = run.owner()
    assert owner is not None
    owner.kill()
    assert process.wait() in (0, 1)
    process.communicate()
    if summarise("long", run).status == "died":
        assert refused.returncode == 1 and "nothing to resume" in refused.stderr
        again = rwkv_tune("train", *command[4:])
        assert again.returncode == 1 and "rwkv-tune resume" in again.stderr
        done = rwkv_tune("resume")
        assert done.returncode == 0, done.stderr
        assert "going on after step 40" in done.stdout and "finished after 80 steps" in done.stdout
        assert "going on" in done.stdout.splitlines()[0]  # nothing of what was told before
    model = fold(run)
    assert list(model.loss.xs) == list(range(1, 81))
    over = rwkv_tune("resume", run.path)
    assert over.returncode == 1 and over.stderr == (
        f"rwkv-tune: The run long has finished. Its files are in {run.path}.\n"
    )


def test_a_run_is_found_by_name_beginning_or_folder(tmp_path: Path) -> None:
    paths = UserPaths.under(tmp_path / "user")
    with pytest.raises(UserError, match="no runs yet"):
        find_run(paths.runs, "")
    runs = RunList(paths.runs)
    for age, name in enumerate(("alpha", "alpine", "al")):
        (tmp_path / name).mkdir()
        runs.add(tmp_path / name)
        os.utime(paths.runs / f"{name}.json", (age, age))
    assert find_run(paths.runs, "")[0] == "al"
    assert find_run(paths.runs, "al")[0] == "al"
    assert find_run(paths.runs, "alph") == ("alpha", RunDir(tmp_path / "alpha"))
    assert find_run(paths.runs, str(tmp_path / "alpine"))[0] == "alpine"
    RunDir(tmp_path / "elsewhere").claim("unlisted")
    assert find_run(paths.runs, str(tmp_path / "elsewhere"))[0] == "unlisted"
    with pytest.raises(UserError, match="Several runs"):
        find_run(paths.runs, "alp")
    with pytest.raises(UserError, match="There is no run b"):
        find_run(paths.runs, "b")


def test_a_living_run_is_not_resumed(make: Making, tmp_path: Path) -> None:
    run = make()
    run.record_process("run", Process.current())
    with pytest.raises(UserError, match="The run run is starting"):
        resume("run", run, RunList(tmp_path))
    assert run.owner() == Process.current()
