from __future__ import annotations

from pathlib import Path

import pytest
from textual.events import Key
from textual.pilot import Pilot

from engine.contract.settings import train_params
from rwkv_tui.screens.help import HelpScreen
from rwkv_tui.screens.wizard.parameters import ParametersPane
from rwkv_tui.screens.wizard.wizard import WizardScreen
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.field import Field
from rwkv_tui.widgets.trail import Trail
from tests.tui.conftest import MakeApp, says, until, write


async def to_form(pilot: Pilot[None]) -> None:
    await pilot.press("ctrl+n", "ctrl+n")
    await until(pilot, lambda: pilot.app.screen.query(Field))


def field(pilot: Pilot[None], name: str) -> Field:
    return pilot.app.screen.query_one(f"#field-{name}", Field)


async def test_every_parameter_has_a_field_and_its_advice(make_app: MakeApp) -> None:
    async with make_app(start="wizard").run_test() as pilot:
        await to_form(pilot)
        assert says(pilot, train_params()["micro_bsz"].advice)
        await pilot.press("down")
        assert says(pilot, train_params()["ctx_len"].advice)
        assert not pilot.app.screen.query("#field-loss_mask")
        await pilot.press("f3")
        assert {f.param.name for f in pilot.app.screen.query(Field)} == set(train_params())
        field(pilot, "loss_mask").editor.focus()
        await pilot.press("right")
        assert says(pilot, train_params()["loss_mask"].advice)
        await pilot.press("f3")
        assert not field(pilot, "loss_mask").region
        assert field(pilot, "micro_bsz").editor.has_focus


@pytest.mark.parametrize("began", ["Data", "Parameters"])
async def test_keys_that_arrive_at_once_do_what_they_do_in_turn(make_app: MakeApp, began: str) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        if began == "Parameters":
            await to_form(pilot)
        keys = [*(["ctrl+n", "ctrl+n"] if began == "Data" else []), "f4", *"warmup", "enter", "ctrl+u", "7"]
        keys += ["f4", *"early", "enter", "ctrl+u", "2", "5"]
        for key in keys:
            app.post_message(Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: app.draft.text("early_stop") == "25")
        changed = {name: app.draft.text(name) for name in train_params() if app.draft.is_changed(name)}
        assert changed == {"warmup_steps": "7", "early_stop": "25"}


async def test_mistakes_are_said_below_the_field_while_typing(make_app: MakeApp) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        await to_form(pilot)
        await pilot.press("end", "x")
        assert says(pilot, "'1x' is not a whole number")
        assert field(pilot, "micro_bsz").has_class("-wrong")
        await pilot.press("backspace", "6")
        assert not field(pilot, "micro_bsz").has_class("-wrong")
        assert says(pilot, "80,000 documents")
        field(pilot, "lr_final").editor.focus()
        await pilot.press("ctrl+u", "2")
        assert says(pilot, "2 is above lr_init 1")


async def test_a_question_mark_is_help_where_only_numbers_are_typed(make_app: MakeApp) -> None:
    async with make_app(start="wizard").run_test() as pilot:
        await to_form(pilot)
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, HelpScreen)
        await pilot.press("escape")
        assert field(pilot, "micro_bsz").editor.value == "1"
        await pilot.press("f3")
        prompt = field(pilot, "sample_prompt").editor
        prompt.focus()
        await pilot.press("W", "h", "y", "question_mark")
        assert prompt.value == "Why?"


async def test_a_choice_this_release_cannot_honour_is_refused_in_place(make_app: MakeApp) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        await to_form(pilot)
        await pilot.press("f3")
        field(pilot, "data_type").editor.focus()
        await pilot.press("left")
        assert app.draft.text("data_type") == "wds_img"
        assert says(pilot, "images are not text")


