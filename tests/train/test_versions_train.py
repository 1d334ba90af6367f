"""State tuning and full tuning of the older versions through the real trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checkpoints.inspect import inspect_state
from engine.checkpoints.save import load_tensors, save_tensors
from engine.contract import events
from engine.contract.check import require_settings
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.models import load_model
from engine.train.run import run_training
from tests.fakes import oracle
from tests.fakes.weights import random_weights

TOKENS = torch.arange(60, 90).view(1, 30)


@pytest.fixture(scope="module", params=["x052", "x060"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers of 4 heads of 16."""
    path = tmp_path_factory.mktemp("base") / "base.pth"
    save_tensors(random_weights(2, 64, 16, 65536, version), path)
    return path


def train(folder: Path, base: Path, data: Path, **more: object) -> tuple[RunDir, list[events.Event]]:
    """Runs the trainer in this process."""
    run = RunDir(folder)
    run.path.mkdir()
    settings = require_settings({
        "load_model": base, "data_file": data, "proj_dir": folder, "ctx_len": 32, "micro_bsz": 4,
        "precision": "fp32", "accelerator": "cpu", "grad_cp": True, "sample_len": 2, **more,
    })  # fmt: skip
    run.settings.write_text(render_yaml(settings, "a test"))
    assert run_training(run) == 0, run.events.read_text()[-2000:]
    return run, [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def losses(told: list[events.Event]) -> tuple[float, float]:
    """Before and after."""
    end = told[-1]
    assert isinstance(end, events.Finished)
    assert end.loss_before is not None and end.loss_after is not None
    return end.loss_before, end.loss_after


def test_a_tuned_state_lowers_the_loss_and_means_the_same_to_the_rwkv_package(
    version: str, base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run, told = train(tmp_path / "run", base, tiny_data, epoch_count=1, epoch_steps=12)
    before, after = losses(told)
    assert after < before - 0.1
    plan = next(e for e in told if isinstance(e, events.Started)).plan
    assert (plan.version, plan.head_size, plan.trainable) == (version, 16, 2 * 4 * 16 * 16)
    saved = run.checkpoint(0)
    state = load_tensors(saved)
    assert {k: tuple(t.shape) for k, t in state.items()} == {
        f"blocks.{i}.att.time_state": (4, 16, 16) for i in range(2)
    }
    assert (inspect_state(saved).n_head, inspect_state(saved).dtype) == (4, "float32")
    case = tmp_path / "case"
    for name, tensors in {"model": load_tensors(base), "state": state, "tokens": {"tokens": TOKENS}}.items():
        save_tensors(tensors, case / f"{name}.pth")
    oracle.ask(version, [case])
    with torch.no_grad():
        ours = load_model(base, saved)(TOKENS)
        turned = load_model(base, {k: t.mT for k, t in state.items()})(TOKENS)
    theirs = load_tensors(case / "logits.pth")
    assert (ours - theirs["state"]).abs().max() < 1e-4
    assert (ours - theirs["plain"]).abs().max() > 0.1
    assert (ours - turned).abs().max() > 0.1


def test_full_tuning_lowers_the_loss_and_saves_a_model(
    version: str, base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    more = {"epoch_count": 1, "epoch_steps": 10, "peft": "none", "train_type": "none", "lr_init": 1e-3}
    run, told = train(tmp_path / "run", base, tiny_data, lr_final=1e-3, **more)
    before, after = losses(told)
    assert after < before - 0.3
    saved, old = load_tensors(run.checkpoint(0)), load_tensors(base)
    assert {k: t.shape for k, t in saved.items()} == {k: t.shape for k, t in old.items()}
    assert all(not torch.equal(t, old[k]) for k, t in saved.items())
    assert load_model(run.checkpoint(0)).n_layer == 2
