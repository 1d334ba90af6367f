"""The list of a person's runs."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from textual import getters, on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Label, OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import get_current_worker

from engine.contract.errors import UserError
from engine.contract.presets import Preset, PresetStore
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.app import TuneApp
from rwkv_tui.plain import duration, plain
from rwkv_tui.services.launch import resume
from rwkv_tui.services.runs import RESUMABLE, RunSummary, summarise_runs
from rwkv_tui.widgets.picker import Picker

REFRESH = 2.0  # seconds
SIGNS = {
    "starting": ("○", "$foreground"), "running": ("●", "$text-success"), "stopping": ("◐", "$text-warning"),
    "finished": ("✓", "$text-success"), "stopped": ("■", "$text-warning"),
    "failed": ("✗", "$text-error"), "died": ("✗", "$text-error"),
}  # fmt: skip


class HomeScreen(Screen[None]):
    """Runs, newest first, as they stand now; the way into the wizard."""

    app = getters.app(TuneApp)
    CSS_PATH = "../styles/home.tcss"
    HELP_TEXT = "Your runs. They go on whether this program is open or not."
    BINDINGS = [
        Binding("enter", "open", "Open"),
        Binding("n", "new", "New run"),
        Binding("r", "resume", "Resume"),
        Binding("p", "presets", "Presets"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[RunSummary] = []

    def compose(self) -> ComposeResult:
        head = Content.assemble((" rwkv-tune ", "bold reverse $primary"), "  fine-tune RWKV")
        yield Static(head, id="head")
        yield Label(id="columns", classes="title")
        yield Picker("runs")
        yield Static(id="empty")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.set_interval(REFRESH, self._refresh)

    def on_screen_resume(self) -> None:
        self._refresh()

    def on_resize(self) -> None:
        self._show(self._runs)

    def _refresh(self) -> None:
        if self.app.screen is self:  # `is_current` also holds right beneath another screen
            self._read()

    @work(thread=True, exclusive=True, group="runs")
    def _read(self) -> None:
        runs = summarise_runs(self.app.paths.runs)
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._show, runs)

    def _show(self, runs: list[RunSummary]) -> None:
        """Keeps the highlighted run under the cursor when the list moves."""
        options = self.query_one("#runs", OptionList)
        place = options.highlighted
        name = self._runs[place].name if place is not None and place < len(self._runs) else ""
        self._runs = runs
        options.clear_options()
        options.add_options(Option(self._row(run)) for run in runs)
        names = [run.name for run in runs]
        options.highlighted = names.index(name) if name in names else 0 if runs else None
        options.display = bool(runs)
        self.query_one("#columns").display = bool(runs)
        titles = self._columns("  Run", "status", "steps", "loss", "last word")
        self.query_one("#columns", Label).update(titles)
        empty = self.query_one("#empty", Static)
        empty.display = not runs
        empty.update("No runs yet. Press n to begin one: data, model, parameters, launch.")
        if runs and self.focused is None:
            options.focus()

    def _columns(self, name: str, status: str, steps: str, loss: str, when: str) -> str:
        width = max(16, self.size.width - 55)
        name = name if cell_len(name) <= width else set_cell_size(name, width - 1) + "…"
        return f"{set_cell_size(name, width)} {status:<10}{steps:>17}{loss:>9}  {when:>12}"

    def _row(self, run: RunSummary) -> Content:
        sign, style = SIGNS[run.status]
        steps = f"{run.step:,} of {run.steps:,}" if run.steps else ""
        loss = f"{run.loss:.3f}" if run.loss is not None else ""
        when = f"{duration(self.app.clock() - run.updated)} ago" if run.updated else ""
        text = self._columns(f"  {plain(run.name)}", run.status, steps, loss, when)
        return Content.assemble((sign, style), text[1:])

    def _chosen(self) -> RunSummary | None:
        """The run under the cursor."""
        place = self.query_one("#runs", OptionList).highlighted
        return self._runs[place] if place is not None and place < len(self._runs) else None

    @on(OptionList.OptionSelected)
    def action_open(self) -> None:
        """Goes into the run under the cursor."""
        if run := self._chosen():
            self.app.open_run(run.name, RunDir(run.proj_dir))

    @on(OptionList.OptionHighlighted)
    def _moved(self) -> None:
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Resuming is offered for a run that was stopped or broke off."""
        if action == "resume":
            run = self._chosen()
            return run is not None and run.status in RESUMABLE
        return True

    def action_resume(self) -> None:
        """Goes on with the run under the cursor, and into it."""
        if run := self._chosen():
            try:
                resume(run.name, RunDir(run.proj_dir), RunList(self.app.paths.runs))
            except UserError as error:
                self.notify(str(error), severity="error", markup=False)
            else:
                self.action_open()

    def action_new(self) -> None:
        self.app.open_wizard()

    def action_presets(self) -> None:
        from rwkv_tui.screens.wizard.presets import PresetScreen

        self.app.push_screen(PresetScreen(PresetStore(self.app.paths.presets)), self._begin_with)

    def _begin_with(self, preset: Preset | None) -> None:
        if preset is not None:
            self.app.draft.load(preset.values)
            self.app.open_wizard("Data")
