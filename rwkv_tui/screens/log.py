"""The whole log of a run."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Footer, RichLog, Static

from engine.contract.rundir import RunDir
from rwkv_tui.plain import one_line, plain
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import engine_log_tail

COLORS = {"info": "", "good": "green", "warning": "yellow", "error": "red"}


class LogScreen(Screen[None]):
    """The whole log, followed while the run goes on; below it what the process itself printed."""

    HELP_TEXT = "Everything the run has told. It follows the end while you are there."
    BINDINGS = [
        Binding("escape,q,l", "dismiss(None)", "Back"),
        Binding("end", "follow", "To the end", show=False),
    ]

    def __init__(self, name: str, run: RunDir, model: Callable[[], RunModel]) -> None:
        super().__init__()
        self._title = one_line(name)
        self._run_dir = run
        self._model = model
        self._seen = 0

    def compose(self) -> ComposeResult:
        yield Static(f" {self._title}   log   {one_line(str(self._run_dir.events))}", id="head", markup=False)
        yield RichLog(id="whole-log", wrap=True, markup=False, highlight=False, max_lines=5000)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        printed = plain(engine_log_tail(self._run_dir)).strip()
        log = self.query_one(RichLog)
        if printed:
            log.write(Text(f"The end of what the process printed ({self._run_dir.log}):\n{printed}\n", "dim"))
        self._more()
        self.set_interval(0.5, self._more)

    def _more(self) -> None:
        model, log = self._model(), self.query_one(RichLog)
        fresh = min(model.log_count - self._seen, len(model.log))
        self._seen = model.log_count
        for line in list(model.log)[len(model.log) - fresh :] if fresh > 0 else []:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.t))
            log.write(Text.assemble((f"{when}  ", "dim"), (plain(line.text), COLORS[line.level])))

    def action_follow(self) -> None:
        self.query_one(RichLog).scroll_end(animate=False)