async def test_the_curve_follows_the_schedule(make_app: MakeApp) -> None:
    async with make_app(start="wizard").run_test(size=(120, 40)) as pilot:
        await to_form(pilot)
        chart = pilot.app.screen.query_one("#rate", LineChart)
        await pilot.pause()
        before = [chart.render_line(y).text for y in range(chart.size.height)]
        field(pilot, "lr_schedule").editor.focus()
        await pilot.press("right")
        await pilot.pause()
        assert [chart.render_line(y).text for y in range(chart.size.height)] != before


async def test_moving_back_and_forth_loses_nothing(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        await write(pilot, "half/a/pa")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: pilot.app.screen.query("#Model"))
        pilot.app.screen.query_one("#Model #path").focus()
        await write(pilot, "mod")
        await pilot.press("alt+right")
        await until(pilot, lambda: pilot.app.screen.query(ParametersPane))
        await pilot.press("end", "q", "f3")
        field(pilot, "sample_prompt").editor.focus()
        await write(pilot, "why")
        await pilot.press("alt+left", "ctrl+p", "escape", "escape")  # out of the line, then out of the wizard
        assert not isinstance(pilot.app.screen, WizardScreen)
        await pilot.press("n")
        screen = pilot.app.screen
        assert isinstance(screen, WizardScreen)
        assert screen.query_one("#Data #path").value == "half/a/pa"  # type: ignore[attr-defined]
        assert screen.query_one("#Model #path").value == "mod"  # type: ignore[attr-defined]
        await pilot.press("escape", "3")
        assert field(pilot, "micro_bsz").editor.value == "1q"
        assert field(pilot, "sample_prompt").editor.value == "why"
        assert field(pilot, "micro_bsz").has_class("-wrong")


async def test_help_lists_the_keys_of_the_screen_underneath(make_app: MakeApp) -> None:
    async with make_app(start="wizard").run_test() as pilot:
        await to_form(pilot)
        await pilot.press("f1")
        assert says(pilot, "Show all")
        assert says(pilot, "ctrl+n, alt+right")
        await pilot.press("escape")
        await pilot.press("escape", "question_mark")  # out of the line, where ? is a character
        assert says(pilot, "ctrl+n, ], alt+right")


async def test_the_mouse_chooses_what_can_be_chosen(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard", draft={"lr_schedule": "wsd"})
    async with app.run_test(size=(120, 40)) as pilot:
        trail = len(" 1 Data › 2 Model › ")
        await pilot.click(Trail, offset=(trail + 2, 0))
        await until(pilot, lambda: app.screen.query(Field))
        await pilot.click("#field-lr_init Label")
        assert field(pilot, "lr_init").editor.has_focus
        schedules = train_params()["lr_schedule"].choices
        at = schedules.index("wsd")
        for x, value in ((1, schedules[at - 1]), (8, "wsd")):
            await pilot.click("#field-lr_schedule Choice", offset=(x, 0))
            assert app.draft.text("lr_schedule") == value
        await pilot.click(Trail, offset=(len(" 1 Data › 2 Model › ! Parameters › 4 Rev"), 0))
        await until(pilot, lambda: app.screen.query("#problems"))
        await pilot.click("#problems", offset=(3, 0))
        await until(pilot, lambda: app.screen.query("#Model"))


async def test_arrows_and_the_keys_of_vi_move_on_every_step(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        await until(pilot, lambda: says(pilot, "Files here (1)"))
        await pilot.press("down", "tab")
        seen = [app.focused and app.focused.id]
        for _key in range(2):
            await pilot.press("up" if _key else "down")
            seen.append(app.focused and app.focused.id)
        assert seen == ["fields", "template-file", "fields"]
        await pilot.press("escape", "3")
        await until(pilot, lambda: app.screen.query(Field))
        await pilot.press("escape", "j")
        assert field(pilot, "load_model").editor.has_focus
        field(pilot, "lr_schedule").editor.focus()
        await pilot.press("l", "k")
        assert field(pilot, "warmup_steps").editor.has_focus
        assert app.draft.text("lr_schedule") == train_params()["lr_schedule"].choices[1]
