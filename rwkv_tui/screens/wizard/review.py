"""Step 4: what will happen, where it goes, the same as a command, and the launch."""

from __future__ import annotations

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Label, OptionList, Static
from textual.widgets.option_list import Option

from engine.contract.errors import Problem, UserError
from engine.contract.flags import changed
from engine.contract.i18n import N_, _
from engine.contract.presets import PresetStore, render_yaml
from engine.contract.risks import risks
from engine.contract.settings import TrainSettings
from rwkv_tui.app import TuneApp
from rwkv_tui.keys import key_of
from rwkv_tui.plain import plain
from rwkv_tui.screens.ask import NameScreen
from rwkv_tui.screens.wizard.pane import Pane
from rwkv_tui.services.files import short
from rwkv_tui.services.launch import launch, with_absolute_paths
from rwkv_tui.widgets.picker import Picker
from rwkv_tui.widgets.review_text import TOPICS, command_lines, sentences

STEP_OF = {"data_file": "Data", "load_model": "Model"}


class ReviewPane(Pane):
    """Either the plan with a launch button, or what still keeps it from starting."""

    app = getters.app(TuneApp)
    HELP_TEXT = N_(
        "Review: read what will happen, then launch. While something is missing, "
        "Enter on a line of the list goes to its field."
    )
    BINDINGS = [
        Binding("f5,l", "launch", N_("Launch"), id="review.launch"),
        Binding("f6,s", "save", N_("Save"), id="review.save"),
        Binding("left", "app.focus_previous", N_("Between fields"), show=False, id="review.focus_previous"),
        Binding("right", "app.focus_next", N_("Between fields"), show=False, id="review.focus_next"),
        Binding("y", "copy", N_("Copy"), id="review.copy"),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(id="blockers"):
            yield Label(_("Not ready yet. Enter goes to the field:"), classes="title")
            yield Picker("problems")
        with VerticalScroll(id="plan"):
            for name in TOPICS:
                with Horizontal(classes="sentence"):
                    yield Label(_(name))
                    yield Static(id=f"say-{name}")
            yield Static(id="risks")
            title = _("The same as a command ({key} copies it)", key=key_of(self, "review.copy"))
            yield Label(title, classes="title")
            yield Static(id="command")
        with Horizontal(classes="buttons"):
            launch = _("Launch ({key})", key=key_of(self, "review.launch"))
            save = _("Save as preset ({key})", key=key_of(self, "review.save"))
            yield Button(launch, id="launch", variant="success", compact=True)
            yield Button(save, id="save", compact=True)

    async def entered(self, field: str = "") -> None:
        self._problems = self.draft.problems
        settings = self.draft.settings
        ready = settings is not None
        self.query_one("#blockers").display = not ready
        options = self.query_one("#problems", OptionList)
        options.clear_options()
        options.add_options(Option(_problem_line(p)) for p in self._problems)
        self.query_one("#launch", Button).disabled = not ready
        self._describe(self.draft.approximate())
        if ready:
            self.query_one("#launch").focus()
        else:
            options.highlighted = 0
            options.focus()

    def _describe(self, s: TrainSettings) -> None:
        for name, text in zip(TOPICS, sentences(s, self.draft, self.cwd), strict=True):
            self.query_one(f"#say-{name}", Static).update(Content(plain(text)))
        told = [Content.styled(f"! {plain(str(p))}", "$text-warning") for p in risks(s)]
        self.query_one("#risks", Static).update(Content("\n").join(told))
        self.query_one("#risks").display = bool(told)
        self.query_one("#command", Static).update(Content(plain(command_lines(s))))

    @on(OptionList.OptionSelected, "#problems")
    def _jump(self, event: OptionList.OptionSelected) -> None:
        from rwkv_tui.screens.wizard.wizard import WizardScreen

        field = self._problems[event.option_index].field
        assert isinstance(self.screen, WizardScreen)
        self.screen.go(STEP_OF.get(field, "Parameters"), field)

    def action_copy(self) -> None:
        """Through the terminal's own clipboard, which not every terminal grants."""
        self.app.copy_to_clipboard(command_lines(self.draft.approximate()))
        self.notify(_("Copied, if your terminal allows it; else select it with Shift and the mouse."))

    @on(Button.Pressed, "#save")
    def action_save(self) -> None:
        if self.draft.checked.settings is None:
            told = _("Mend the values listed above first; a preset must be valid.")
            self.notify(told, severity="warning")
            return
        self.app.push_screen(NameScreen(_("Name of the preset")), self._save)

    def _save(self, name: str | None) -> None:
        settings = self.draft.checked.settings
        if not name or settings is None:
            return
        settings = with_absolute_paths(settings)
        keys = [key for key in changed(settings) if key != "proj_dir"]
        text = render_yaml(settings, title(settings), keys)
        try:
            path = PresetStore(self.app.paths.presets).save(name, text)
        except UserError as error:
            self.notify(plain(str(error)), severity="error", title=_("Not saved"), markup=False)
            return
        told = _("Saved as {name} in {file}.", name=name, file=short(path, self.cwd))
        self.notify(plain(told), markup=False)

    @on(Button.Pressed, "#launch")
    def action_launch(self) -> None:
        """Starts the run and shows it; whatever is wrong by now is said instead."""
        self.draft.recheck()
        settings = self.draft.settings
        if settings is None:
            self.call_later(self.entered)
            self.notify(_("Some values still need your attention."), severity="warning")
            return
        try:
            name, run = launch(settings, self.app.paths)
        except UserError as error:
            self.notify(plain(str(error)), severity="error", title=_("Not started"), markup=False)
            return
        self.app.open_run(name, run)


def title(s: TrainSettings) -> str:
    """What a preset of these settings is for."""
    method = s.method.capitalize()
    if s.load_model is None:
        return _("{method} tuning of any model.", method=method)
    return _("{method} tuning of {model}.", method=method, model=s.load_model.stem)


def _problem_line(problem: Problem) -> Content:
    field = f"{problem.field:<14}" if problem.field else ""
    return Content.assemble((field, "bold"), plain(problem.message))
