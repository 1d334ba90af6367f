"""Screens full of foreign text: names of files and runs, what is in them, what runs have told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from engine.contract import events
from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir, RunList
from tests.fakes import stories
from tests.tui.conftest import MakeApp, until

EVIL = "evil[/b]\x1b[31m\x1b]52;c;AAAA\x07\x9b2J\u202e[@click=app.quit]x"


def drawn(pilot: Pilot[None]) -> str:
    """Every character that the screen in front sends to the terminal, styles apart."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def inert(pilot: Pilot[None]) -> None:
    shown = drawn(pilot)
    assert "evil" in shown, shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e"), repr(shown)


@pytest.fixture
def run(place: Path) -> RunDir:
    """A run with an evil name in an evil folder, which has told evil things and died."""
    paths = UserPaths.under(place.parent / "user")
    run = stories.new_run(place / EVIL.replace("/", "|"), EVIL, stories.GONE)
    run.log.write_text(f"{EVIL}\n" * 3)
    run.settings.write_text("# settings\nctx_len: 512\n")
    stories.tell(run, [
        *stories.opening(), *stories.stepping(Path("/x"), 1, 3),
        events.Log(text=EVIL), events.Warned(text=EVIL), events.Checkpoint(path=f"/{EVIL}", epoch=0, step=2),
        events.Sample(step=3, prompt=EVIL, base=EVIL, tuned=EVIL),
        events.Progress(phase=EVIL, done=1, total=2, unit=EVIL),
    ])  # fmt: skip
    RunList(paths.runs).add(run.path)
    return run


@pytest.mark.parametrize("ending", [None, events.Failed(reason=EVIL, remedy=EVIL, detail=EVIL)])
async def test_a_run_is_shown_inert(ending: events.Failed | None, run: RunDir, make_app: MakeApp) -> None:
    if ending:
        stories.tell(run, [ending])
    app = make_app(start="")
    async with app.run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "evil" in drawn(pilot))
        inert(pilot)
        app.open_run(EVIL, run)
        await until(pilot, lambda: "step" in drawn(pilot))
        inert(pilot)
        await pilot.press("o")
        await until(pilot, lambda: "log" in drawn(pilot))
        inert(pilot)


async def test_a_finished_run_is_shown_inert(run: RunDir, make_app: MakeApp) -> None:
    stories.tell(run, [events.Finished(status="finished", step=3, seconds=1, files=(f"/{EVIL}",))])
    app = make_app(start="")
    async with app.run_test(size=(100, 40)) as pilot:
        app.open_run(EVIL, run)
        await until(pilot, lambda: "evil" in drawn(pilot))
        inert(pilot)


async def test_the_wizard_shows_files_inert(place: Path, make_app: MakeApp) -> None:
    name = EVIL.replace("/", "|")
    (place / "pairs.jsonl").unlink()
    (place / f"{name}.jsonl").write_text(json.dumps({"text": f"User: {EVIL}\n\nAssistant: {EVIL}"}) + "\n")
    (place / f"{name}.pth").write_bytes(b"PK\x03\x04")
    async with make_app(start="wizard").run_test(size=(100, 40)) as pilot:
        files = pilot.app.screen.query_one("#files", OptionList)
        await until(pilot, lambda: files.option_count == 1)
        inert(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "1 document" in drawn(pilot))
        inert(pilot)
        pilot.app.open_wizard("Model")  # type: ignore[attr-defined]
        await until(pilot, lambda: "evil" in drawn(pilot))
        await asyncio.sleep(0)
        inert(pilot)
