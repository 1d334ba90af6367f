"""A training script for RWKV-PEFT becomes presets: first what it means here, then, if wished, saved."""

from __future__ import annotations

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Input, Label, Static

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.contract.presets import PresetStore
from engine.contract.script import Script
from rwkv_tui.app import TuneApp
from rwkv_tui.keys import key_of
from rwkv_tui.plain import plain
from rwkv_tui.screens.base import TuneDialog
from rwkv_tui.services.files import is_file
from rwkv_tui.services.scripts import read_script_file, save_script
from rwkv_tui.widgets.path_input import PathInput


class ImportScreen(TuneDialog[str]):
    """Answers with the name of the first preset made; escape answers with an empty one."""

    app = getters.app(TuneApp)
    HELP_TEXT = N_("Import: the path of a .sh file. It is read, never run. Enter saves what could run.")
    BINDINGS = [Binding("escape", "dismiss('')", N_("Close"), id="import.close")]

    def __init__(self, store: PresetStore) -> None:
        super().__init__()
        self._store = store
        self._script: Script | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog full"):
            yield Label(id="import-title", classes="title")
            yield PathInput(cwd=self.app.cwd, suffixes=(".sh",), placeholder="demo-state.sh")
            with VerticalScroll(id="told"):
                yield Static(_("It is read and never run."), markup=False)
            yield Footer(compact=True)

    def on_mount(self) -> None:
        key = key_of(self._input, "path.complete")
        title = _("Import a training script ({key} completes, Enter saves)", key=key)
        self.query_one("#import-title", Label).update(title)

    @property
    def _input(self) -> PathInput:
        return self.query_one(PathInput)

    def _say(self, content: Content) -> None:
        self.query_one("#told Static", Static).update(content)  # unsaid

    @on(PathInput.Candidates)
    def _candidates(self, event: PathInput.Candidates) -> None:
        if event.names:
            self._say(Content(plain("  ".join(event.names))))

    @on(Input.Changed)
    def _look(self) -> None:
        """Says what the commands of the file would do, as soon as its name is written."""
        self._script = None
        if not is_file(self._input.path):
            self._say(Content(_("It is read and never run.")))
            return
        try:
            self._script = read_script_file(self._input.path)
        except UserError as error:
            self._say(Content.styled(f"! {plain(str(error))}", "$text-error"))
            return
        self._say(_meaning(self._script))

    @on(Input.Submitted)
    def _save(self) -> None:
        if self._script is None:
            return
        try:
            saved = save_script(self._script, self._input.path, self._store)
        except UserError as error:
            self.notify(plain(str(error)), severity="error", title=_("Not saved"), markup=False)
            return
        self.dismiss(next(iter(saved)))


def _meaning(script: Script) -> Content:
    """What keeps it from being saved, what should be known, and the values."""
    lines = []
    for run in script.runs:
        lines += [Content.styled(f"✗ {plain(str(p))}", "$text-error") for p in run.problems]
    lines += [Content.styled(f"! {plain(note)}", "$text-warning") for note in script.notes]
    for run in script.runs:
        lines.append(Content.styled(_("The command in line {n} sets", n=run.line), "bold $primary"))
        lines += [Content(plain(f"{name}: {value}")) for name, value in run.values.items()]
    return Content("\n").join(lines)
