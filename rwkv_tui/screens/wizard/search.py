"""Any parameter by its name, or by a word of what is said about it."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from engine.contract.i18n import N_, _
from engine.contract.params import Param
from engine.contract.settings import train_params
from rwkv_tui.draft import Draft
from rwkv_tui.plain import column, one_line
from rwkv_tui.screens.base import TuneDialog
from rwkv_tui.widgets.picker import Picker

NAME_WIDTH, VALUE_WIDTH = 24, 13


def find_params(words: str) -> list[Param]:
    """Those that hold every word: in the name first, then in what is said of them."""
    wanted = words.lower().split()

    def rank(param: Param) -> int:
        others = (param.group, _(param.group), *param.choices, *param.methods)
        said = " ".join((param.help, param.advice, *others)).lower()
        name = param.name.lower()
        if not all(word in name or word in said for word in wanted):
            return -1
        if not all(word in name for word in wanted):
            return 2
        return 0 if name.startswith(wanted[0] if wanted else "") else 1

    ranked = [(rank(param), param) for param in train_params().values()]
    return [param for place in (0, 1, 2) for at, param in ranked if at == place]


class SearchScreen(TuneDialog[str]):
    """Answers with the name of the parameter to go to; escape answers with an empty one."""

    HELP_TEXT = N_("Search: words of a parameter's name or of what it does. Enter goes to its field.")
    BINDINGS = [
        Binding("up", "move(-1)", N_("Up"), show=False, id="search.move_back"),
        Binding("down", "move(1)", N_("Down"), show=False, id="search.move"),
        Binding("escape", "dismiss('')", N_("Close"), id="search.close"),
    ]

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self._found: list[Param] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog full"):
            yield Input(placeholder=_("memory, rate, epoch_save …"), compact=True)
            yield Picker("found")
            yield Static(_("No parameter has these words."), id="none", classes="empty")

    def on_mount(self) -> None:
        self._list("")
        self.query_one(Input).focus()

    def on_resize(self) -> None:
        self._list(self.query_one(Input).value, self.query_one("#found", OptionList).highlighted)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._list(event.value)

    def _list(self, words: str, place: int | None = 0) -> None:
        self._found = find_params(words)
        options = self.query_one("#found", OptionList)
        options.clear_options()
        options.add_options(Option(self._row(param)) for param in self._found)
        options.highlighted = place if self._found else None
        options.display = bool(self._found)
        self.query_one("#none").display = not self._found

    def _row(self, param: Param) -> Content:
        sign = "•" if self._draft.is_changed(param.name) else " "
        value = column(one_line(self._draft.text(param.name)), VALUE_WIDTH - 1)
        room = max(8, self.app.size.width * 95 // 100 - NAME_WIDTH - VALUE_WIDTH - 9)
        return Content.assemble(
            (f"{sign}{param.name:<{NAME_WIDTH}}", "bold"), f"{value} ", (column(param.help, room), "dim")
        )

    def action_move(self, by: int) -> None:
        options = self.query_one("#found", OptionList)
        if by > 0:
            options.action_cursor_down()
        else:
            options.action_cursor_up()

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _pick(self) -> None:
        place = self.query_one("#found", OptionList).highlighted
        self.dismiss(self._found[place].name if place is not None and self._found else "")
