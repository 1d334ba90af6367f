"""The keys of the screen underneath."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from textual import getters
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.contract.i18n import N_, _
from rwkv_tui.app import TuneApp
from rwkv_tui.keys import key_of, spell_key
from rwkv_tui.plain import column
from rwkv_tui.screens.base import TuneDialog

ALWAYS = (
    (("vi.down", "vi.up", "vi.left", "vi.right", "vi.first", "vi.last"),
     N_("As arrows, Home and End, except while typing")),
    (("app.commands",), N_("All commands, by name")),
    (("app.help",), N_("This help; function keys work while typing, too")),
)  # fmt: skip
"""Names of keys that work everywhere, and what they do."""


class HelpScreen(TuneDialog[None]):
    """Lists every key that works on the screen it was called from, with what it does."""

    app = getters.app(TuneApp)
    BINDINGS = [Binding("escape,question_mark,f1,q,enter", "dismiss(None)", N_("Close"), id="help.close")]

    def __init__(self, about: str, bindings: Iterable[ActiveBinding]) -> None:
        super().__init__()
        self._about = about
        self._keys = tuple(bindings)

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide"):
            if self._about:
                yield Static(self._about, markup=False)
            rows = [*key_rows(self._keys), *self._everywhere()]
            width = max(cell_len(keys) for keys, _what in rows)
            lines = [
                Content.assemble((f"{column(keys, width)}  ", "bold $primary"), what) for keys, what in rows
            ]
            yield Static(Content("\n").join(lines), id="keys")
            yield Static(_("{key} closes this.", key=key_of(self, "help.close")), classes="dim")

    def _everywhere(self) -> Iterator[tuple[str, str]]:
        yield "tab, shift+tab", _("Next and previous field")  # unsaid
        for names, what in ALWAYS:
            yield " ".join(all_keys(self.app, name) for name in names), _(what)
        yield "ctrl+q", _("Quit; runs go on without the screen")


def all_keys(app: TuneApp, name: str) -> str:
    """The keys that work everywhere and do what is called `name`, as they are now."""
    ours = next(b.key for b in TuneApp.BINDINGS if isinstance(b, Binding) and b.id == name)
    return ", ".join(spell_key(key) for key in app.keys.get(name, ours).split(","))


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
