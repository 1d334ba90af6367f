"""The application: its services, its routing and the keys that work everywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.theme import Theme

from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.draft import Draft
from rwkv_tui.plain import announcement
from rwkv_tui.services.gpu import GpuReading, read_gpus
from rwkv_tui.services.jobs import GRACE

ENGINE_JOBS = ("summary", "convert")
"""Groups of the workers that wait for a short engine job."""

# All colours are among the 256 that every terminal of today knows, so nothing shifts over SSH.
THEME = Theme(
    name="rwkv-tune", primary="#5fafd7", secondary="#87afaf", accent="#d7af5f",
    success="#87af5f", warning="#d7af5f", error="#d75f5f",
    foreground="#d0d0d0", background="#121212", surface="#1c1c1c", panel="#262626",
    variables={
        "footer-key-foreground": "#5fafd7", "footer-background": "#262626", "border": "#444444",
        "border-blurred": "#444444", "block-cursor-blurred-background": "#303030",
    },
)  # fmt: skip


class TuneApp(App[None]):
    """`start` is "home" (which goes on to the wizard while there are no runs) or "wizard"; `run` is opened.

    `draft` holds values that prefill the wizard and `source` its data file, which may still need
    converting; a `source` leads to the wizard as well. `gpus` and `clock` (seconds since the epoch)
    can be replaced by a test.
    """

    CSS_PATH = "styles/app.tcss"
    TITLE = "rwkv-tune"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [Binding("f1,question_mark", "help", "Keys")]

    def __init__(
        self,
        paths: UserPaths,
        draft: Mapping[str, Any] | None = None,
        start: str = "home",
        *,
        run: tuple[str, RunDir] | None = None,
        source: Path | None = None,
        gpus: Callable[[], GpuReading] = read_gpus,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.paths = paths
        self.draft = Draft(draft)
        self.gpus = gpus
        self.clock = clock
        self.cwd = Path.cwd()
        self._start = start
        self._source = source
        self._run = run

    def on_mount(self) -> None:
        from rwkv_tui.screens.home import HomeScreen

        self.register_theme(THEME)
        self.theme = THEME.name
        self.push_screen(HomeScreen())
        if self._run:
            self.open_run(*self._run)
        elif self._start == "wizard" or self._source or (self._start == "home" and not self._has_runs()):
            self.open_wizard()

    def _has_runs(self) -> bool:
        return bool(RunList(self.paths.runs).all())

    async def on_unmount(self) -> None:
        """Jobs under way end before the program does, so that none leaves a half-written file."""
        jobs = [asyncio.ensure_future(w.wait()) for w in self.workers if w.group in ENGINE_JOBS]
        if jobs:
            await asyncio.wait(jobs, timeout=2 * GRACE)
            for job in jobs:
                job.cancel()

    def open_wizard(self, step: str = "", field: str = "") -> None:
        """Shows the wizard, where it was left; `step` names another step, `field` a parameter there."""
        from rwkv_tui.screens.wizard.wizard import WizardScreen

        if not self.is_screen_installed("wizard"):
            self.install_screen(WizardScreen(self.draft, self.cwd, self._source), "wizard")
        wizard = self.get_screen("wizard", WizardScreen)
        if self.screen is not wizard:
            self.push_screen(wizard)
        if step:
            wizard.go(step, field)

    def open_run(self, name: str, run: RunDir) -> None:
        """Shows a run above the list of runs: how it goes, or what came of it."""
        from rwkv_tui.services.runs import summarise

        while len(self.screen_stack) > 2:
            self.pop_screen()
        if summarise(name, run).status == "finished":
            from rwkv_tui.screens.done import DoneScreen

            self.push_screen(DoneScreen(name, run))
        else:
            from rwkv_tui.screens.monitor import MonitorScreen

            self.push_screen(MonitorScreen(name, run))

    def announce(self, name: str, status: str) -> None:
        """Tells the terminal, which may be in the background, that a run has ended."""
        if self._driver:
            self._driver.write(announcement(name, status))

    def action_help(self) -> None:
        """Lists the keys of the screen in front."""
        from rwkv_tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            about = getattr(self.screen, "HELP_TEXT", "")
            self.push_screen(HelpScreen(about, self.screen.active_bindings.values()))
