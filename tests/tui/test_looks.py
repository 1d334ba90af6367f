"""How every screen looks: what stands where at three sizes in both languages, and in which colours.

A file for each screen and language holds the text of the screen at 80x24, 120x40 and 200x60 as one sees it
and, in English for each theme at 120x40, which cells have which style: a letter per stretch, and what the
letters mean. After a change that was meant, `pytest tests/tui/test_looks.py --snapshot-update` writes them
anew: read the difference.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widgets import Input, TextArea

from engine.contract import i18n
from rwkv_tui.look import THEMES
from tests.tui.walk import drawn, lines, settle, walk

KEPT = Path(__file__).parent / "__snapshots__" / "looks"
SIZES = ((80, 24), (200, 60), (120, 40))
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clocks in UTC, and cursors that do not blink."""
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setattr(TextArea, "cursor_blink", False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    i18n.speak("en")
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("code", sorted(i18n.LANGUAGES))
async def test_every_screen_looks_as_it_did(
    code: str, place: Path, pair: Path, still: None, request: pytest.FixtureRequest
) -> None:
    i18n.speak(code)
    update, wrong, seen = request.config.getoption("--snapshot-update"), [], set()
    async for name, pilot in walk(place, pair):
        file, now = KEPT / code / f"{name}.txt", await portrait(pilot)
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


async def portrait(pilot: Pilot[None]) -> str:
    """The screen at every size and, at the last of them, in every theme: colours have no language."""
    parts = []
    for width, height in SIZES:
        await pilot.resize_terminal(width, height)
        await settle(pilot)
        parts += [f"== {width}x{height}", *lines(pilot)]
    for theme in THEMES[1:] + THEMES[:1] if i18n.spoken() == "en" else ():
        pilot.app.theme = theme.name
        await settle(pilot)
        parts += [f"== {theme.name}", *styles(drawn(pilot))]
    return "\n".join(parts) + "\n"


def styles(strips: list[Strip]) -> Iterator[str]:
    """Each line as stretches of one style, such as 12a 3b, equal ones told once; then what letters mean."""
    letters: dict[str, str] = {}
    rows = []
    for strip in strips:
        cells = [(str(segment.style or ""), segment.cell_length) for segment in strip]
        stretches: list[str] = []
        for style, stretch in groupby(cells, key=lambda cell: cell[0]):
            letter = letters.setdefault(style, LETTERS[len(letters) % len(LETTERS)])
            stretches.append(f"{sum(length for _style, length in stretch)}{letter}")
        rows.append(" ".join(stretches))
    number = 0
    for row, same in groupby(rows):
        count = len(list(same))
        yield f"{number}{f'-{number + count - 1}' if count > 1 else ''}: {row}"
        number += count
    yield from (f"{letter} = {style}" for style, letter in letters.items())
