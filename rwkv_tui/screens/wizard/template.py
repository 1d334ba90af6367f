"""The template that makes text of conversations: read it, change it, keep it in a file."""

from __future__ import annotations

from pathlib import Path

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Footer, Label, Static, TextArea

from engine.contract.files import write_atomic
from engine.contract.i18n import N_, _
from rwkv_tui.keys import key_of
from rwkv_tui.plain import plain
from rwkv_tui.screens.base import TuneDialog

ABOUT = N_(
    "A blank line separates the turns. A turn takes the first block whose places it fills: "
    "{system} {user} {think} {assistant} {instruction} {input} {response}."
)


class TemplateScreen(TuneDialog["Path | None"]):
    """Answers with the file that holds the template now, or None when it stays as it was."""

    HELP_TEXT = N_("Template: how conversations become the text that is learned. It can be kept in a file.")
    BINDINGS = [
        Binding("ctrl+s", "save", N_("Keep and use"), priority=True, id="template.save"),
        Binding("escape", "dismiss(None)", N_("Leave it"), id="template.close"),
    ]

    def __init__(self, text: str, file: Path, name: str, mine: bool) -> None:
        """`file` is called `name` here; `mine`: the text came from it, so it may be written over."""
        super().__init__()
        self._text, self._file, self._called, self._mine = text, file, name, mine

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog full"):
            yield Label(_("Template"), classes="title")
            yield Static(_(ABOUT), markup=False, classes="dim")
            area = TextArea(self._text, id="template", compact=True, soft_wrap=True)
            area.cursor_blink = False
            yield area
            key, name = key_of(self, "template.save"), plain(self._called)
            yield Static(_("{key} keeps it in {name}.", key=key, name=name), id="said", markup=False)
            yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one(TextArea).focus()

    def action_save(self) -> None:
        """A file that somebody else made since is not written over."""
        try:
            if self._file.exists() and not self._mine:
                self._refuse(_("! Not kept: {file} is there already.", file=plain(self._called)))
                return
            write_atomic(self._file, self.query_one(TextArea).text)
        except OSError as error:
            self._refuse(_("! Not kept: {reason}.", reason=plain(str(error))))
            return
        self.dismiss(self._file)

    def _refuse(self, told: str) -> None:
        self.query_one("#said", Static).update(Content.styled(told, "$text-error"))
