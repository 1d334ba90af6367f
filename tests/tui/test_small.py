"""In the smallest terminals every dialogue shows what it says and asks, and its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Button, Input, Label, OptionList, Static, TextArea

from engine.contract.presets import PresetStore
from engine.contract.talk import Sampling
from rwkv_tui.screens.ask import AskScreen, NameScreen
from rwkv_tui.screens.help import HelpScreen
from rwkv_tui.screens.sampling import SamplingScreen
from rwkv_tui.screens.wizard.import_script import ImportScreen
from rwkv_tui.screens.wizard.new_model import NewModelScreen
from rwkv_tui.screens.wizard.presets import PresetScreen
from rwkv_tui.screens.wizard.search import SearchScreen
from rwkv_tui.screens.wizard.template import TemplateScreen
from tests.tui.conftest import MakeApp, until
from tests.tui.test_home import add_run
from tests.tui.walk import lines, settle

QUESTION = "Delete the run haiku?\nIts log, settings and resume files (205.2 KiB) go; what stays: rwkv-0.pth."
SAYING = (Static, Label, Button, Input, TextArea, OptionList)


@pytest.mark.parametrize("size", [(20, 5), (30, 10), (40, 12), (80, 24)])
async def test_all_of_a_dialogue_can_be_seen(make_app: MakeApp, place: Path, size: tuple[int, int]) -> None:
    app = make_app(start="")
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        keys = tuple(app.screen.active_bindings.values())
        presets = PresetStore(app.paths.presets)
        dialogues: tuple[Screen[Any], ...] = (
            AskScreen(QUESTION, "Delete it"), NameScreen("Another name for haiku:", "haiku"),
            HelpScreen("", keys), SamplingScreen(Sampling()), PresetScreen(presets, app.draft),
            SearchScreen(app.draft), ImportScreen(presets), NewModelScreen(),
        )  # fmt: skip
        for dialogue in dialogues:
            app.push_screen(dialogue)
            await settle(pilot)
            name = type(dialogue).__name__
            assert "│  " not in lines(pilot)[1][:3] or size == (80, 24), name
            used = [line for line in lines(pilot)[: size[1] - 1] if line.strip()]
            assert len(used) >= 2, f"{name}:\n" + "\n".join(used)
            focused = app.focused
            assert focused is None or seen(focused), f"{name}: {focused} has the focus unseen"
            for widget in dialogue.query(Widget):
                if isinstance(widget, SAYING) and said(widget) and widget.display and all(
                    getattr(above, "display", True) for above in widget.ancestors
                ):  # fmt: skip
                    widget.scroll_visible(animate=False, immediate=True)
                    await settle(pilot)
                    assert seen(widget), f"{name}: {widget} {said(widget)!r} is nowhere"
            await pilot.press("escape")
            await settle(pilot)


@pytest.mark.parametrize("size", [(20, 5), (30, 10), (40, 12)])
async def test_what_one_types_into_is_seen_with_what_it_finds(
    make_app: MakeApp, place: Path, size: tuple[int, int]
) -> None:
    app = make_app(start="")
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        await pilot.press("f9")
        await settle(pilot, 0.5)
        await pilot.press(*"theme")
        await until(pilot, lambda: "Theme: dark" in "".join(lines(pilot)))
        await settle(pilot, 0.5)
        assert "theme" in lines(pilot)[0] and "Theme: dark" in lines(pilot)[1]
        await pilot.press("escape")
        app.push_screen(TemplateScreen("System:\n{system}\n", place / "t.txt", "t.txt", mine=False))
        await settle(pilot)
        for part in ("System:", "{system}", "Ctrl+S keeps it", "^s Keep and use"):
            assert part in "\n".join(lines(pilot))


async def test_a_long_question_is_read_by_the_arrows(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="")
    async with app.run_test(size=(20, 5)) as pilot:
        app.push_screen(AskScreen(QUESTION, "Delete it"))
        await settle(pilot)
        assert lines(pilot)[0].startswith("Delete the run") and lines(pilot)[4] == " Delete it (y)"
        for _line in range(8):
            await pilot.press("down")
        await settle(pilot, 0.5)  # it glides
        assert "rwkv-0.pth." in "".join(lines(pilot)[:3]) and lines(pilot)[4] == " Delete it (y)"


async def test_what_matters_most_is_seen_in_the_smallest_terminal(make_app: MakeApp, pair: Path) -> None:
    app = make_app(start="")
    add_run(app.paths, pair.parent / "emoji-state", 12, 2.5)
    async with app.run_test(size=(20, 5)) as pilot:
        await settle(pilot)
        assert "emoji-state" in "".join(lines(pilot))
    app = make_app(start="wizard", draft={"data_file": "pairs"})
    async with app.run_test(size=(40, 12)) as pilot:
        await until(pilot, lambda: app.draft.data is not None)
        await settle(pilot)  # where the report had one column, it was laid out again and again
        assert "✓ This is the training" in "".join(lines(pilot))
        assert not app.screen.query_one("#report").display


def said(widget: Widget) -> str:
    return str(widget.render()) if isinstance(widget, Static) else "."


def seen(widget: Widget) -> bool:
    region = widget.screen._compositor.visible_widgets.get(widget)
    return region is not None and bool(region[0].intersection(region[1]))
