"""The whole log of a run, or its turns only: a time line. With search and a filter by weight."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Footer, Input, Static

from engine.contract.i18n import N_, _
from engine.contract.rundir import RunDir
from rwkv_tui.panels.log import COLORS
from rwkv_tui.plain import duration, one_line, plain
from rwkv_tui.screens.base import TuneScreen
from rwkv_tui.services.run_tail import LogLine, RunModel
from rwkv_tui.services.runs import engine_log_tail
from rwkv_tui.widgets.lines import Lines

LEVELS: dict[str, tuple[str, ...]] = {
    N_("everything"): ("info", "good", "warning", "error"),
    N_("warnings and errors"): ("warning", "error"),
    N_("errors"): ("error",),
}


class LogScreen(TuneScreen[None]):
    """Follows the run while it goes on and one is at the end; above it what the process itself printed."""

    HELP_TEXT = N_(
        "Everything the run has told. It follows the end while you are there; {follow} goes there.\n"
        "The time line shows the run's turns: ▶ begun, ┊ an epoch, • a measurement, ◆ a saved file, "
        "“ an answer, ! a warning, ✗ failed, ■ over."
    )
    HELP_KEYS = ("log.follow",)
    BINDINGS = [
        Binding("slash", "search", N_("Search"), key_display="/", id="log.search"),
        Binding("v", "level", N_("Level"), id="log.level"),
        Binding("t", "timeline", N_("Time line"), id="log.timeline"),
        Binding("f,end", "follow", N_("To the end"), id="log.follow"),
        Binding("escape", "back", N_("Back"), id="log.back"),
        Binding("q,o", "dismiss(None)", N_("Back"), show=False, id="log.close"),
    ]

    def __init__(
        self, name: str, run: RunDir, model: Callable[[], RunModel], *, timeline: bool = False
    ) -> None:
        super().__init__()
        self._title = one_line(name)
        self._run_dir = run
        self._model = model
        self._seen = 0
        self._level = "everything"
        self._timeline = timeline
        self._wanted = ""

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Lines(id="whole-log")
        yield Input(placeholder=_("text to look for"), id="search", compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one("#search").display = False
        self.query_one(Lines).focus()
        self._all()
        self.set_interval(0.5, self._more)

    def _all(self) -> None:
        """Everything anew, after the filter has changed."""
        parts = [self._title, _("time line") if self._timeline else _("log"), _(self._level)]
        parts += [_("with “{words}”", words=self._wanted)] if self._wanted else []
        self.query_one("#head", Static).update(" " + "   ".join(parts))
        lines = [] if self._timeline or self._level != "everything" else self._printed()
        model = self._model()
        self._seen = model.log_count
        self.query_one(Lines).put([*lines, *self._chosen(list(model.log))])

    def _more(self) -> None:
        model = self._model()
        fresh = min(model.log_count - self._seen, len(model.log))
        if fresh < 0:
            self._all()  # the file was begun anew
        elif fresh:
            self._seen = model.log_count
            self.query_one(Lines).add(self._chosen(list(model.log)[len(model.log) - fresh :]))

    def _chosen(self, lines: list[LogLine]) -> list[Content]:
        levels = LEVELS[self._level]
        chosen = [line for line in lines if line.level in levels and (line.mark or not self._timeline)]
        made = [self._line(line) for line in chosen]
        return [line for line in made if self._wanted.casefold() in line.plain.casefold()]

    def _line(self, line: LogLine) -> Content:
        if self._timeline:
            began = self._model().first_t or line.t
            when = f"{duration(line.t - began):>12}  {line.mark} "
        else:
            when = time.strftime("%Y-%m-%d %H:%M:%S  ", time.localtime(line.t))
        made = Content.assemble((when, "dim"), (plain(line.text), COLORS[line.level]))
        return self._marked(made)

    def _marked(self, line: Content) -> Content:
        if not self._wanted:
            return line
        wanted = re.compile(re.escape(self._wanted), re.IGNORECASE)
        return line.highlight_regex(wanted, style="bold reverse")  # unsaid

    def _printed(self) -> list[Content]:
        printed = plain(engine_log_tail(self._run_dir)).strip()
        if not printed:
            return []
        said = _("The end of what the process printed ({path}):", path=one_line(str(self._run_dir.log)))
        head = Content.styled(said, "dim")
        lines = [self._marked(Content.styled(line, "dim")) for line in printed.splitlines()]
        return [
            head,
            *(line for line in lines if self._wanted.casefold() in line.plain.casefold()),
            Content(""),
        ]

    def action_follow(self) -> None:
        self.query_one(Lines).scroll_end(animate=False)

    def action_level(self) -> None:
        names = list(LEVELS)
        self._level = names[(names.index(self._level) + 1) % len(names)]
        self._all()

    def action_timeline(self) -> None:
        self._timeline = not self._timeline
        self._all()

    def action_search(self) -> None:
        field = self.query_one("#search", Input)
        field.display = True
        field.focus()

    @on(Input.Changed)
    def _search(self, event: Input.Changed) -> None:
        self._wanted = event.value
        self._all()

    @on(Input.Submitted)
    def _searched(self) -> None:
        self.query_one("#search").display = bool(self._wanted)
        self.query_one(Lines).focus()

    def action_back(self) -> None:
        """Out of the search, else out of the log."""
        field = self.query_one("#search", Input)
        if field.display:
            field.value = ""
            field.display = False
            self.query_one(Lines).focus()
        else:
            self.dismiss(None)
