"""The application: its services, its routing and the keys that work everywhere."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import App
from textual.binding import Binding
from textual.command import CommandPalette
from textual.filter import LineFilter

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.draft import Draft
from rwkv_tui.in_turn import KeysInTurn
from rwkv_tui.look import THEMES, NoColours, PlainSigns, break_between_signs, still_cursors
from rwkv_tui.plain import announcement
from rwkv_tui.screens.base import Helpful
from rwkv_tui.services.gpu import GpuReading, read_gpus
from rwkv_tui.services.hang_up import watch_terminal
from rwkv_tui.services.preferences import Look, keys_file, read_keys, read_look, write_look

if TYPE_CHECKING:
    from engine.contract.talk import Sampling

ENGINE_JOBS = ("summary", "convert", "init", "chat")
"""Groups of the workers that wait for a short engine job."""
NO_COLOURS = NoColours()


class TuneApp(KeysInTurn):
    """`start` is "home" (which goes on to the wizard while there are no runs) or "wizard"; `run` is opened.

    `draft` holds values that prefill the wizard and `source` its data file, which may still need
    converting; a `source` leads to the wizard as well. `chat`: a conversation, by the flags of its job, is
    all there is. `theme` and `ascii` go above the look that is
    remembered. `tmux`: the terminal is one of tmux's. `gpus` and `clock` (seconds since the epoch) can be
    replaced by a test.
    """

    CSS_PATH = [
        "styles/app.tcss",
        "styles/home.tcss",
        "styles/wizard.tcss",
    ]  # parsed once, for any first frame
    TITLE = "rwkv-tune"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-slim"), (50, "-roomy")]  # of what has none of its own: dialogues
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-high")]
    BINDINGS = [
        Binding("f1,question_mark", "help", N_("Keys"), id="app.help"),
        Binding("f9,colon", "commands", N_("Commands"), show=False, id="app.commands"),
        # After the fashion of vi. A line being typed, and any key of a screen's own, goes before them.
        Binding("j", "as_key('down')", N_("Down"), show=False, id="vi.down"),
        Binding("k", "as_key('up')", N_("Up"), show=False, id="vi.up"),
        Binding("h", "as_key('left')", N_("Left"), show=False, id="vi.left"),
        Binding("l", "as_key('right')", N_("Right"), show=False, id="vi.right"),
        Binding("g", "as_key('home')", N_("To the beginning"), show=False, id="vi.first"),
        Binding("G", "as_key('end')", N_("To the end"), show=False, id="vi.last"),
        Binding("ctrl+d", "as_key('pagedown')", N_("Page down"), show=False, id="vi.page_down"),
        Binding("ctrl+u", "as_key('pageup')", N_("Page up"), show=False, id="vi.page_up"),
    ]

    def __init__(
        self,
        paths: UserPaths,
        draft: Mapping[str, Any] | None = None,
        start: str = "home",
        *,
        run: tuple[str, RunDir] | None = None,
        source: Path | None = None,
        chat: tuple[list[str], Sampling] | None = None,
        theme: str = "",
        ascii: bool = False,
        tmux: bool = False,
        gpus: Callable[[], GpuReading] = read_gpus,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.paths = paths
        self.draft = Draft(draft)
        self.gpus = gpus
        self.clock = clock
        self.cwd = Path.cwd()
        self.keys: dict[str, str] = {}  # a person's own, by the id of what they do
        self._tmux = tmux
        self._start = start
        self._source = source
        self._run = run
        self._chat = chat
        kept = read_look(paths.config)
        self.look = Look(theme or kept.theme, ascii or kept.ascii)
        self._plain_signs = PlainSigns(self.look.ascii)
        break_between_signs()
        still_cursors()
        self._begin_in(self.look.theme)

    def _begin_in(self, theme: str) -> None:
        """The theme from the start on: to change it later paints, and parses all styles, once more."""
        for one in THEMES:
            self.register_theme(one)
        self.set_reactive(App.theme, theme)
        self.stylesheet.set_variables(self.get_css_variables())
        self.set_class(self.current_theme.dark, "-dark-mode", update=False)
        self.set_class(not self.current_theme.dark, "-light-mode", update=False)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What goes over every line before it is written."""
        last = [NO_COLOURS] if self.no_color else super().get_line_filters()
        return [*last, self._plain_signs] if self._plain_signs.enabled else last

    def on_mount(self) -> None:
        self._take_keys()
        if self._chat:
            from rwkv_tui.screens.chat import ChatScreen

            self.push_screen(ChatScreen(*self._chat), lambda _nothing: self.exit())
        elif self._run:
            self.open_run(*self._run)
        elif self._start == "wizard" or self._source or (self._start == "home" and not self._has_runs()):
            self.open_wizard()
        else:
            self.open_home()
        self.call_after_refresh(_load_the_rest)
        if not self.is_headless and sys.__stdin__:
            loop = asyncio.get_running_loop()
            watch_terminal(sys.__stdin__.fileno(), lambda: loop.call_soon_threadsafe(self.exit))

    def _take_keys(self) -> None:
        """A person's own keys; what cannot be meant is told, and the usual keys hold."""
        try:
            self.keys = keys = read_keys(self.paths.config)
        except UserError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        if not keys:
            return
        from rwkv_tui.keys import mistakes

        self.set_keymap(keys)
        for said in mistakes(keys):
            file = keys_file(self.paths.config)
            self.notify(_("{file}: {said}.", file=file, said=said), severity="warning", markup=False)

    def get_key_display(self, binding: Binding) -> str:
        """Enter's sign has nothing like it among the plain ones."""
        return "enter" if self.look.ascii and binding.key == "enter" else super().get_key_display(binding)

    def choose_look(self, **changes: Any) -> None:
        """Changes theme or signs, and remembers them."""
        self.look = replace(self.look, **changes)
        self.theme = self.look.theme
        self._plain_signs.enabled = self.look.ascii
        for screen in self.screen_stack:
            for widget in screen.walk_children(with_self=True):
                widget.refresh(layout=False)
                widget.notify_style_update()
        try:
            write_look(self.paths.config, self.look)
        except UserError as error:
            self.notify(str(error), severity="warning", markup=False)

    def _has_runs(self) -> bool:
        return bool(RunList(self.paths.runs).all())

    async def on_unmount(self) -> None:
        """Jobs under way end before the program does, so that none leaves a half-written file."""
        from rwkv_tui.services.jobs import GRACE

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
        again = self.screen is not wizard
        if again:
            self.push_screen(wizard)
        if again or step:
            wizard.go(step, field)

    def open_home(self) -> None:
        """Goes back to the list of runs, which is only made when somebody looks at it."""
        from rwkv_tui.screens.home import HomeScreen

        while len(self.screen_stack) > 2:
            self.pop_screen()
        if len(self.screen_stack) < 2:
            self.push_screen(HomeScreen())
        elif not isinstance(self.screen, HomeScreen):
            self.switch_screen(HomeScreen())

    def open_run(self, name: str, run: RunDir) -> None:
        """Shows a run above the list of runs: how it goes, or what came of it."""
        from rwkv_tui.services.runs import summarise

        self.open_home()
        if summarise(name, run).status == "finished":
            from rwkv_tui.screens.done import DoneScreen

            self.push_screen(DoneScreen(name, run))
        else:
            from rwkv_tui.screens.monitor import MonitorScreen

            self.push_screen(MonitorScreen(name, run))

    def open_chat(self, run: RunDir) -> None:
        """Talks to what a run has saved last. While it goes on it needs the memory for itself."""
        from rwkv_tui.screens.chat import ChatScreen
        from rwkv_tui.services.results import chat_flags
        from rwkv_tui.services.runs import is_alive

        try:
            if is_alive(run) is not False:
                raise UserError(
                    _("The run goes on and needs the memory."),
                    _("Watch its answers after each save (sample_prompt), or talk to it when it has ended."),
                )
            flags = chat_flags(run)
        except UserError as error:
            self.notify(str(error), severity="warning", markup=False)
        else:
            self.push_screen(ChatScreen(flags))

    def announce(self, name: str, status: str) -> None:
        """Tells the terminal, which may be in the background, that a run has ended."""
        if self._driver:
            self._driver.write(announcement(name, status, tmux=self._tmux))

    def action_commands(self) -> None:
        """All that can be done here, by name."""
        from rwkv_tui.palette import Commands

        if not isinstance(self.screen, CommandPalette):
            asked = _("What is to be done?")
            self.push_screen(CommandPalette(providers=[Commands], placeholder=asked))

    async def action_as_key(self, key: str) -> None:
        """Does at once what another key does here: the next key of a burst finds it done."""
        active = self.screen.active_bindings.get(key)
        if active is not None and active.enabled:
            await self.run_action(active.binding.action, active.node)

    def action_help(self) -> None:
        """Lists the keys of the screen in front."""
        from rwkv_tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            about = self.screen.about() if isinstance(self.screen, Helpful) else ""
            self.push_screen(HelpScreen(about, self.screen.active_bindings.values()))

    def action_help_quit(self) -> None:
        """On Ctrl-C, which copies where text is marked: says which key quits."""
        self.notify(_("Ctrl+Q quits; runs go on without the screen."))


def _load_the_rest() -> None:
    """Once the first frame is there: what all but the first screens need, and what takes a while to load."""
    for name in ("engine.contract.check", "rwkv_tui.services.run_tail"):
        import_module(name)

    if not gc.isenabled():
        gc.freeze()  # what is loaded by now stays, so it need not be looked through again and again
        gc.enable()
