"""One parameter in a form: its name, an editor that suits its kind, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Label, Static

from engine.contract.i18n import _
from engine.contract.params import Param
from rwkv_tui.widgets.choice import Choice
from rwkv_tui.widgets.path_input import PathInput
from rwkv_tui.widgets.plain_input import PlainInput

NOT_IN_NUMBERS = ("?", "/", ":")


class NumberInput(PlainInput):
    """An input for numbers: what no number holds goes on to whom it means help, search or commands."""

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return character not in NOT_IN_NUMBERS and super().check_consume_key(key, character)

    def _on_key(self, event: events.Key) -> None:  # type: ignore[override]
        if event.character in NOT_IN_NUMBERS:
            event.prevent_default()


SUFFIXES = {"load_model": (".pth",), "data_file": (".idx", ".bin")}


class Field(Vertical):
    """Posts `Edited` with the text as typed; `show` puts one in without posting."""

    DEFAULT_CSS = """
    Field { height: auto; }
    Field > Horizontal { height: 1; }
    Field Label { width: auto; min-width: 18; padding: 0 1 0 0; }
    Field.-changed Label { color: $text-accent; text-style: bold; }
    Field Input, Field Choice { width: 1fr; }
    Field > .error { display: none; height: auto; color: $text-error; padding: 0 1 0 2; }
    Field.-wrong > .error { display: block; }
    Field.-wrong Label { color: $text-error; }
    """

    class Edited(Message):
        """The text of a parameter changed."""

        def __init__(self, name: str, text: str) -> None:
            super().__init__()
            self.name = name
            self.text = text

    def __init__(self, param: Param, cwd: Path) -> None:
        super().__init__(id=f"field-{param.name}")
        self.param = param
        self._cwd = cwd
        self._error = ""
        self._changed = False

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Label(f" {self.param.name}")
            yield self._editor()
        yield Static(classes="error")

    def _editor(self) -> Input | Choice:
        p = self.param
        if p.kind == "choice":
            return Choice(p.choices, "")
        if p.kind == "bool":
            return Choice(("0", "1"), "", labels={"0": _("off"), "1": _("on")})
        if p.kind == "path":
            return PathInput(cwd=self._cwd, suffixes=SUFFIXES.get(p.name, ()))
        kind = NumberInput if p.kind in ("int", "float") else PlainInput
        return kind(compact=True, select_on_focus=False)

    @property
    def editor(self) -> Input | Choice:
        for widget in self.query("Input, Choice").results():  # unsaid
            assert isinstance(widget, (Input, Choice))
            return widget
        raise LookupError(self.param.name)

    def show(self, text: str) -> None:
        """Puts in a text."""
        editor = self.editor
        if editor.value != text:
            with self.prevent(Input.Changed, Choice.Changed):
                editor.value = text

    def mark(self, error: str) -> None:
        """Says what is wrong with the text; nothing when it is empty."""
        if error != self._error:
            self._error = error
            self.set_class(bool(error), "-wrong")
            self.query_one(".error", Static).update(Content(f"! {error}" if error else ""))

    def mark_changed(self, changed: bool) -> None:
        """Shows with a sign, too, that the value is not the preset's."""
        if changed != self._changed:
            self._changed = changed
            self.set_class(changed, "-changed")
            self.query_one(Label).update(f"{'•' if changed else ' '}{self.param.name}")

    def on_click(self) -> None:
        """On its name or what is wrong with it, too."""
        if not self.editor.has_focus:
            self.editor.focus()

    @on(Input.Changed)
    @on(Choice.Changed)
    def _edited(self, event: Input.Changed | Choice.Changed) -> None:
        event.stop()
        self.post_message(self.Edited(self.param.name, event.value))
