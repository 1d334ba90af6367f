"""Runs of several processes, started as the program starts them, and the same runs by one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract import events
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.train.run import run_training
from tests.fakes import forged

STEPS = 8


FULL: dict[str, Any] = {"train_type": "none", "lr_init": 1e-3, "lr_final": 1e-4}


LORA: dict[str, Any] = {
    "peft": "lora", "peft_config": {"r": 4}, "train_parts": "time,ln", "lr_init": 1e-2, "lr_final": 1e-3,
}  # fmt: skip


Making = Callable[..., RunDir]


@pytest.fixture(scope="module")
def make(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Making]:
    """Makes the folder of a run of two epochs over documents of many lengths, of which answers are learned;
    three steps accumulate, and one kind of document is held out. None of them outlives the module."""
    made: list[RunDir] = []

    def folder(**more: Any) -> RunDir:
        run = RunDir(tmp_path_factory.mktemp("runs") / "run")
        run.claim("run")
        values: dict[str, Any] = {
            "load_model": tiny_model, "data_file": tiny_data, "proj_dir": run.path, "ctx_len": 32,
            "micro_bsz": 2, "epoch_steps": STEPS // 2, "epoch_count": 2, "accumulate_grad_batches": 3,
            "precision": "fp32", "accelerator": "cpu", "grad_cp": 0, "sample_len": 2, "eval_docs": 5,
            "loss_mask": "qa", "val_split": 1, "warmup_steps": 2, **more,
        }  # fmt: skip
        run.settings.write_text(render_yaml(TrainSettings(**values), "run"))
        made.append(run)
        return run

    yield folder
    for run in made:
        if (owner := run.owner()) is not None and owner != Process.current():
            owner.kill()


def start(run: RunDir, *more: str) -> subprocess.Popen[bytes]:
    """The engine as the program starts it: a session of its own, its words in its log."""
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", "train", str(run.path), *more],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    run.record_process("run", Process.of(process.pid))
    return process


def forge(run: RunDir, **env: str) -> forged.Engine:
    """The same without the time that two interpreters take to import what they need."""
    process = forged.start(["train", str(run.path)], run.log, env)
    run.record_process("run", Process.of(process.pid))
    return process


def train(run: RunDir, **env: str) -> int:
    process = forge(run, **env)
    try:
        return process.wait(timeout=240)
    finally:
        process.kill()


def read(run: RunDir) -> list[events.Event]:
    return [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def of(kind: type[Any], run: RunDir) -> list[Any]:
    return [e for e in read(run) if isinstance(e, kind)]


def steps(run: RunDir) -> dict[int, events.Step]:
    """The last word on each step."""
    return {e.step: e for e in of(events.Step, run)}


@pytest.fixture(scope="module")
def alone(make: Making) -> Callable[..., RunDir]:
    """The same run by one process with twice the micro_bsz; each kind once."""
    done: dict[str, RunDir] = {}

    def run_of(**more: Any) -> RunDir:
        key = repr(more)
        if key not in done:
            done[key] = make(**{"micro_bsz": 4, **more})
            assert run_training(done[key]) == 0
        return done[key]

    return run_of


def same(run: RunDir, alone: RunDir, tolerance: float = 1e-5) -> None:
    """Every loss, norm, rate and measurement, and the file at the end."""
    found, wanted = steps(run), steps(alone)
    assert list(found) == list(wanted) == list(range(1, STEPS + 1))
    for step, one in wanted.items():
        other = found[step]
        assert one.loss is not None and other.loss == pytest.approx(one.loss, abs=tolerance)
        assert (other.lr, other.tokens) == (one.lr, one.tokens)
        if one.grad_norm is not None:
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    for kind in (events.Evaluated, events.Validated):
        losses = [e.loss for e in of(kind, alone)]
        assert [e.loss for e in of(kind, run)] == pytest.approx(losses, abs=tolerance) and len(losses) == 2
    sample, expected = of(events.Sample, run)[0], of(events.Sample, alone)[0]
    assert (sample.prompt, sample.base) == (expected.prompt, expected.base)
    plan, other_plan = of(events.Started, run)[0].plan, of(events.Started, alone)[0].plan
    assert plan.devices == 2 and plan.passes == other_plan.passes
    files = [torch.load(r.checkpoint(1), weights_only=True) for r in (run, alone)]
    assert files[0].keys() == files[1].keys()
    for name, tensor in files[0].items():
        torch.testing.assert_close(tensor, files[1][name], rtol=0, atol=1e-4)
    assert sorted(p.name for p in run.path.glob("rwkv-*")) == sorted(
        p.name for p in alone.path.glob("rwkv-*")
    )


SOAK = pytest.mark.soak


def wait_for(
    ready: Callable[[], bool], process: subprocess.Popen[bytes] | forged.Engine, run: RunDir
) -> None:
    deadline = time.monotonic() + 120
    while not (run.events.exists() and ready()):
        assert process.poll() is None and time.monotonic() < deadline, run.log.read_text()[-3000:]
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
