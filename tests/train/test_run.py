"""Runs of a 2-layer model through the real command, process and trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.__main__ import main
from engine.contract import events
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.models import load_model
from engine.train.run import run_training
from rwkv_tui.services.launch import STOPPING
from tests.conftest import Command

SMALL = {
    "ctx_len": 32,
    "micro_bsz": 4,
    "precision": "fp32",
    "accelerator": "cpu",
    "grad_cp": 0,
    "sample_len": 4,
}
FLAGS = [str(word) for name, value in SMALL.items() for word in (f"--{name}", value)]
CALL = 'printf "%s %s" "$RWKV_TUNE_STATUS" "$RWKV_TUNE_LOSS" > told.part; mv told.part told'


def train(rwkv_tune: Command, model: Path, data: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return rwkv_tune("train", "--load_model", model, "--data_file", data, *FLAGS, *more)


def read(run: RunDir) -> list[events.Event]:
    return [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def of(kind: type[Any], found: list[events.Event]) -> list[Any]:
    return [e for e in found if isinstance(e, kind)]


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of three epochs, as the command leaves it behind."""
    folder = tmp_path_factory.mktemp("finished")
    command = [
        sys.executable, "-m", "rwkv_tui", "train", "--load_model", tiny_model, "--data_file", tiny_data,
        "--proj_dir", "run one", "--epoch_count", "3", "--epoch_steps", "10", "--epoch_save", "2", *FLAGS,
        f"--on_finish={CALL}",
    ]  # fmt: skip
    env = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "loss after tuning" in done.stdout and "\x1b" not in done.stdout
    return RunDir(folder / "run one")


def test_the_loss_falls(finished: RunDir) -> None:
    told = read(finished)
    before, after = of(events.Evaluated, told)
    assert after.loss < before.loss - 0.3
    losses = [e.loss for e in of(events.Epoch, told)]
    assert losses[-1] < losses[0]
    end = told[-1]
    assert isinstance(end, events.Finished) and end.status == "finished" and end.step == 30
    assert (end.loss_before, end.loss_after) == (before.loss, after.loss)


def test_the_end_calls_with_the_loss_after_tuning(finished: RunDir) -> None:
    after = of(events.Evaluated, read(finished))[1]
    assert told(finished) == f"finished {after.loss:.6g}"


def told(run: RunDir) -> str:
    """What the command of on_finish was given; it is not waited for by the run."""
    deadline = time.monotonic() + 10
    while not (run.path / "told").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return (run.path / "told").read_text()


def test_the_plan_is_true(finished: RunDir) -> None:
    plan = of(events.Started, read(finished))[0].plan
    assert (plan.version, plan.n_layer, plan.n_embd, plan.head_size) == ("x070", 2, 64, 64)
    assert plan.trainable == 2 * 1 * 64 * 64
    assert plan.documents == 24 and plan.steps == 30 and plan.passes == 5.0
    assert plan.op == "chunked"
    (said,) = [e.text for e in of(events.Log, read(finished)) if "op auto" in e.text]
    assert said.startswith("op auto is chunked. Not triton: it needs an NVIDIA GPU; ")
    assert all(f"{name}: {reason}" in said for name, reason in plan.op_reasons.items()) and plan.op_reasons


def test_the_learning_rate_follows_the_schedule(finished: RunDir) -> None:
    rates = [e.lr for e in of(events.Step, read(finished))]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[10]
    assert rates[-1] == pytest.approx(0.01, abs=0.01)


