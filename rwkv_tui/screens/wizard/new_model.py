"""A model of random weights, for training from nothing: its few numbers, and the job that writes the file."""

from __future__ import annotations

import time
from pathlib import Path

from textual import getters, on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Footer, Input, Label, Static
from textual.worker import Worker

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from rwkv_tui.app import TuneApp
from rwkv_tui.keys import key_of
from rwkv_tui.plain import duration, plain
from rwkv_tui.screens.base import TuneDialog
from rwkv_tui.services.files import free_file, short
from rwkv_tui.services.jobs import document
from rwkv_tui.widgets.choice import Choice
from rwkv_tui.widgets.field import NumberInput
from rwkv_tui.widgets.path_input import PathInput

VERSIONS = {"x070": "RWKV-7", "x060": "RWKV-6", "x052": "RWKV-5"}
NUMBERS = {
    "n-layer": (N_("Layers"), "12"),
    "n-embd": (N_("Width"), "768"),
    "vocab-size": (N_("Vocabulary"), "65536"),
    "seed": (N_("Seed"), "0"),
}
"""By flag of the job: how it is called here, and what it is at first."""


class NewModelScreen(TuneDialog["Path | None"]):
    """Answers with the file that was made, or None."""

    app = getters.app(TuneApp)
    HELP_TEXT = N_(
        "New model: random weights, as one begins a training from nothing with. A state, and an adapter, "
        "need a model that has learned something."
    )
    BINDINGS = [
        Binding("up", "app.focus_previous", N_("Between fields"), show=False, id="form.focus_previous"),
        Binding("down", "app.focus_next", N_("Between fields"), show=False, id="form.focus_next"),
        Binding("f4", "make", N_("Make it"), id="new_model.make"),
        Binding("escape", "leave", N_("Cancel"), id="new_model.leave"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._job: Worker[None] | None = None
        self._began = 0.0

    def compose(self) -> ComposeResult:
        file = free_file(self.app.cwd / "models" / "new.pth")
        with VerticalScroll(classes="dialog wide", can_focus=False):
            yield Label(_("A model of random weights"), classes="title")
            with Horizontal(classes="line"):
                yield Label(_("Version"), classes="name")
                yield Choice(tuple(VERSIONS), "x070", labels=VERSIONS, id="version")
            for name, (called, value) in NUMBERS.items():
                with Horizontal(classes="line"):
                    yield Label(_(called), classes="name")
                    yield NumberInput(value, id=name, compact=True, select_on_focus=False)
            with Horizontal(classes="line"):
                yield Label(_("Model file"), classes="name")
                yield PathInput(short(file, self.app.cwd), cwd=self.app.cwd, suffixes=("/",), id="new-file")
            yield Button(_("Make it ({key})", key=key_of(self, "new_model.make")), id="make", compact=True)
            yield Static(id="said", markup=False)
            yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one("#version").focus()
        self.set_interval(1, self._tick)

    def _say(self, text: str, style: str = "") -> None:
        self.query_one("#said", Static).update(Content.styled(plain(text), style))

    def _tick(self) -> None:
        if self._job is not None:
            took, key = duration(time.monotonic() - self._began), key_of(self, "new_model.leave")
            self._say(_("Making it … {time}; {key} ends this.", time=took, key=key))

    @on(Button.Pressed)
    @on(Input.Submitted)
    def action_make(self) -> None:
        """Starts the job, which writes over nothing."""
        if self._job is not None:
            return
        file = self.query_one("#new-file", PathInput)
        if file.path.suffix != ".pth":
            self._say(_("! The file is to end in .pth."), "$text-error")
            return
        numbers = {name: self.query_one(f"#{name}", Input).value.strip() for name in NUMBERS}
        wrong = next((name for name, text in numbers.items() if not text.isdecimal()), None)
        if wrong is not None:
            told = _("! {name} must be a whole number.", name=_(NUMBERS[wrong][0]))
            self._say(told, "$text-error")
            return
        version = self.query_one("#version", Choice).value
        flags = [f"--{name}={text}" for name, text in numbers.items()]
        self._began = time.monotonic()
        self._job = self._make(file.path, [f"--version={version}", *flags, f"--out={file.path}"])
        self._tick()

    @work(exclusive=True, group="init")
    async def _make(self, file: Path, flags: list[str]) -> None:
        try:
            await document("init", *flags)
        except UserError as error:
            self._job = None
            self._say(f"! {error}", "$text-error")
            return
        self.dismiss(file)

    def action_leave(self) -> None:
        """Ends the job, which leaves nothing behind; else leaves."""
        if self._job is None:
            self.dismiss(None)
            return
        self._job.cancel()
        self._job = None
        self._say(_("Cancelled; nothing was written."), "$text-warning")
