"""What the form tells while one types: consequences, what differs from the preset; undo, search, import."""

from __future__ import annotations

from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from engine.contract.events import Event, Started, Step, dump_event
from engine.contract.presets import PresetStore
from engine.contract.rundir import RunDir, RunList
from engine.contract.settings import train_params
from engine.estimate import state_memory
from rwkv_tui.consequences import consequences
from rwkv_tui.draft import Draft
from rwkv_tui.plain import size
from rwkv_tui.screens.wizard.import_script import ImportScreen
from rwkv_tui.screens.wizard.parameters import ParametersPane
from rwkv_tui.screens.wizard.presets import PresetScreen
from rwkv_tui.screens.wizard.search import find_params
from rwkv_tui.services.speed import Kind, Speed, last_speed
from tests.tui.conftest import NOW, MakeApp, says, until, write
from tests.tui.test_draft import DATA, MODEL
from tests.tui.test_home import PLAN
from tests.tui.test_wizard_form import field, to_form

SCRIPT = """#!/bin/bash
micro_bsz=4
python train.py --load_model base.pth --data_file d --proj_dir out \\
  --micro_bsz $micro_bsz --ctx_len 256 --peft state --lr_init 1 --lr_final 0.01 --grad_cp 1
"""


def told(draft: Draft, name: str, speed: Speed | None = None) -> dict[str, str]:
    return {c.kind: c.text for c in consequences(name, draft, speed)}


def test_time_follows_the_steps_and_the_last_run() -> None:
    draft = Draft({"epoch_steps": 100, "epoch_count": 6, "micro_bsz": 1})
    assert "known after a run" in told(draft, "epoch_steps")["time"]
    speed = Speed(0.5, 512, "emoji")
    assert told(draft, "epoch_steps", speed)["time"].startswith("about 5:00, from 0.5 s a step of 512 tokens")
    draft.put("micro_bsz", "4")
    assert told(draft, "micro_bsz", speed)["time"].startswith("about 20:00")
    assert told(draft, "wandb", speed) == {}


def test_memory_follows_what_is_typed_where_it_can_be_told() -> None:
    draft = Draft({"ctx_len": 512})
    assert "memory" not in told(draft, "ctx_len")
    draft.take_model("m.pth", MODEL)
    before = told(draft, "ctx_len")["memory"]
    need = state_memory("x070", 12, 768, quant="fp16", ctx_len=4096)
    draft.put("ctx_len", "4096")
    assert told(draft, "ctx_len")["memory"].startswith(f"about {size(need.total)} of a GPU") and before
    draft.put("grad_cp", "2")
    need = state_memory("x070", 12, 768, quant="fp16", ctx_len=4096, grad_cp=2)
    assert told(draft, "grad_cp")["memory"].startswith(f"about {size(need.total)} of a GPU")
    assert told(draft, "grad_cp")["memory"].endswith(f"and {size(need.away)} of the computer's")
    draft.put("peft", "lora")
    assert "memory" not in told(draft, "ctx_len")


def test_risks_are_said_of_their_field_and_of_the_data() -> None:
    draft = Draft({"lr_init": "5"})
    assert "more than a state usually bears" in told(draft, "lr_init")["risk"]
    assert told(draft, "lr_final") == {}
    draft = Draft({"epoch_steps": 1000, "epoch_count": 5, "ctx_len": 8})
    draft.take_data("d", DATA)
    assert told(draft, "epoch_count")["risk"].startswith("50 passes over the data")
    assert told(draft, "ctx_len")["risk"] == "documents are cut: the longest has 10 tokens"
    draft.put("epoch_steps", "10")
    draft.put("epoch_count", "1")
    assert told(draft, "epoch_steps")["risk"] == "90% of the data is never seen"


def add_measured_run(runs: Path, folder: Path, step_s: float, steps: int = 20) -> None:
    folder.mkdir(parents=True)
    run = RunDir(folder)
    RunList(runs).add(folder)
    events: list[Event] = [Started(t=NOW, name="r", pid=1, plan=PLAN)]
    events += [
        Step(t=NOW + n, step=n + 1, epoch=0, loss=2, loss_smooth=2, lr=1, kt_s=1, step_s=step_s,
             grad_norm=1, tokens=n) for n in range(steps)
    ]  # fmt: skip
    run.events.write_text("".join(map(dump_event, events)))


def test_the_speed_is_that_of_the_newest_run_of_the_same_kind(tmp_path: Path) -> None:
    kind = Kind("x070", 12, 768, "state")
    assert last_speed(tmp_path / "runs", kind) is None
    add_measured_run(tmp_path / "runs", tmp_path / "slow", 3)
    add_measured_run(tmp_path / "runs", tmp_path / "fast", 2)
    add_measured_run(tmp_path / "runs", tmp_path / "short", 1, steps=3)
    speed = last_speed(tmp_path / "runs", kind)
    assert speed is not None and (speed.step_s, speed.tokens, speed.name) == (2, 512, "fast")
    assert last_speed(tmp_path / "runs", kind._replace(method="lora")) is None