def test_files_are_what_other_programs_expect(finished: RunDir) -> None:
    # epoch_save 2 of three epochs: 0, 2, and the last one, which is 2
    assert sorted(p.name for p in finished.path.glob("*.pth")) == ["rwkv-0.pth", "rwkv-2.pth"]
    state = torch.load(finished.checkpoint(2), weights_only=True)
    assert {k: tuple(t.shape) for k, t in state.items()} == {
        f"blocks.{i}.att.time_state": (1, 64, 64) for i in range(2)
    }
    assert all(t.dtype == torch.float32 and t.abs().max() > 0 for t in state.values())
    lines = finished.train_log.read_text().splitlines()
    assert len(lines) == 3
    epoch, loss, perplexity, rate, day, clock, current = lines[2].split()
    assert (epoch, current) == ("2", "2") and float(perplexity) > float(loss) > 0 and 0 < float(rate) < 1
    assert "-" in day and ":" in clock
    assert finished.read_settings().epoch_save == 2


def test_the_saved_state_gives_the_loss_that_was_told(
    finished: RunDir, tiny_model: Path, tiny_data: Path, rwkv_tune: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By the command, and of the base by its job."""
    end = read(finished)[-1]
    assert isinstance(end, events.Finished) and end.loss_after is not None
    words = ["--model", str(tiny_model), "--data", str(tiny_data), "--ctx-len=32", "--json"]
    done = rwkv_tune("eval", *words, "--state", finished.checkpoint(2))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == pytest.approx(end.loss_after, abs=1e-4)
    assert main(["evaluate", *words]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(end.loss_before, abs=1e-4)


def test_a_folder_that_holds_a_run_is_refused(
    finished: RunDir, tiny_model: Path, tiny_data: Path, rwkv_tune: Command
) -> None:
    before = {p: p.read_bytes() for p in finished.path.iterdir() if p.is_file()}
    done = train(rwkv_tune, tiny_model, tiny_data, "--proj_dir", finished.path)
    assert done.returncode == 1 and "already holds the run" in done.stderr and done.stderr.count("\n") == 1
    assert {p: p.read_bytes() for p in finished.path.iterdir() if p.is_file()} == before


def train_here(folder: Path, model: Path, data: Path, **more: Any) -> RunDir:
    """The same in this process, where the time that an engine takes to start would tell nothing more."""
    run = RunDir(folder)
    run.claim(folder.name)
    values = {**SMALL, "load_model": model, "data_file": data, "proj_dir": folder, **more}
    run.settings.write_text(render_yaml(TrainSettings.model_validate(values), "A test."), encoding="utf-8")
    before = {number: signal.getsignal(number) for number in STOPPING}  # a run takes them over
    try:
        assert run_training(run) == 0, read(run)[-1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return run


def test_the_same_seed_repeats_a_run_to_the_bit(
    tiny_model: Path, tiny_data: Path, rwkv_tune: Command, tmp_path: Path
) -> None:
    """In another process, too, which orders its sets in another way."""
    flags = ("--proj_dir", tmp_path / "a", "--epoch_count=1", "--epoch_steps=4", "--sample_len=0")
    assert train(rwkv_tune, tiny_model, tiny_data, *flags, "--random_seed=5").returncode == 0
    short = {"epoch_count": 1, "epoch_steps": 4, "sample_len": 0}
    for name, seed in (("b", 5), ("c", 6)):
        train_here(tmp_path / name, tiny_model, tiny_data, **short, random_seed=seed)
    a, b, c = (torch.load(tmp_path / n / "rwkv-0.pth", weights_only=True) for n in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


PLAIN = {"epoch_count": 1, "epoch_steps": 4, "sample_len": 0, "warmup_steps": 0, "lr_schedule": "constant"}


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train_here(tmp_path_factory.mktemp("plain") / "run", tiny_model, tiny_data, **PLAIN)


@pytest.mark.parametrize(
    "changed",
    [
        {"grad_cp": 1},
        {"accumulate_grad_batches": 2, "micro_bsz": 2, "epoch_steps": 8},
        {"op": "reference"},
    ],
)
def test_settings_that_must_not_change_the_result(
    changed: dict[str, Any], plain: RunDir, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = train_here(tmp_path / "run", tiny_model, tiny_data, **{**PLAIN, **changed})
    one, other = read(plain)[-1], read(run)[-1]
    assert isinstance(one, events.Finished) and isinstance(other, events.Finished)
    assert other.loss_after == pytest.approx(one.loss_after, abs=2e-2)


def test_full_tuning_saves_a_model(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    how = {"train_type": "none", "lr_init": 1e-3, "lr_final": 1e-4, "epoch_steps": 12, "epoch_count": 1}
    run = train_here(tmp_path / "run", tiny_model, tiny_data, **how)
    end = read(run)[-1]
    assert isinstance(end, events.Finished) and end.loss_after is not None and end.loss_before is not None
    assert end.loss_after < end.loss_before - 0.3
    assert load_model(run.checkpoint(0))(torch.tensor([[1, 2]])).shape == (1, 2, 65536)


@pytest.fixture
def long_run(
    tiny_model: Path, tiny_data: Path, home: Path, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], RunDir]]:
    """A run that would take many minutes, and the command that started it; steps have been taken."""
    run = RunDir(tmp_path / "run")
    command = [
        sys.executable, "-m", "rwkv_tui", "train", "--json", "--load_model", tiny_model,
        "--data_file", tiny_data, "--proj_dir", run.path, "--epoch_steps=100000", "--eval_docs=0", *FLAGS,
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if isinstance(events.parse_event(line), events.Step):
                break
        yield process, run
    finally:
        for leftover in (run.owner(), Process.of(process.pid) if process.poll() is None else None):
            if leftover:
                leftover.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_finishes_its_step_and_saves(
    number: signal.Signals, long_run: tuple[subprocess.Popen[str], RunDir]
) -> None:
    process, run = long_run
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    told = read(run)
    end, steps = told[-1], of(events.Step, told)
    assert isinstance(end, events.Finished) and end.status == "stopped" and end.step == steps[-1].step
    saved = of(events.Checkpoint, told)[-1]
    assert saved.step == end.step and len(torch.load(saved.path, weights_only=True)) == 2
    assert out.splitlines()[-1] == run.events.read_text().splitlines()[-1]


def test_the_engine_can_be_stopped_directly(long_run: tuple[subprocess.Popen[str], RunDir]) -> None:
    process, run = long_run
    owner = run.owner()
    assert owner is not None and owner.alive() and os.getsid(owner.pid) == owner.pid
    owner.interrupt()
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_killing_the_command_leaves_the_run(long_run: tuple[subprocess.Popen[str], RunDir]) -> None:
    process, run = long_run
    process.kill()
    process.wait()
    owner, seen = run.owner(), len(of(events.Step, read(run)))
    deadline = time.monotonic() + 60
    while len(of(events.Step, read(run))) <= seen + 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert owner is not None and owner.alive() and len(of(events.Step, read(run))) > seen + 3


def test_a_killed_engine_is_told_as_such(long_run: tuple[subprocess.Popen[str], RunDir]) -> None:
    process, run = long_run
    owner = run.owner()
    assert owner is not None
    owner.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "died at step" in err and "rwkv-tune resume run" in err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--n_layer", 3), "n_layer: 3 contradicts the model file, which has 2"),
        (("--vocab_size", 100), "vocab_size: 100 contradicts"),
        (("--accelerator", "gpu"), "accelerator: gpu was asked for"),
        (
            ("--train_type", "none", "--lr_init", 1e15, "--lr_final", 1e15, "--warmup_steps", 0),
            "Lower lr_init",
        ),
    ],
)
def test_a_failed_run_says_why_in_one_line(
    flags: tuple[object, ...],
    says: str,
    tiny_model: Path,
    tiny_data: Path,
    rwkv_tune: Command,
    tmp_path: Path,
) -> None:
    if "gpu" in flags and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    base = ("--proj_dir", tmp_path / "run", "--epoch_steps", 20)
    done = train(rwkv_tune, tiny_model, tiny_data, *base, *flags)
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1
    assert isinstance(read(RunDir(tmp_path / "run"))[-1], events.Failed)
