"""The list of a person's runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual import getters, on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Footer, Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.app import TuneApp
from rwkv_tui.keys import key_of
from rwkv_tui.panels.panel import spark
from rwkv_tui.plain import column, duration, plain, size
from rwkv_tui.screens.ask import AskScreen, NameScreen
from rwkv_tui.screens.base import Keys, TuneScreen
from rwkv_tui.services.overview import Overview, Overviews
from rwkv_tui.services.removal import Removal, plan_removal, remove
from rwkv_tui.services.runs import RESUMABLE, RunSummary, is_alive, status_word
from rwkv_tui.widgets.picker import Picker

REFRESH = 2.0  # seconds
PATIENCE = 0.3
"""Seconds that the first frame waits for the list."""
COMPARED = range(2, 7)
SIGNS = {
    "starting": ("○", "$foreground"), "running": ("●", "$text-success"), "stopping": ("◐", "$text-warning"),
    "finished": ("✓", "$text-success"), "stopped": ("■", "$text-warning"),
    "failed": ("✗", "$text-error"), "died": ("✗", "$text-error"),
}  # fmt: skip

if TYPE_CHECKING:
    from engine.contract.presets import Preset


class HomeScreen(TuneScreen[None]):
    """Runs, newest first, as they stand now; the way into the wizard."""

    app = getters.app(TuneApp)
    HELP_TEXT = N_(
        "Your runs. They go on whether this program is open or not.\n"
        "{mark} marks runs and {compare} compares two to six of them; the filter finds names, tags, methods, "
        "models."
    )
    HELP_KEYS = ("home.mark", "home.compare")
    BINDINGS = [
        Binding("enter", "open", N_("Open"), id="home.open"),
        Binding("n", "new", N_("New run"), id="home.new"),
        Binding("slash", "filter", N_("Filter"), key_display="/", id="home.filter"),
        Binding("a", "talk", N_("Talk to it"), show=False, id="home.talk"),
        Binding("space", "mark", N_("Mark"), show=False, id="home.mark"),
        Binding("c", "compare", N_("Compare"), show=False, id="home.compare"),
        Binding("t", "tag", N_("Tag"), show=False, id="home.tag"),
        Binding("e", "rename", N_("Rename"), show=False, id="home.rename"),
        Binding("d", "delete", N_("Delete"), show=False, id="home.delete"),
        Binding("r", "resume", N_("Resume"), id="home.resume"),
        Binding("p", "presets", N_("Presets"), id="home.presets"),
        Binding("escape", "clear", N_("Clear the filter"), show=False, id="home.clear"),
        Binding("q", "app.quit", N_("Quit"), id="home.quit"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._all: list[Overview] = []
        self._runs: list[RunSummary] = []
        self._rows: list[Content] = []
        self._marked: set[str] = set()
        self._reader: Overviews | None = None

    def compose(self) -> ComposeResult:
        head = Content.assemble((" rwkv-tune ", "bold reverse $primary"), "  ", _("fine-tune RWKV"))  # unsaid
        yield Static(head, id="head")
        yield Label(id="columns", classes="title")
        yield Picker("runs")
        yield Static(id="empty")
        yield Input(
            placeholder=_("words to find: name, tag, method, model, status"), id="filter", compact=True
        )
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        """The list is there before the first frame, and before the first key, unless the disk is slow."""
        self.query_one("#filter").display = False
        reading = asyncio.ensure_future(self._read().wait())
        await asyncio.wait([reading], timeout=PATIENCE)
        self.set_interval(REFRESH, self._refresh)

    def on_screen_resume(self) -> None:
        self._refresh()

    def on_resize(self) -> None:
        self._show(self._all)

    def _refresh(self) -> None:
        if self.app.screen is self:  # `is_current` also holds right beneath another screen
            self._read()

    @work(thread=True, exclusive=True, group="runs")
    def _read(self) -> None:
        self._reader = self._reader or Overviews(self.app.paths.runs)
        self.from_thread(self._show, self._reader.read())

    def _show(self, found: list[Overview]) -> None:
        """Keeps the highlighted run under the cursor when the list moves; paints the rows that changed."""
        options, wanted = self.query_one("#runs", OptionList), self.query_one("#filter", Input).value
        chosen = self._chosen()
        self._all = found
        shown = [one for one in found if one.matches(wanted)]
        rows = [self._row(one) for one in shown]
        names = [one.run.name for one in shown]
        if names == [run.name for run in self._runs] and len(rows) == options.option_count:
            for place, (row, before) in enumerate(zip(rows, self._rows, strict=True)):
                if not row.is_same(before):
                    options.replace_option_prompt_at_index(place, row)
        else:
            options.clear_options()
            options.add_options(Option(row) for row in rows)
            name = chosen.name if chosen else ""
            options.highlighted = names.index(name) if name in names else 0 if rows else None
        self._runs, self._rows = [one.run for one in shown], rows
        self._say(bool(rows), bool(found))
        if rows and self.focused is None:
            self.set_focus(options)  # at once: a key may be waiting already

    def _say(self, some: bool, any_at_all: bool) -> None:
        self.query_one("#runs").display = some
        if not some and self.focused is self.query_one("#runs"):
            self.set_focus(None)  # or the keys of a list that is not there would be told
        self.set_class(not some, "-empty")
        titles = self._columns(
            f"  {_('Run')}",
            _("status"),
            _("method"),
            _("model"),
            _("steps"),
            _("loss"),
            _("curve"),
            _("last news"),
        )
        _put(self.query_one("#columns", Label), titles)
        empty = self.query_one("#empty", Static)
        empty.display = not some
        _put(
            empty,
            _("No run has these words; {key} shows all.", key=key_of(self, "home.clear"))
            if any_at_all
            else _(
                "No runs yet. Press {key} to begin one: data, model, parameters, launch.",
                key=key_of(self, "home.new"),
            ),
        )

    def _columns(
        self, name: str, status: str, method: str, model: str, steps: str, loss: str, curve: str, when: str
    ) -> str:
        """As many of the columns as there is room for; the name takes what is left."""
        room = self.size.width - 2
        parts = [column(status, 9)]
        parts += [column(method, 11)] if room >= 72 else []
        parts += [column(model, 24), " "] if room >= 128 else []
        parts += [column(steps, 15, right=True), column(loss, 8, right=True)]
        parts += ["  ", column(curve, 12)] if room >= 78 else []
        parts += [column(when, 13, right=True)] if 60 <= room < 72 or room >= 92 else []
        rest = "".join(parts)
        return f"{column(name, max(16, room - cell_len(rest) - 1))} {rest}"

    def _row(self, one: Overview) -> Content:
        run = one.run
        sign, style = ("◉", "$accent") if run.name in self._marked else SIGNS[run.status]
        steps = f"{run.step:,}/{run.steps:,}" if run.steps else ""
        loss = f"{run.loss:.3f}" if run.loss is not None else ""
        ago = duration(self.app.clock() - run.updated) if run.updated else ""
        when = _("{time} ago", time=ago) if ago else ""
        tags = "".join(f" #{plain(tag)}" for tag in one.tags)
        known = [v for v in one.curve if v is not None]
        every = one.curve[1::2]
        shape = spark(every, len(every), max(known), min(known)) if known else ""
        text = self._columns(
            f"  {plain(run.name)}{tags}", status_word(run.status), f"{run.method} {run.version}", one.model,
            steps, loss, shape, when,
        )  # fmt: skip
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

    @property
    def active_bindings(self) -> Keys:
        """What a list has picked is opened here."""
        return {
            key: active._replace(binding=replace(active.binding, description=_("Open")))
            if active.binding.id == "list.select"
            else active
            for key, active in super().active_bindings.items()
        }

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """There has to be a run to open; resuming is offered for one that was stopped or broke off."""
        run = self._chosen()
        if action == "open":
            return run is not None
        if action == "resume":
            return run is not None and run.status in RESUMABLE
        return True

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    @on(Input.Changed)
    def _filter(self) -> None:
        self._show(self._all)

    @on(Input.Submitted)
    def _filtered(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = bool(field.value)
        self.query_one("#runs").focus()

    def action_clear(self) -> None:
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        self._show(self._all)
        self.query_one("#runs").focus()

    def action_mark(self) -> None:
        """Marks the run under the cursor for a comparison, or takes the mark back."""
        if run := self._chosen():
            self._marked ^= {run.name}
            self._show(self._all)
            self.query_one("#runs", OptionList).action_cursor_down()

    def action_compare(self) -> None:
        from rwkv_tui.screens.compare import CompareScreen

        chosen = [one.run for one in self._all if one.run.name in self._marked]
        if len(chosen) not in COMPARED:
            mark, compare = key_of(self, "home.mark"), key_of(self, "home.compare")
            self.notify(
                _("Mark two to six runs with {mark}, then press {compare}.", mark=mark, compare=compare)
            )
            return
        self.app.push_screen(CompareScreen([(run.name, RunDir(run.proj_dir)) for run in chosen]))

    def action_tag(self) -> None:
        if run := self._chosen():
            tags = " ".join(RunList(self.app.paths.runs).tags(run.name))
            question = _("Words for {name}, parted by spaces; - takes them away:", name=plain(run.name))
            self.app.push_screen(NameScreen(question, tags), lambda text: self._tag(run.name, text))

    def _tag(self, name: str, text: str | None) -> None:
        if text:
            words = [] if text == "-" else text.replace("#", "").split()
            try:
                RunList(self.app.paths.runs).tag(name, words)
            except OSError as error:
                said = _("Cannot keep the words ({reason}).", reason=error.strerror)
                self.notify(said, severity="error", markup=False)
            self._refresh()

    def action_rename(self) -> None:
        if run := self._chosen():
            if is_alive(RunDir(run.proj_dir)) is not False:
                self.notify(_("A run that goes on keeps its name until it ends."))
                return
            question = _("Another name for {name}:", name=plain(run.name))
            self.app.push_screen(NameScreen(question, run.name), lambda new: self._rename(run.name, new))

    def _rename(self, name: str, new: str | None) -> None:
        if new:
            try:
                RunList(self.app.paths.runs).rename(name, new)
            except (UserError, OSError) as error:
                self.notify(str(error), severity="error", markup=False)
            self._refresh()

    def action_delete(self) -> None:
        """Asks first; the trained files and whatever else lies in the folder stay."""
        if run := self._chosen():
            try:
                removal = plan_removal(run.name, RunDir(run.proj_dir), trained=False)
            except UserError as error:
                self.notify(str(error), severity="error", markup=False)
                return
            kept = ", ".join(path.name for path in removal.kept[:4]) or _("nothing else is there")
            question = _(
                "Delete the run {name}?\nIts log, settings and resume files ({size}) go; "
                "what stays in {folder}: {kept}.",
                name=plain(run.name), size=size(removal.size), folder=plain(str(run.proj_dir)),
                kept=plain(kept),
            )  # fmt: skip
            self.app.push_screen(
                AskScreen(question, _("Delete it")), lambda yes: self._delete(removal) if yes else None
            )

    def _delete(self, removal: Removal) -> None:
        try:
            remove(removal, RunList(self.app.paths.runs))
        except UserError as error:
            self.notify(str(error), severity="error", markup=False)
        self._marked.discard(removal.name)
        self._refresh()

    def action_resume(self) -> None:
        """Goes on with the run under the cursor, and into it."""
        from rwkv_tui.screens.resuming import go_on

        if run := self._chosen():
            folder = RunDir(run.proj_dir)
            go_on(self.app, run.name, folder, lambda: self.app.open_run(run.name, folder))

    def action_talk(self) -> None:
        if run := self._chosen():
            self.app.open_chat(RunDir(run.proj_dir))

    def action_new(self) -> None:
        self.app.open_wizard()

    def action_presets(self) -> None:
        from engine.contract.presets import PresetStore
        from rwkv_tui.screens.wizard.presets import PresetScreen

        self.app.push_screen(
            PresetScreen(PresetStore(self.app.paths.presets), self.app.draft), self._begin_with
        )

    def _begin_with(self, preset: Preset | None) -> None:
        if preset is not None:
            self.app.draft.load(preset.values, preset.name)
            self.app.open_wizard("Data")


def _put(widget: Static, text: str) -> None:
    """Paints only what is new."""
    if widget.content != text:
        widget.update(text)
