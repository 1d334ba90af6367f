"""Saved settings: what loading one would change, load one, delete one's own, import a script."""

from __future__ import annotations

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Label, OptionList, Static
from textual.widgets.option_list import Option

from engine.contract.errors import SettingsError, UserError
from engine.contract.i18n import N_, _, n_
from engine.contract.presets import Preset, PresetStore
from rwkv_tui.draft import Draft
from rwkv_tui.plain import column, one_line, plain
from rwkv_tui.screens.ask import AskScreen
from rwkv_tui.screens.base import TuneDialog
from rwkv_tui.widgets.picker import Picker


class PresetScreen(TuneDialog["Preset | None"]):
    """A list and, for each, what it would change in `draft`; answers with the preset to load, or None."""

    HELP_TEXT = N_(
        "Presets: load one into the form, or delete one of your own. What loading would change is said "
        "beside it. A training script for RWKV-PEFT becomes presets here, and what it means is said first."
    )
    BINDINGS = [
        Binding("enter", "load", N_("Load"), show=True, id="presets.load"),
        Binding("d,delete", "delete", N_("Delete"), id="presets.delete"),
        Binding("i", "import", N_("Import a script"), id="presets.import"),
        Binding("escape,q", "dismiss(None)", N_("Close"), id="presets.close"),
    ]

    def __init__(self, store: PresetStore, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self._store = store
        self._presets: list[Preset] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog full"):
            yield Label(_("Presets"), classes="title")
            with Horizontal():
                yield Picker("presets")
                with VerticalScroll(id="preview"):
                    yield Static(id="text")
            yield Footer(compact=True)

    def on_mount(self) -> None:
        self._list()
        self.query_one("#presets").focus()

    def _list(self) -> None:
        options = self.query_one("#presets", OptionList)
        options.clear_options()
        try:
            self._presets = self._store.all()
        except UserError as error:
            self.query_one("#text", Static).update(Content.styled(f"! {plain(str(error))}", "$text-error"))
            return
        names = [one_line(preset.name) for preset in self._presets]
        width = max(map(cell_len, names), default=0)
        for name, preset in zip(names, self._presets, strict=True):
            owner = _("shipped") if preset.shipped else _("yours")
            options.add_option(Option(Content.assemble(column(name, width), (f"  {owner}", "dim"))))
        options.highlighted = 0 if self._presets else None

    def _chosen(self) -> Preset | None:
        place = self.query_one("#presets", OptionList).highlighted
        return None if place is None or place >= len(self._presets) else self._presets[place]

    @on(OptionList.OptionHighlighted)
    def _preview(self) -> None:
        preset = self._chosen()
        if preset is not None:
            self.query_one("#text", Static).update(preview(preset, self._draft))

    @on(OptionList.OptionSelected)
    def action_load(self) -> None:
        """A broken preset is not loaded; the preview says what is wrong with it."""
        preset = self._chosen()
        if preset is None:
            return
        if problems(preset):
            self.notify(_("This preset is broken and was not loaded; see the preview."), severity="error")
        else:
            self.dismiss(preset)

    def action_import(self) -> None:
        from rwkv_tui.screens.wizard.import_script import ImportScreen

        self.app.push_screen(ImportScreen(self._store), self._imported)

    def _imported(self, name: str | None) -> None:
        """Shows what was imported."""
        if name:
            self._list()
            names = [preset.name for preset in self._presets]
            self.query_one("#presets", OptionList).highlighted = names.index(name)

    def action_delete(self) -> None:
        preset = self._chosen()
        if preset is None:
            return
        if preset.shipped:
            self.notify(_("Shipped presets stay; only your own can be deleted."), severity="warning")
            return
        question = _("Delete your preset {name}?", name=preset.name)
        self.app.push_screen(AskScreen(question, _("Delete")), self._delete)

    def _delete(self, yes: bool | None) -> None:
        preset = self._chosen()
        if not yes or preset is None:
            return
        try:
            self._store.delete(preset.name)
        except UserError as error:
            self.notify(plain(str(error)), severity="error", markup=False)
        self._list()


def problems(preset: Preset) -> list[str]:
    """What is wrong with a preset, each with key and line; empty when it can be loaded."""
    try:
        _ = preset.values
    except SettingsError as error:
        return [str(p) for p in error.problems]
    return []


def preview(preset: Preset, draft: Draft) -> Content:
    """What loading it would change, or what is wrong with it, and the file itself."""
    if wrong := problems(preset):
        head = [Content.styled(_("This preset is broken:"), "bold $text-error")]
        head += [Content.styled(f"! {plain(p)}", "$text-error") for p in wrong]
    else:
        head = _difference(draft.differences(preset.values))
    lines = [_line(line) for line in preset.text.splitlines() if line.strip()]
    return Content("\n").join([*head, Content(""), *lines])


def _line(line: str) -> Content:
    """A line of the file; a comment that we wrote is told in the person's language."""
    if not line.startswith("#"):
        return Content(plain(line))
    return Content.styled(plain("# " + _(line.lstrip("# "))), "$foreground 60%")


def _difference(rows: list[tuple[str, str, str]]) -> list[Content]:
    if not rows:
        return [Content.styled(_("Changes nothing: the form has these values."), "bold $primary")]
    head = n_("Changes one value:", "Changes {n} values:", len(rows))
    width = max(len(name) for name, _, _ in rows)
    return [Content.styled(head, "bold $primary")] + [
        Content.assemble(
            f"{name:<{width}}  ", (_shown(now), "$text-error"), " → ", (_shown(then), "bold $text-success")
        )
        for name, now, then in rows
    ]


def _shown(text: str) -> str:
    return plain(text) or _("nothing")
