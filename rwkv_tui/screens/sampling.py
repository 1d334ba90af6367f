"""How answers are drawn, as a small form."""

from __future__ import annotations

from pydantic import ValidationError
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label

from engine.contract.i18n import N_, _
from engine.contract.talk import Sampling
from rwkv_tui.keys import key_of
from rwkv_tui.screens.base import TuneDialog
from rwkv_tui.widgets.plain_input import PlainInput


class SamplingScreen(TuneDialog[Sampling | None]):
    """Answers with what was typed, or None."""

    CSS_PATH = "../styles/chat.tcss"
    BINDINGS = [
        Binding("escape", "dismiss(None)", N_("Cancel"), id="sampling.cancel"),
        Binding("down", "app.focus_next", N_("Next"), show=False, id="sampling.next"),
        Binding("up", "app.focus_previous", N_("Previous"), show=False, id="sampling.previous"),
    ]

    def __init__(self, sampling: Sampling) -> None:
        super().__init__()
        self._sampling = sampling

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide", can_focus=False):
            yield Label(_("How an answer is drawn"), classes="title")
            for name, field in Sampling.model_fields.items():
                with Horizontal(classes="line"):
                    yield Label(name, classes="name")
                    yield PlainInput(f"{getattr(self._sampling, name):g}", id=name, compact=True)
                    yield Label(_(field.description or ""), classes="hint dim")
            yield Label(id="wrong", markup=False)
            said = _("Enter accepts, {key} leaves it.", key=key_of(self, "sampling.cancel"))
            yield Label(said, classes="dim")

    @on(Input.Submitted)
    def _accept(self) -> None:
        typed = {name: self.query_one(f"#{name}", Input).value.strip() for name in Sampling.model_fields}
        try:
            self.dismiss(Sampling.model_validate(typed))
        except ValidationError as error:
            field = str(error.errors()[0]["loc"][0])
            wrong = _("{name}: {value} is out of range or no number.", name=field, value=typed[field] or "''")
            self.query_one("#wrong", Label).update(wrong)
            self.query_one(f"#{field}").focus()
