"""Makes the pictures of the README, in each language, from the real app: `python docs/screens.py DEMO_DIR`.

DEMO_DIR is what `rwkv-tune demo --headless --dir DEMO_DIR` left behind.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from engine.contract import i18n
from engine.contract.i18n import _
from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir
from engine.contract.talk import Sampling
from engine.demo import STATE_SETTINGS
from rwkv_tui.app import TuneApp
from rwkv_tui.screens.chat import Answer, ChatScreen
from rwkv_tui.services.results import chat_flags

HERE = Path(__file__).parent / "screens"
SIZE = (110, 32)


QUESTIONS = {"en": "How can I learn to read?", "zh": "小猫有几条腿？"}


async def picture(app: TuneApp, name: str, *keys: str, run: RunDir | None = None) -> None:
    """Goes to a run if one is given, presses the keys, and writes the screen as SVG."""
    async with app.run_test(size=SIZE) as pilot:
        if run is not None:
            from rwkv_tui.screens.monitor import MonitorScreen

            await app.push_screen(MonitorScreen(run.name(), run))
        await pilot.press(*keys)
        await pilot.pause(4)
        if isinstance(app.screen, ChatScreen):
            await ask(app, pilot)
        language = "" if i18n.spoken() == "en" else f".{i18n.spoken()}"
        file = HERE / f"{name}{language}.svg"
        file.write_text(app.export_screenshot(title="rwkv-tune"), encoding="utf-8")


async def ask(app: TuneApp, pilot: Pilot[None]) -> None:
    """Asks base and tuned model, and waits for the answers."""
    question = app.screen.query_one("#question", Input)
    while question.placeholder != _("your question"):
        await pilot.pause(0.2)
    await pilot.press("f2")
    question.value = QUESTIONS[i18n.spoken()]
    await pilot.press("enter")
    while not all(answer.speed for answer in app.screen.query(Answer)):
        await pilot.pause(0.2)


async def main(folder: Path) -> None:
    """All pictures; the app runs in the demo's folder, so that paths are short."""
    os.chdir(folder)
    run = RunDir(Path("emoji-state-1").absolute())
    paths = UserPaths.under(Path("/nonexistent"))
    values = {**STATE_SETTINGS, "data_file": "emoji"}
    for language in i18n.LANGUAGES:
        i18n.speak(language)
        await picture(TuneApp(paths, draft=values, start="wizard"), "data")
        await picture(TuneApp(paths, start=""), "monitor", run=run)
        await picture(TuneApp(paths, chat=(chat_flags(run), Sampling(top_p=0, frequency=0))), "chat")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
