from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList

from engine.contract.paths import UserPaths
from engine.contract.presets import PresetStore
from engine.contract.rundir import RunList
from engine.contract.settings import TrainSettings
from rwkv_tui.app import TuneApp
from rwkv_tui.draft import Draft
from rwkv_tui.screens.wizard.presets import PresetScreen
from rwkv_tui.screens.wizard.wizard import WizardScreen
from rwkv_tui.widgets.review_text import TOPICS, sentences
from tests.tui.conftest import MakeApp, says, until, write

READY = {"load_model": "models/tiny.pth", "data_file": "pairs", "ctx_len": 16, "precision": "fp32"}


async def to_review(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "4")
    await until(pilot, lambda: pilot.app.screen.query("#Review #command"))


def paths(pilot: Pilot[None]) -> UserPaths:
    assert isinstance(pilot.app, TuneApp)
    return pilot.app.paths


async def test_what_will_happen_is_told(make_app: MakeApp, pair: Path) -> None:
    async with make_app(start="wizard", draft={**READY, "warmup_steps": 9000}).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "24 documents"))
        await to_review(pilot)
        assert says(pilot, "the initial state of models/tiny.pth")
        assert says(pilot, "pairs; ")
        assert says(pilot, "5 epochs of 1,000 steps with 1 document each, 208 passes over the data.")
        assert says(pilot, "runs/tiny-pairs-1: a state file rwkv-N.pth every epoch")
        assert says(pilot, "the run has only 5000 steps")
        assert says(pilot, "rwkv-tune train \\\n  --load_model models/tiny.pth \\\n")
        assert pilot.app.focused is pilot.app.screen.query_one("#launch")


@pytest.mark.parametrize(("more", "said"), [
    ({}, "the CPU in fp32."),
    ({"devices": 2, "strategy": "deepspeed_stage_2"},
     "the CPU in fp32. 2 processes train together (devices); strategy deepspeed_stage_2."),
    ({"devices": 2, "num_nodes": 3}, "the CPU in fp32. 6 processes train together: devices 2 on each of "
     "num_nodes 3; strategy auto."),
])  # fmt: skip
def test_how_processes_share_the_work_is_told(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    values = {"load_model": "a.pth", "data_file": "b", "precision": "fp32", "accelerator": "cpu",
              "grad_cp": 0, "main_address": "one", **more}  # fmt: skip
    told = sentences(TrainSettings.model_validate(values), Draft(), tmp_path)
    assert told[TOPICS.index("With")] == said


def test_windows_are_told_as_such(tmp_path: Path) -> None:
    s = TrainSettings(load_model=Path("a.pth"), data_file=Path("b"), dataload="get", micro_bsz=3)
    told = sentences(s, Draft(), tmp_path)
    assert told[TOPICS.index("On")] == "b, in windows of 512 tokens; all of a document is learned."
    assert "with 3 windows each" in told[TOPICS.index("For")]


async def test_what_is_missing_is_listed_and_leads_to_its_field(make_app: MakeApp, pair: Path) -> None:
    draft = {**READY, "load_model": "", "epoch_steps": "0"}
    async with make_app(start="wizard", draft=draft).run_test() as pilot:
        await to_review(pilot)
        problems = pilot.app.screen.query_one("#problems", OptionList)
        assert "epoch_steps" in str(problems.get_option_at_index(0).prompt)
        assert pilot.app.screen.query_one("#launch", Button).disabled
        await pilot.press("l")
        assert says(pilot, "Not ready yet")
        assert RunList(paths(pilot).runs).all() == []
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.focused and pilot.app.focused.id != "problems")
        assert isinstance(pilot.app.focused, Input)
        assert pilot.app.focused.value == "0"


async def test_a_refused_launch_says_why_and_registers_nothing(make_app: MakeApp, pair: Path) -> None:
    (pair.parent / "out").mkdir()
    (pair.parent / "out" / "run.json").write_text('{"name": "before"}')
    app = make_app(start="wizard", draft={**READY, "proj_dir": "out"})
    async with app.run_test(notifications=True) as pilot:
        await to_review(pilot)
        await pilot.press("f5")
        await until(pilot, lambda: app._notifications)
        assert "already holds the run 'before'" in next(iter(app._notifications)).message
        assert isinstance(app.screen, WizardScreen)
        assert RunList(app.paths.runs).all() == []


async def test_a_preset_is_saved_loaded_and_deleted(make_app: MakeApp, pair: Path) -> None:
    app = make_app(start="wizard", draft={**READY, "epoch_steps": 77})
    store = PresetStore(app.paths.presets)
    async with app.run_test() as pilot:
        await to_review(pilot)
        await pilot.press("f6")
        await write(pilot, "mine")
        await pilot.press("enter")
        await until(pilot, lambda: any(p.name == "mine" for p in store.all()))
        values = store.get("mine").values
        assert values["epoch_steps"] == 77
        assert values["load_model"] == str(pair.parent / "models" / "tiny.pth")
        assert "proj_dir" not in values

        app.draft.put("epoch_steps", "5")
        await pilot.press("f2")
        assert says(pilot, "epoch_steps: 77")
        await pilot.press("enter")
        await until(pilot, lambda: app.draft.text("epoch_steps") == "77")

        await pilot.press("f2", "d")
        assert says(pilot, "Delete your preset mine?")
        await pilot.press("n")
        assert any(p.name == "mine" for p in store.all())
        await pilot.press("d", "y")
        await until(pilot, lambda: not any(p.name == "mine" for p in store.all()))


async def test_a_broken_preset_says_key_and_line_and_is_not_loaded(make_app: MakeApp) -> None:
    app = make_app(start="wizard")
    app.paths.presets.mkdir(parents=True)
    (app.paths.presets / "broken.yaml").write_text("# Mine.\n\nepoch_steps: 5\nepoch_stops: 7\n")
    async with app.run_test() as pilot:
        await pilot.press("f2")
        assert says(pilot, "epoch_stops: line 4: no such parameter; did you mean epoch_steps?")
        await pilot.press("enter")
        assert isinstance(app.screen, PresetScreen)
        await pilot.press("escape")
        assert app.draft.text("epoch_steps") == "1000"


async def test_a_new_run_gets_a_folder_of_its_own(make_app: MakeApp, pair: Path) -> None:
    """Also when the wizard is opened again where it was left to launch the one before."""
    app = make_app(start="wizard", draft={k: v for k, v in READY.items() if k != "proj_dir"})
    async with app.run_test() as pilot:
        await to_review(pilot)
        before = app.draft.text("proj_dir")
        app.open_home()
        (pair.parent / before).mkdir(parents=True)
        await until(pilot, lambda: not isinstance(app.screen, WizardScreen))
        app.open_wizard()
        await until(pilot, lambda: app.draft.text("proj_dir") not in ("", before))
        await until(pilot, lambda: says(pilot, app.draft.text("proj_dir")))
