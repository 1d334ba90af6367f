"""How every screen looks: what stands where at three sizes in both languages, and in which colours.

A file for each screen and language holds, at 80x24, 120x40 and 200x60, the text of the screen as one sees it
and then which cells look alike: a letter per stretch, such as 12a 3b, equal lines told once. What a letter
looks like in each of the themes is told once, at the end of the file. After a change that was meant,
`pytest tests/tui/test_looks.py --snapshot-update` writes them anew: read the difference.
"""

from __future__ import annotations

import difflib
import gc
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase

import pytest
from textual._compositor import Compositor
from textual.app import App
from textual.css.stylesheet import Stylesheet
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, TextArea

from engine.contract import i18n
from rwkv_tui.look import THEMES
from tests.tui.walk import drawn, settle, walk

KEPT = Path(__file__).parent / "__snapshots__" / "looks"
SIZES = ((80, 24), (120, 40), (200, 60))
Look = tuple[str, ...]
"""A style in each of the themes."""
Sheets = dict[tuple[object, ...], Stylesheet]


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clocks in UTC, and cursors that do not blink; only we look at what is drawn.

    Looking for garbage again and again would take as long as all the rest.
    """
    often = gc.get_threshold()
    gc.set_threshold(100_000)
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setattr(TextArea, "cursor_blink", False)
    monkeypatch.setattr(Compositor, "render_update", lambda self, **_how: self._dirty_regions.clear())
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    gc.set_threshold(*often)
    i18n.speak("en")
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("code", sorted(i18n.LANGUAGES))
async def test_every_screen_looks_as_it_did(
    code: str, place: Path, pair: Path, still: None, request: pytest.FixtureRequest
) -> None:
    i18n.speak(code)
    update, wrong, seen = request.config.getoption("--snapshot-update"), [], set()
    sheets: Sheets = {}
    async for name, pilot in walk(place, pair):
        file, now = KEPT / code / f"{name}.txt", await portrait(pilot, sheets)
        before = file.read_text(encoding="utf-8") if file.is_file() else ""
        seen.add(file)
        if now != before and update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(now, encoding="utf-8")
        elif now != before:
            pair_of_lines = before.splitlines(), now.splitlines()
            wrong += list(difflib.unified_diff(*pair_of_lines, str(file), "now", lineterm="", n=1))
    assert not wrong, "\n".join(wrong)
    for left in set((KEPT / code).glob("*.txt")) - seen:
        assert update, f"no screen is called {left.stem} any more"
        left.unlink()


async def portrait(pilot: Pilot[None], sheets: Sheets) -> str:
    """The screen at every size, and in every theme there."""
    parts, letters = [], dict[Look, str]()
    for size in SIZES:
        await pilot.resize_terminal(*size)
        await settle(pilot)
        name, drawings = "{}x{}".format(*size), in_themes(pilot.app, sheets)
        parts += [f"== {name}", *(strip.text.rstrip() for strip in drawings[0])]
        parts += [f"== {name}, looks", *told_once(alike(drawings, letters))]
    parts += ["== " + " | ".join(theme.name for theme in THEMES)]
    return "\n".join([*parts, *(f"{letter} = {' | '.join(look)}" for look, letter in letters.items())]) + "\n"


def in_themes(app: App[None], sheets: Sheets) -> list[list[Strip]]:
    """The screen as it is where the program begins in each theme: nothing moves, so nothing is laid out anew.

    `sheets` keeps the styles that have been parsed.
    """
    found, own = [], app.stylesheet
    layers = (app.screen, *app._background_screens)
    shown = {node for screen in layers for widget in screen._compositor.visible_widgets
             for node in widget.ancestors_with_self if isinstance(node, Widget)}  # fmt: skip
    changed = set(shown)
    for theme in reversed(THEMES):  # it goes on in the first, with styles of its own
        app.set_reactive(App.theme, theme.name)
        app.set_class(theme.dark, "-dark-mode", update=False)
        app.set_class(not theme.dark, "-light-mode", update=False)
        variables, key = app.get_css_variables(), (theme.name, *own.source)
        if theme is not THEMES[0] and key not in sheets:
            sheets[key] = own.copy()
            sheets[key].set_variables(variables)
            sheets[key].parse()
        app.stylesheet = own if theme is THEMES[0] else sheets[key]
        with pytest.MonkeyPatch.context() as patch:  # once is enough for each
            patch.setattr(Widget, "refresh", lambda widget, *_parts, **_how: changed.add(widget))
            app.stylesheet.update_nodes(shown)
        for widget in changed:
            widget.refresh(layout=False)
        found.append(drawn(app))
    return found[::-1]


def alike(themes: list[list[Strip]], letters: dict[Look, str]) -> Iterator[str]:
    """Each line as stretches of cells that look alike in every theme; `letters` grows by what is new."""
    for line in zip(*themes, strict=True):
        stretches = [(letters.setdefault(look, name_of(len(letters))), len(list(cells)))
                     for look, cells in groupby(zip(*map(cells_of, line), strict=True))]  # fmt: skip
        yield " ".join(f"{length}{letter}" for letter, length in stretches)


def cells_of(strip: Strip) -> list[str]:
    """The style of each cell."""
    return [style for segment in strip for style in [str(segment.style or "")] * segment.cell_length]


def name_of(number: int) -> str:
    """a to z, then ba, bb and so on."""
    return (name_of(number // 26) if number >= 26 else "") + ascii_lowercase[number % 26]


def told_once(rows: Iterable[str]) -> Iterator[str]:
    """Each row with its number, or their numbers where several in a row are the same."""
    number = 0
    for row, same in groupby(rows):
        last = number + len(list(same)) - 1
        yield f"{number}{f'-{last}' if last > number else ''}: {row}"
        number = last + 1
