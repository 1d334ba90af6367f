"""A finished run: its files, what it gained, and what to do with them."""

from __future__ import annotations

from pathlib import Path

from rich.cells import cell_len
from textual import getters
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from engine.contract.errors import UserError
from engine.contract.events import Finished
from engine.contract.i18n import N_, _, n_
from engine.contract.rundir import RunDir, Status
from engine.contract.settings import TrainSettings
from rwkv_tui import next_steps
from rwkv_tui.app import TuneApp
from rwkv_tui.panels.ending import change
from rwkv_tui.panels.panel import fill
from rwkv_tui.panels.progress import Head
from rwkv_tui.plain import column, duration, one_line, plain, size
from rwkv_tui.screens.base import TuneScreen
from rwkv_tui.screens.log import LogScreen
from rwkv_tui.services.results import result, saved_files
from rwkv_tui.services.run_tail import RunModel, RunTail
from rwkv_tui.widgets.trail import Trail

SHOWN_FILES = 8


class DoneScreen(TuneScreen[None]):
    """What came of a run. Nothing has a frame around it, so that any part can be selected and copied."""

    app = getters.app(TuneApp)
    CSS_PATH = "../styles/done.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    HELP_TEXT = N_(
        "Mark text with the mouse and press Ctrl-C, or press {copy} for all that comes after 'What to do "
        "next'."
    )
    HELP_KEYS = ("done.copy",)
    BINDINGS = [
        Binding("escape,q,enter", "dismiss(None)", N_("Back"), key_display="esc", id="done.close"),
        Binding("a", "talk", N_("Talk to it"), id="done.talk"),
        Binding("c", "copy", N_("Copy the next steps"), id="done.copy"),
        Binding("o", "log", N_("Log"), id="done.log"),
    ]

    def __init__(self, name: str, run: RunDir) -> None:
        super().__init__()
        self.run_name = name
        self.run_dir = run
        self._model = RunModel()
        self._base = Path("BASE.pth")
        self._settings: TrainSettings | None = None
        self._doubt = ""

    def compose(self) -> ComposeResult:
        for event in RunTail(self.run_dir).poll(steps=False):
            self._model.apply(event)
        try:
            self._settings = self.run_dir.read_settings(files=False)
        except UserError as error:
            self._doubt = (
                _("{message} So the base is called {base} here.", message=error.message, base=self._base)
                + "\n"
            )
        if self._settings and self._settings.load_model:
            self._base = self._settings.load_model
        yield Trail("Done")
        yield Head(self.run_name)
        with VerticalScroll(id="story"):
            yield Static(self._gain(), classes="part")
            if self._model.samples:
                last = self._model.samples[-1].step
                sample = next(s for s in self._model.samples if s.step == last)
                prompt = "\n".join(line for line in plain(sample.prompt).splitlines() if line.strip())
                yield Static(Content.assemble((_("The same prompt, answered by both"), "bold"), "\n", prompt))
                with Container(id="answers"):
                    yield Static(_answer(_("base"), "dim", sample.base), classes="answer")
                    yield Static(_answer(_("tuned"), "$accent", sample.tuned), classes="answer")
            yield Static(self._files(), classes="part")
            for heading, body in self._next():
                yield Static(Content.assemble((heading, "bold"), "\n", body), classes="part")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        closing = self._model.closing
        status: Status = closing.status if isinstance(closing, Finished) else "failed"
        self.query_one(Head).show(status, self._model)
        self.query_one("#story").focus()

    def _gain(self) -> Content:
        closing = self._model.closing
        lines = []
        if isinstance(closing, Finished):
            n, time = closing.step, duration(closing.seconds)
            stopped = n_(
                "The run stopped as you asked after {n:,} step and {time}.",
                "The run stopped as you asked after {n:,} steps and {time}.",
                n, time=time,
            )  # fmt: skip
            finished = n_(
                "The run finished after {n:,} step and {time}.",
                "The run finished after {n:,} steps and {time}.",
                n, time=time,
            )  # fmt: skip
            lines.append(Content(stopped if closing.status == "stopped" else finished))
            if self._model.gain:
                moved = Content.styled(change(*self._model.gain), "bold")
                lines.append(fill(self._measured(), change=moved))
            else:
                unmeasured = _(
                    "The loss before and after was not measured (eval_docs, or the run was cut short)."
                )
                lines.append(Content(unmeasured))
        return Content("\n").join(lines)

    def _measured(self) -> str:
        """What the loss before and after is one of, with the place {change} for them."""
        if not self._model.after:
            return _("Loss, before and after:  {change}")
        return n_("Loss on {n} document, before and after:  {change}",
                  "Loss on {n} documents, before and after:  {change}",
                  self._model.after.documents, change="{change}")  # fmt: skip

    def _files(self) -> Content:
        saved = saved_files(self.run_dir, self._model)
        rest = (self.run_dir.settings, self.run_dir.train_log, self.run_dir.events, self.run_dir.log)
        where = one_line(str(self.run_dir.path))
        lines = [fill(_("{files} in {folder}"), files=Content.styled(_("Files"), "bold"), folder=where)]
        if len(saved) > SHOWN_FILES:
            older = n_("and {n} older one", "and {n} older ones", len(saved) - SHOWN_FILES)
            lines.append(Content.styled(f"  {older}", "dim"))
        for path in (*saved[-SHOWN_FILES:], *(p for p in rest if p.is_file())):
            note = "  " + _("the last one saved") if saved and path == saved[-1] else ""
            name = one_line(str(path.relative_to(self.run_dir.path)))
            lines.append(
                Content.assemble(
                    f"  {column(name, max(18, cell_len(name)))}{size(path.stat().st_size):>10}",
                    (note, "$accent"),
                )
            )
        return Content("\n").join(lines)

    def _next(self) -> list[tuple[str, str]]:
        """What to do next: headings, and text that can be copied."""
        settings, plan = self._settings, self._model.plan
        data, ctx_len = (settings.data_file, settings.ctx_len) if settings else (None, 512)
        method, version = (plan.method, plan.version) if plan else ("state", "x070")
        parts = next_steps.steps(
            method, self._base, result(self.run_dir, self._model, method), version, data, ctx_len
        )
        heading, body = parts[0]
        return [(heading, plain(body)) for heading, body in [(heading, self._doubt + body), *parts[1:]]]

    def action_copy(self) -> None:
        self.app.copy_to_clipboard("\n\n".join(f"{heading}\n{body}" for heading, body in self._next()))
        self.notify(_("Sent to the terminal's clipboard (most terminals allow it, some do not)."))

    def action_talk(self) -> None:
        self.app.open_chat(self.run_dir)

    def action_log(self) -> None:
        self.app.push_screen(LogScreen(self.run_name, self.run_dir, lambda: self._model))


def _answer(who: str, color: str, text: str) -> Content:
    return Content.assemble((f"{who}\n", f"bold {color}"), plain(text).strip())
