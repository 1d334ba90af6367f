"""What goes wrong on bad days ends in one clear sentence, and what was saved before stays as it was."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints.save import save_tensors
from engine.contract import events
from engine.contract.errors import UserError
from engine.models import load_model
from engine.train.run import run_training
from rwkv_tui.services.run_tail import RunModel
from tests.train.bad_days.conftest import At, Making, failure, first_file_is_whole, of, read
from tests.train.test_run import CALL, told

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

    monkeypatch.setattr(bnb, "get_4bit_type", unusable)
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


@pytest.mark.parametrize("content", ["", "\n \n"], ids=["no bytes", "blank lines"])
def test_data_without_documents_are_told(make: Making, content: str, tmp_path: Path) -> None:
    data = tmp_path / "empty.jsonl"
    data.write_text(content)
    run = make(data_file=data, data_type="jsonl")
    assert run_training(run) == 1
    assert f"{data} holds no documents." in failure(run).reason and not list(run.path.glob("*.pth"))
