"""Two small dialogues: a question with yes and no, and a line to type."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label

from engine.contract.i18n import N_, _
from rwkv_tui.keys import key_of
from rwkv_tui.screens.base import TuneDialog
from rwkv_tui.widgets.plain_input import PlainInput


class AskScreen(TuneDialog[bool]):
    """Answers True only to an explicit yes; `n` and escape mean no."""

    BINDINGS = [
        Binding("y", "answer(True)", N_("Yes"), id="ask.yes"),
        Binding("n,escape", "answer(False)", N_("No"), id="ask.no"),
        Binding("left,right", "app.focus_next", N_("Other button"), show=False, id="ask.focus_next"),
    ]

    def __init__(self, question: str, yes: str) -> None:
        super().__init__()
        self._question = question
        self._yes = yes

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog asking", can_focus=False):
            yield Label(self._question, markup=False)
            with Horizontal(classes="buttons"):
                yield Button(_("No ({key})", key=key_of(self, "ask.no")), id="no", compact=True)
                yes = f"{self._yes} ({key_of(self, 'ask.yes')})"
                yield Button(yes, id="yes", variant="warning", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class NameScreen(TuneDialog[str]):
    """Asks for one line of text; escape answers with an empty one."""

    BINDINGS = [Binding("escape", "cancel", N_("Cancel"), id="name.cancel")]

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self._question = question
        self._value = value

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog", can_focus=False):
            yield Label(self._question, markup=False)
            yield PlainInput(self._value, compact=True)
            said = _("Enter accepts, {key} leaves it.", key=key_of(self, "name.cancel"))
            yield Label(said, classes="dim")

    @on(Input.Submitted)
    def _accept(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())

    def action_cancel(self) -> None:
        self.dismiss("")
