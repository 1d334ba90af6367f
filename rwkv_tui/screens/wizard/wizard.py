"""The wizard: four panes under a trail, with free movement between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.widgets import Footer, Input

from engine.contract.i18n import N_, _
from rwkv_tui.app import TuneApp
from rwkv_tui.draft import Draft
from rwkv_tui.plain import plain
from rwkv_tui.screens.base import TuneScreen
from rwkv_tui.screens.wizard.pane import Pane
from rwkv_tui.widgets.trail import Mark, Trail

if TYPE_CHECKING:
    from engine.contract.presets import Preset, PresetStore

PANES = ("Data", "Model", "Parameters", "Review")


def _make_pane(step: str, draft: Draft, cwd: Path, source: Path | None) -> Pane:
    """A pane is made when it is first visited: start-up pays only for the first."""
    if step == "Data":
        from rwkv_tui.screens.wizard.data import DataPane

        return DataPane(draft, cwd, id=step, source=source)
    if step == "Model":
        from rwkv_tui.screens.wizard.model import ModelPane

        return ModelPane(draft, cwd, id=step)
    if step == "Parameters":
        from rwkv_tui.screens.wizard.parameters import ParametersPane

        return ParametersPane(draft, cwd, id=step)
    from rwkv_tui.screens.wizard.review import ReviewPane

    return ReviewPane(draft, cwd, id=step)


class WizardScreen(TuneScreen[None]):
    """From data to launch. Panes and draft live as long as the application."""

    app = getters.app(TuneApp)
    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (150, "-broad")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-tall")]
    BINDINGS = [
        Binding("ctrl+p,left_square_bracket,alt+left", "back", N_("Back"), id="wizard.back"),
        Binding("ctrl+n,right_square_bracket,alt+right", "next", N_("Next"), id="wizard.next"),
        Binding("1", "go('Data')", N_("Data"), show=False, id="wizard.go_data"),
        Binding("2", "go('Model')", N_("Model"), show=False, id="wizard.go_model"),
        Binding("3", "go('Parameters')", N_("Parameters"), show=False, id="wizard.go_parameters"),
        Binding("4", "go('Review')", N_("Review"), show=False, id="wizard.go_review"),
        Binding("f2,p", "presets", N_("Presets"), id="wizard.presets"),
        Binding("escape", "leave", N_("Leave"), show=False, id="wizard.leave"),
    ]

    def __init__(self, draft: Draft, cwd: Path, source: Path | None = None) -> None:
        super().__init__()
        self._source = source
        self.draft = draft
        self.cwd = cwd
        self._current = PANES[0]
        self._field = ""
        self._visited: set[str] = set()

    def about(self) -> str:
        """Of the step that is shown."""
        return _(self._pane(self._current).HELP_TEXT)

    def compose(self) -> ComposeResult:
        yield Trail(self._current)
        yield Container(id="panes")
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        await self._show(self._current, self._field)

    def _pane(self, step: str) -> Pane:
        return self.query_one(f"#{step}", Pane)

    def go(self, step: str = "", field: str = "") -> None:
        """Moves to a step, and to a parameter's field there; or shows anew the step where one is."""
        step = step or self._current
        if not self.is_mounted:
            self._current, self._field = step, field
        else:
            self.call_later(self._show, step, field)

    async def _show(self, step: str, field: str = "") -> None:
        panes = self.query_one("#panes")
        if step not in self._visited:
            self._visited.add(step)
            await panes.mount(_make_pane(step, self.draft, self.cwd, self._source))
        for pane in panes.query_children(Pane):
            pane.display = pane.id == step
        self._current = step
        self.draft.recheck()
        self.draft.suggest_proj_dir(self.cwd)
        await self._pane(step).entered(field)
        self.app.call_after_refresh(self._mark)  # checking loads pydantic, so the first frame goes before
        self.refresh_bindings()

    @on(Trail.Chosen)
    def _clicked(self, event: Trail.Chosen) -> None:
        if event.step in PANES:
            self.go(event.step)

    @on(Pane.Changed)
    def _mark(self) -> None:
        """What the trail says of each step: done, lacking something, or not visited."""
        errors = self.draft.errors
        trail = self.query_one(Trail)
        marks: dict[str, Mark] = {}
        for step, name in (("Data", "data_file"), ("Model", "load_model")):
            given = self.draft.text(name).strip()
            marks[step] = "problem" if given and name in errors else "ok" if given else "todo"
        others = set(errors) - {"data_file", "load_model"}
        marks["Parameters"] = "problem" if others else "ok" if "Parameters" in self._visited else "todo"
        trail.go(self._current, marks)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """At either end there is no way on; the footer does not offer it."""
        ends = {"next": PANES[-1], "back": PANES[0]}
        return ends.get(action) != self._current

    def action_next(self) -> None:
        self.go(PANES[PANES.index(self._current) + 1])

    def action_back(self) -> None:
        self.go(PANES[PANES.index(self._current) - 1])

    def action_go(self, step: str) -> None:
        self.go(step)

    def action_leave(self) -> None:
        """Ends what is under way, else leaves the line being typed, else the wizard; the draft stays."""
        if self._pane(self._current).cancel():
            return
        if isinstance(self.focused, Input):
            self._pane(self._current).rest()
        elif len(self.app.screen_stack) > 2:
            self.app.pop_screen()
        else:
            self.app.open_home()

    def action_presets(self) -> None:
        from rwkv_tui.screens.wizard.presets import PresetScreen

        self.app.push_screen(PresetScreen(self._store(), self.draft), self._load)

    def _store(self) -> PresetStore:
        from engine.contract.presets import PresetStore

        return PresetStore(self.app.paths.presets)

    def _load(self, preset: Preset | None) -> None:
        if preset is not None:
            self.draft.load(preset.values, preset.name)
            self.go("Parameters")
            from engine.contract.settings import train_params

            brings = any(train_params()[name].group == "files" for name in preset.values)
            kept = N_("Loaded the preset {name}; files and model stay as they were.")
            told = _(N_("Loaded the preset {name} with its files.") if brings else kept, name=preset.name)
            self.notify(plain(told), markup=False)
