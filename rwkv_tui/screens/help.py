"""The keys of the screen underneath."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from rwkv_tui.keys import spell_key
from rwkv_tui.screens.base import TuneDialog

ALWAYS = (
    ("tab, shift+tab", "Next and previous field"),
    ("j k h l g G", "As arrows, Home and End, outside of a line being typed"),
    ("f9 or :", "All commands, by name"),
    ("f1 or ?", "This help (F1 also while typing)"),
    ("ctrl+q", "Quit; runs go on without the screen"),
)


class HelpScreen(TuneDialog[None]):
    """Lists every key that works on the screen it was called from, with what it does."""

    BINDINGS = [Binding("escape,question_mark,f1,q,enter", "dismiss(None)", "Close", id="help.close")]

    def __init__(self, about: str, bindings: Iterable[ActiveBinding]) -> None:
        super().__init__()
        self._about = about
        self._rows = [*key_rows(bindings), *ALWAYS]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide"):
            if self._about:
                yield Static(self._about, markup=False)
            width = max(len(keys) for keys, _ in self._rows)
            lines = [
                Content.assemble((f"{keys:<{width}}  ", "bold $primary"), what) for keys, what in self._rows
            ]
            yield Static(Content("\n").join(lines), id="keys")
            yield Static("Esc closes this.", classes="dim")


def our_bindings(bindings: Iterable[ActiveBinding]) -> dict[str, list[ActiveBinding]]:
    """By what they do, in the order of the bindings: those of this program that work now."""
    found: dict[str, list[ActiveBinding]] = {}
    for active in bindings:
        if active.enabled and active.binding.description and _is_ours(active):
            found.setdefault(active.binding.description, []).append(active)
    return found


def spell_keys(bindings: Iterable[ActiveBinding]) -> str:
    """The keys of one action, by comma."""
    keys = (b.key_display or spell_key(b.key) for b in (active.binding for active in bindings))
    return ", ".join(dict.fromkeys(keys))


def key_rows(bindings: Iterable[ActiveBinding]) -> list[tuple[str, str]]:
    """(keys, what they do), keys of one action together."""
    return [(spell_keys(active), what) for what, active in our_bindings(bindings).items()]


def _is_ours(active: ActiveBinding) -> bool:
    """Whether this program declared the key; the toolkit's own, such as a line's editing keys, are known."""
    declared = (
        binding
        for cls in type(active.node).__mro__
        if cls.__module__.startswith(("rwkv_tui.screens", "rwkv_tui.widgets"))
        for binding in vars(cls).get("BINDINGS", ())
    )
    return any(b.action == active.binding.action for b in declared if isinstance(b, Binding))
