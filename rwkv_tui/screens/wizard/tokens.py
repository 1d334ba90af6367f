"""Any document or window of the data as tokens: what is learned of it, only read, cut off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.contract.reports import DocumentTokens
from rwkv_tui.marks import TOKEN_SIGNS, TOKEN_WORDS, rest, stretches, title
from rwkv_tui.plain import plain
from rwkv_tui.screens.ask import NameScreen
from rwkv_tui.screens.base import TuneScreen
from rwkv_tui.services.jobs import document

STYLES = {
    "trained": ("$text-success on $success-muted", "$text-success on $success-muted 50%"),
    "masked": ("$foreground on $panel", "$foreground on $surface"),
    "cut": ("$text-error strike on $error-muted", "$text-error strike on $error-muted 50%"),
    "end": ("$text-accent reverse", "$text-accent reverse"),
    "padding": ("$text-muted on $panel", "$text-muted on $surface"),
}
"""Two for each kind, in turn, so that one sees where a token ends."""


class TokenScreen(TuneScreen[None]):
    """Reads one document or window at a time in a process of its own."""

    HELP_TEXT = N_(
        "Tokens: each document, or with dataload get each window, as training sees it. Shades alternate "
        "from token to token."
    )
    BINDINGS = [
        Binding("right,n", "move(1)", N_("Next one"), id="tokens.move"),
        Binding("left,p", "move(-1)", N_("Previous one"), id="tokens.move_back"),
        Binding("g", "ask", N_("Go to"), id="tokens.ask"),
        Binding("escape,q", "dismiss(None)", N_("Back"), id="tokens.close"),
    ]

    def __init__(self, paths: Sequence[Path], flags: Sequence[str], number: int = 1) -> None:
        """`paths` are the data, `flags` say how it is read and what is learned of it."""
        super().__init__()
        self._paths, self._flags = tuple(map(str, paths)), tuple(flags)
        self._number = self._shown = number

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        with VerticalScroll(id="tokens"):
            yield Static(id="text")
        yield Static(legend(), id="legend")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one("#tokens").focus()
        self._read(self._number)

    def action_move(self, by: int) -> None:
        self._read(max(1, self._number + by))

    def action_ask(self) -> None:
        self.app.push_screen(NameScreen(_("Number of the document or window")), self._asked)

    def _asked(self, text: str | None) -> None:
        if text and text.isdecimal():
            self._read(max(1, int(text)))
        elif text:
            self.notify(_("{text} is no number.", text=plain(text)), severity="error", markup=False)

    def _read(self, number: int) -> None:
        self._number = number
        self._say(_("Reading number {n:,} …", n=number), "$text-primary")
        self._show(number)

    @work(exclusive=True)
    async def _show(self, number: int) -> None:
        try:
            answer = await document("show", *self._flags, "--", *self._paths, str(number))
        except UserError as error:
            self._number = self._shown  # where one still is
            self._say(f"! {plain(str(error))}", "$text-error")
            return
        self._shown = number
        found = DocumentTokens.model_validate_json(answer)
        self._say(title(found), "bold")
        self.query_one("#text", Static).update(text(found))
        self.query_one("#tokens").scroll_home(animate=False)

    def _say(self, words: str, style: str) -> None:
        self.query_one("#head", Static).update(Content.styled(words, style))


def text(found: DocumentTokens) -> Content:
    """The tokens, each stretch of one kind behind its sign."""
    parts: list[tuple[str, str]] = []
    for place, (sign, kind, written) in enumerate(stretches(found)):
        parts += [(sign, "dim"), (written, STYLES[kind][place % 2])]
    return Content.assemble(*parts, ("\n" + rest(found), "dim"))


def legend() -> Content:
    """What signs and colours mean."""
    words = ((f"{sign} {_(TOKEN_WORDS[kind])}", STYLES[kind][0]) for kind, sign in TOKEN_SIGNS.items())
    return Content("  ").join(Content.styled(*word) for word in words)
