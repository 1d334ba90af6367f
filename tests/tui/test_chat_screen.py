"""The conversation, on the screen and with the real engine behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from textual.pilot import Pilot
from textual.widgets import Input

from engine.checkpoints.save import save_tensors
from engine.contract import events as ev
from engine.contract.errors import UserError
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.contract.talk import Sampling
from rwkv_tui.screens.chat import Answer, ChatScreen
from rwkv_tui.screens.done import DoneScreen
from rwkv_tui.services.results import chat_flags
from tests.fakes import stories
from tests.tui.conftest import MakeApp, says, until, write

QUIET = Sampling(top_p=0.0, frequency=0.0, length=6)


def finished(folder: Path, base: Path, **settings: object) -> RunDir:
    """A run that has saved one state of the model."""
    run = stories.new_run(folder, "emoji", stories.GONE)
    stories.tell(run, [*stories.opening(), *stories.ending(folder)])
    rng = torch.Generator().manual_seed(3)
    save_tensors(
        {f"blocks.{i}.att.time_state": torch.randn(1, 64, 64, generator=rng) for i in range(2)},
        run.checkpoint(4),
    )
    run.settings.write_text(render_yaml(TrainSettings(load_model=base, proj_dir=folder, **settings), "emoji"))
    return run


def answers(pilot: Pilot[None]) -> list[Answer]:
    return list(pilot.app.screen.query(Answer))


def quiet(pilot: Pilot[None]) -> bool:
    return all("a second" in answer.note for answer in answers(pilot))


async def test_from_a_finished_run_to_a_conversation(make_app: MakeApp, place: Path) -> None:
    run = finished(place / "run", place / "models" / "tiny.pth", data_file=Path("gone"))
    app = make_app(start="")
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(DoneScreen("emoji", run))
        await pilot.press("a")
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        screen.sampling = QUIET
        await until(pilot, lambda: says(pilot, "answers: tuned"))
        await write(pilot, "Hi")
        await pilot.press("enter")
        await until(pilot, lambda: len(answers(pilot)) == 1 and quiet(pilot))
        first = answers(pilot)[0].text
        assert first and "6 tokens" in answers(pilot)[0].note

        await pilot.press("f2", "ctrl+r")  # both, and the same question again
        await until(pilot, lambda: len(answers(pilot)) == 3 and quiet(pilot))
        base, tuned = (answer.text for answer in answers(pilot)[1:])
        assert tuned == first != base

        await pilot.press("f3")
        assert says(pilot, "How an answer is drawn")
        app.screen.query_one("#length", Input).value = "x"
        await pilot.press("enter")
        assert says(pilot, "length: x is out of range or no number")
        app.screen.query_one("#length", Input).value = "1000000"
        await pilot.press("enter")
        assert not says(pilot, "How an answer is drawn")
        await pilot.press("f2")  # the base alone, for ever
        await write(pilot, "And?")
        await pilot.press("enter")
        await until(pilot, lambda: len(answers(pilot)) == 4 and answers(pilot)[3].text)
        await write(pilot, "Wait")
        await pilot.press("enter")
        assert app.screen.query_one("#question", Input).value == "Wait"  # nothing typed is lost
        await pilot.press("escape")
        await until(pilot, lambda: "stopped" in answers(pilot)[3].note)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not answers(pilot))
        await pilot.press("escape")
        assert isinstance(app.screen, DoneScreen)


async def test_what_the_engine_refuses_is_shown(make_app: MakeApp, place: Path) -> None:
    app = make_app(chat=(["--model", str(place / "pairs.jsonl")], QUIET))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: says(pilot, "no model"))
        await write(pilot, "Hi")
        await pilot.press("enter")
        assert app.screen.query_one("#question", Input).value == "Hi"
        await pilot.press("f2", "ctrl+r", "escape")
        await pilot.pause()
    assert not app.is_running


def test_the_flags_of_a_run(tmp_path: Path, tiny_model: Path) -> None:
    run = finished(tmp_path / "run", tiny_model, data_file=Path("gone"), quant="int8")
    state = str(run.checkpoint(4))
    assert chat_flags(run) == ["--model", str(tiny_model), "--state", state, "--quant", "int8"]
    lora = finished(tmp_path / "lora", tiny_model, data_file=Path("gone"), train_type="none", peft="lora")
    (lora.path / "rwkv-4").mkdir()
    weights = lora.path / "rwkv-4" / "adapter_model.safetensors"
    weights.touch()
    stories.tell(lora, [ev.Checkpoint(t=stories.T0, path=str(weights), epoch=4, step=9)])
    assert chat_flags(lora) == ["--model", str(tiny_model), "--adapter", str(weights.parent)]
    full = finished(tmp_path / "full", tiny_model, data_file=Path("gone"), train_type="none")
    assert chat_flags(full) == ["--model", str(full.checkpoint(4))]
    full.checkpoint(4).unlink()
    with pytest.raises(UserError, match="no trained file yet"):
        chat_flags(full)
