"""What holds on every screen: looks, keys of one's own, the keys of vi, and the palette of commands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from textual.binding import Binding
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList

from rwkv_tui.keys import key_bindings, mistakes
from rwkv_tui.look import PLAIN_SIGNS, THEMES, _Signs, break_between_signs
from rwkv_tui.screens.help import HelpScreen
from rwkv_tui.screens.monitor import MonitorScreen
from rwkv_tui.screens.wizard.wizard import WizardScreen
from rwkv_tui.services.preferences import THEME_NAMES, Look, read_look
from tests.conftest import Command
from tests.fakes.terminal import Terminal
from tests.tui.conftest import MakeApp, says, until, write
from tests.tui.test_home import add_run, is_at

READY = {"load_model": "models/tiny.pth", "data_file": "pairs", "ctx_len": 16, "precision": "fp32"}
COLOURS = re.compile(rb"\x1b\[[0-9;]*?(?<![0-9])(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
EVERY_SCREEN = (
    "1",
    "2",
    "3",
    "f3",
    "f4",
    "escape",
    "f2",
    "i",
    "escape",
    "escape",
    "escape",
    "4",
    "f1",
    "escape",
    "f9",
    "escape",
    "f7",
)


def shown(pilot: Pilot[None]) -> str:
    """Every character on the screen."""
    strips = pilot.app.screen._compositor.render_strips()
    return "".join(strip.text for strip in strips)


def test_the_names_of_themes_are_the_themes() -> None:
    assert tuple(theme.name for theme in THEMES) == THEME_NAMES


def test_every_sign_in_the_sources_has_one_of_ascii() -> None:
    folder, signs = Path("rwkv_tui"), _Signs()
    used = {c for path in folder.rglob("*.py") for c in path.read_text() if not c.isascii()}
    assert used >= {"✓", "░"}
    left = {c for c in used if not c.translate(signs).isascii()}
    assert not left, f"add to PLAIN_SIGNS: {sorted(left)}"
    assert all(len(sign.translate(signs)) == 1 for sign in PLAIN_SIGNS if sign != "🔎")
    drawn = [chr(c) for c in (*range(0x2500, 0x25A0), *range(0x2800, 0x2900))]
    assert all(len(c.translate(signs)) == 1 and c.translate(signs).isascii() for c in drawn)
    assert "天空是蓝色的。💙".translate(signs) == "天空是蓝色的。💙"


def test_lines_of_chinese_end_after_any_sign_that_may_end_one() -> None:
    break_between_signs()
    lines = Content("从 1 开始，显存够就加大：显存随之增加（State），噪声随之减小。").wrap(20)
    assert [str(line) for line in lines] == [
        "从 1 开始，显存够就", "加大：显存随之增加", "（State），噪声随之", "减小。"
    ]  # fmt: skip
    assert [str(line) for line in Content("abc def…ghi jkl").wrap(10)] == ["abc", "def…ghi", "jkl"]


@pytest.mark.parametrize("size", [(20, 5), (80, 24)])
async def test_every_screen_in_ascii_at_any_size(
    make_app: MakeApp, pair: Path, size: tuple[int, int]
) -> None:
    app = make_app(start="wizard", draft=READY, ascii=True)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.draft.data is not None)
        await pilot.press("escape")
        for key in EVERY_SCREEN:
            await pilot.press(key)
            await pilot.pause()
            text = shown(pilot)
            strange = {c for c in text if not c.isascii()} - set("💙🍎😊你好吗？我很，谢")
            assert not strange, f"{key}: {strange}"
        assert text.strip()
    assert app.get_key_display(Binding("enter", "", "")) == "enter"
    assert not read_look(app.paths.config).ascii  # said for this once


async def test_a_look_is_chosen_in_the_palette_and_remembered(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        await until(pilot, lambda: says(pilot, "Files here (1)"))
        dark = app.screen.styles.background
        assert "│" in shown(pilot) or "›" in shown(pilot)
        for words in ("theme light", "ascii"):
            await pilot.press("f9")
            await write(pilot, words)
            await until(pilot, lambda: app.screen.query_one(OptionList).option_count)
            await pilot.press("enter")
            await until(pilot, lambda: is_at(app, WizardScreen))
        await until(pilot, lambda: app.look == Look("light", ascii=True))
        await pilot.pause()
        assert app.screen.styles.background != dark
        assert shown(pilot).isascii()
    again = make_app(start="wizard")
    async with again.run_test() as pilot:
        assert again.theme == "light" and again.look.ascii
    assert make_app(theme="contrast").look == Look("contrast", ascii=True)
    (app.paths.config / "look.yaml").write_text("- nothing\n- of that")
    assert make_app().look == Look()


async def test_the_palette_knows_the_screen_parameters_and_runs(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    add_run(app.paths, place / "emoji-state", 12, 2.5)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count)
        await pilot.press("colon")
        await write(pilot, "set grad_clip")
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.query("#field-grad_clip Input"))
        assert app.focused is app.screen.query_one("#field-grad_clip Input")
        await pilot.press("f9")
        await write(pilot, "open run emoji")
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count)
        await pilot.press("enter")
        await until(pilot, lambda: is_at(app, MonitorScreen))


async def test_the_keys_of_vi_move_in_lists_and_are_letters_in_lines(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    for number in range(30):
        add_run(app.paths, place / f"run-{number}", 12, 2.5)
    async with app.run_test() as pilot:
        options = app.screen.query_one(OptionList)
        await until(pilot, lambda: options.option_count == 30)
        places = []
        for keys in (("j", "j", "j"), ("k",), ("G",), ("g",), ("ctrl+d",), ("ctrl+u",)):
            await pilot.press(*keys)
            places.append(options.highlighted)
        assert places[:4] == [3, 2, 29, 0] and places[4] and places[5] == 0
        await pilot.press("n")
        await until(pilot, lambda: says(pilot, "Files here ("))
        app.screen.query_one("#path").focus()
        await write(pilot, "jkhlgG")
        assert app.screen.query_one("#path", Input).value == "jkhlgG"


def test_two_things_on_one_key_are_told() -> None:
    assert mistakes({"wizard.next": "f2", "home.new": "f2"}) == [
        "f2 is given to both wizard.next and wizard.presets; give one of them another"
    ]
    assert mistakes({"wizard.next": "f2", "wizard.presets": "f5"}) == []


def test_every_key_has_a_name_of_its_own() -> None:
    bindings = key_bindings()
    assert {"app.help", "wizard.next", "home.open", "vi.down"} <= bindings.keys()
    assert "" not in bindings, "every Binding has an id"
    for name, several in bindings.items():
        assert len({binding.action for binding in several}) == 1, name


async def test_keys_of_ones_own(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard")
    app.paths.config.mkdir(parents=True)
    (app.paths.config / "keys.yaml").write_text("app.help: [f10, '!']\nwizard.next: f1\nwizard.nxt: f3\n")
    async with app.run_test(notifications=True) as pilot:
        await until(pilot, lambda: says(pilot, "Files here (1)"))
        (told,) = app._notifications
        assert "keys.yaml: there is no key called wizard.nxt;" in told.message
        await pilot.press("f10")
        assert is_at(app, HelpScreen)
        assert says(pilot, "f1 ")
        await pilot.press("escape", "f1")
        await until(pilot, lambda: app.screen.query("#Model"))


async def test_a_hint_says_a_key_as_it_is_now(make_app: MakeApp, pair: Path) -> None:
    app = make_app(start="wizard", draft=READY)
    app.paths.config.mkdir(parents=True)
    (app.paths.config / "keys.yaml").write_text(
        "wizard.next: f12, x\nreview.launch: ctrl+g\nreview.copy: x\n"
    )
    async with app.run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: says(pilot, "F12 goes on to the model."))
        await pilot.press("escape", "4")
        await until(pilot, lambda: says(pilot, "(x copies it)"))
        assert str(app.screen.query_one("#launch", Button).label) == "Launch (Ctrl+G)"
        assert str(app.screen.query_one("#save", Button).label) == "Save as preset (F6)"


async def test_the_help_of_a_screen_says_keys_as_they_are_now(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="")
    app.paths.config.mkdir(parents=True)
    (app.paths.config / "keys.yaml").write_text("home.mark: f8\nhome.compare: ctrl+g\n")
    async with app.run_test(size=(100, 40)) as pilot:
        await pilot.press("f1")
        await until(pilot, lambda: says(pilot, "F8 marks runs and Ctrl+G compares two to six of them"))


async def test_a_broken_file_of_keys_is_told_and_changes_nothing(make_app: MakeApp, place: Path) -> None:
    for wrong in ("app.help: two words", "app.help\n", "[", "app.help: ''", "\x00", "app.help: {a: b}"):
        app = make_app()
        app.paths.config.mkdir(parents=True, exist_ok=True)
        (app.paths.config / "keys.yaml").write_text(wrong)
        async with app.run_test(notifications=True) as pilot:
            await pilot.press("f1")
            assert is_at(app, HelpScreen), wrong
            assert "keys.yaml" in next(iter(app._notifications)).message


def test_the_command_lists_all_keys(rwkv_tune: Command, home: Path) -> None:
    said = rwkv_tune("keys").stdout
    assert re.search(r'^wizard.next: +"ctrl\+n,right_square_bracket,alt\+right" +# Next$', said, re.MULTILINE)
    file = home / ".config" / "rwkv-tune" / "keys.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(said)  # what it prints is such a file
    assert rwkv_tune("keys").stdout == said
    file.write_text("home.run: x\n")
    assert "no key called home.run" in rwkv_tune("keys").stderr


def test_no_color_writes_no_colour_and_themes_do(home: Path, tmp_path: Path) -> None:
    for env, options, coloured in (({"NO_COLOR": "1"}, (), False), ({}, ("--theme", "light"), True)):
        app = Terminal([sys.executable, "-m", "rwkv_tui", *options], cwd=tmp_path, env=env)
        app.sees("Presets")
        app.keys("\x11")
        assert app.wait() == 0
        assert bool(COLOURS.search(app.raw)) is coloured