def test_changes_are_seen_and_undone_one_after_the_other() -> None:
    draft = Draft()
    draft.take_model("m.pth", MODEL)
    assert not any(map(draft.is_changed, train_params()))
    draft.load({"epoch_steps": 7, "lr_init": 0.5}, "mine")
    assert not any(map(draft.is_changed, train_params()))
    for text in ("8", "80", "800"):
        draft.edit("epoch_steps", text)
    draft.edit("lr_init", "0.50")
    assert draft.is_changed("epoch_steps") and not draft.is_changed("lr_init")
    draft.revert("epoch_steps")
    assert draft.text("epoch_steps") == "7"
    assert [draft.undo(), draft.text("epoch_steps")] == [["epoch_steps"], "800"]
    assert [draft.undo(), draft.text("lr_init")] == [["lr_init"], "0.5"]
    assert [draft.undo(), draft.text("epoch_steps")] == [["epoch_steps"], "7"]
    assert set(draft.undo()) == {"epoch_steps", "lr_init"} and draft.preset == ""
    assert (draft.text("epoch_steps"), draft.undo()) == ("1000", [])
    assert draft.text("load_model") == "m.pth"


def test_a_preset_is_told_by_what_it_would_change() -> None:
    draft = Draft({"load_model": "m.pth", "beta1": "0.5", "lr_init": "1.0", "ctx_len": ""})
    values = {"epoch_steps": 7, "lr_init": 1, "ctx_len": 512}
    assert draft.differences(values) == [("epoch_steps", "1000", "7"), ("beta1", "0.5", "0.9")]
    draft.load(values)
    assert draft.differences(values) == []


def test_search_finds_names_first_and_then_what_is_said() -> None:
    assert find_params("lr_")[0].name.startswith("lr_")
    names = [p.name for p in find_params("memory")]
    assert {"micro_bsz", "grad_cp", "quant", "chunk_ctx"} <= set(names)
    assert next(p.name for p in find_params("epoch save")) == "epoch_save"
    assert find_params("nonsuch") == [] and len(find_params("")) == len(train_params())


async def test_the_form_marks_tells_and_undoes(make_app: MakeApp, place: Path) -> None:
    draft = {"my_testing": "x070", "n_layer": 12, "n_embd": 768}
    app = make_app(start="wizard", draft=draft)
    add_measured_run(app.paths.runs, place / "before", 0.5)
    async with app.run_test() as pilot:
        await to_form(pilot)
        await until(
            pilot, lambda: says(pilot, "about 41:40, from 0.5 s a step of 512 tokens in the run before")
        )
        await pilot.press("end", "0")
        assert says(pilot, "about 6:56:40") and says(pilot, "•micro_bsz")
        assert says(pilot, "• by default: 1; Ctrl+R brings it back")
        await pilot.press("ctrl+r")
        assert field(pilot, "micro_bsz").editor.value == "1" and not says(pilot, "•micro_bsz")
        await pilot.press("ctrl+z", "ctrl+z")
        assert field(pilot, "micro_bsz").editor.value == "1"
        assert app.draft.undo() == []
        await pilot.press("slash")
        await write(pilot, "grad_cl")
        await pilot.press("enter")
        await until(pilot, lambda: app.focused is app.screen.query_one("#field-grad_clip Input"))
        await pilot.press("f4")
        await write(pilot, "nonsuch")
        await until(pilot, lambda: says(pilot, "No parameter has these words"))
        await pilot.press("escape")
        await pilot.press("ctrl+u", "0")
        await until(pilot, lambda: says(pilot, "a single odd batch can ruin the state"))


async def to_import(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: says(pilot, "Files here ("))
    await pilot.press("f2", "i")
    await until(pilot, lambda: isinstance(pilot.app.screen, ImportScreen))


async def test_a_script_is_imported_from_the_list_and_compared(make_app: MakeApp, place: Path) -> None:
    (place / "my state.sh").write_text(SCRIPT)
    (place / "wrong.sh").write_text(SCRIPT.replace("--ctx_len 256", "--ctx_len many"))
    app = make_app(start="wizard")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await to_import(pilot)
        line = app.screen.query_one(Input)
        line.value = "wrong.sh"
        await until(pilot, lambda: says(pilot, "'many' is not a whole number"))
        await pilot.press("enter")
        await until(pilot, lambda: app._notifications)
        assert isinstance(app.screen, ImportScreen) and not list(app.paths.presets.glob("*"))
        line.value = "my state.sh"
        await until(pilot, lambda: says(pilot, "micro_bsz: 4"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PresetScreen))
        options = app.screen.query_one("#presets", OptionList)
        assert "my-state" in str(options.get_option_at_index(options.highlighted or 0).prompt)
        await until(pilot, lambda: says(pilot, "512 → 256"))
        assert PresetStore(app.paths.presets).get("my-state").values["micro_bsz"] == 4
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.query(ParametersPane))
        assert app.draft.text("ctx_len") == "256" and app.draft.preset == "my-state"
        app.screen.query_one("#field-ctx_len Input", Input).focus()
        await pilot.press("end", "0", "ctrl+z")
        assert app.draft.text("ctx_len") == "256"
