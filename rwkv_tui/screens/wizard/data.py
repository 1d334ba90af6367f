"""Step 1: choose the data, see what is in it and wrong with it, and convert it to what training reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import DescendantFocus, Key
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import Worker

from engine.contract.data_files import PACKED, SUFFIXES
from engine.contract.errors import UserError
from engine.contract.flags import spell
from engine.contract.i18n import N_, _, n_
from engine.contract.job_flags import PLAN_FLAGS
from rwkv_tui.draft import Draft
from rwkv_tui.keys import key_of
from rwkv_tui.plain import duration, plain, size
from rwkv_tui.screens.wizard.convert import ADVICE, ConvertForm, RowsForm
from rwkv_tui.screens.wizard.pane import Pane
from rwkv_tui.services.files import Found, find_files, free_file, is_file, short
from rwkv_tui.widgets.choice import Choice
from rwkv_tui.widgets.path_input import PathInput
from rwkv_tui.widgets.picker import Picker

if TYPE_CHECKING:
    from engine.contract.events import Progress
    from engine.contract.reports import DataSummary

LISTED = (".idx", *(s + p for s, form in SUFFIXES.items() if form != "text" for p in ("", *PACKED)))
"""What is offered to pick: text files are too often something else, and are typed."""
OURS = (".idx.json", "run.json", "stop.json", "events.ndjson", "loss_data.jsonl")
"""How the names of what this program writes beside data end: that is nobody's training data."""


class DataPane(Pane):
    """A path and what was found on the left, what the file holds on the right."""

    HELP_TEXT = N_(
        "Data: jsonl, JSON, CSV, Parquet or text, a folder or a pattern like data/*.csv is converted once; "
        "a .bin/.idx pair is ready to train. Type a path or pick a file below. Fields say what is what where "
        "it is not recognised: prompt=q,answer=a or text=body or messages=turns."
    )
    BINDINGS = [
        Binding("f4,c", "convert", N_("Convert"), id="data.convert"),
        Binding("f6,t", "template", N_("Template"), id="data.template"),
        Binding("f7,v", "tokens", N_("Tokens"), id="data.tokens"),
        Binding("f8,l", "whole", N_("Check all"), id="data.whole"),
        Binding("plus,a", "add", N_("Add file"), id="data.add"),
        Binding("slash", "path", N_("Type a path"), show=False, id="data.path"),
    ]

    def __init__(self, draft: Draft, cwd: Path, id: str, source: Path | None = None) -> None:
        super().__init__(draft, cwd, id)
        self._given = short(source, cwd) if source else draft.given("data_file")
        self._shown: DataSummary | None = None
        self._read_as: tuple[str, ...] | None = None  # path as typed, and flags
        self._checking: Worker[None] | None = None
        self._files: list[Path] = []
        self._said = Content()  # where no advice on a field is
        self._rows = RowsForm(cwd)
        self._form = ConvertForm(draft, cwd, self._rows)
        self._prefix = draft.given("data_file")  # the training data as this pane knows it

    def compose(self) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label(_("Data file"), classes="name")
            yield PathInput(
                self._given, cwd=self.cwd, suffixes=(*LISTED, ".bin", ".txt", ".md"), several=True,
                placeholder=_("a file, folder or pattern, or the name of a .bin/.idx pair"), id="path",
            )  # fmt: skip
        yield Static(id="hint")
        with Horizontal(id="body"), Vertical(id="left"):
            yield Label(_("Files here"), classes="title", id="files-title")
            yield Picker("files")
            yield self._rows

    async def _complete(self) -> None:
        """What only data shows is made after the first frame, which is there the sooner."""
        if not self._form.is_attached:
            from rwkv_tui.widgets import data_report

            names = ("facts", "refused", "cut", "lengths", "findings", "samples")
            parts = (data_report.Lengths(n) if n == "lengths" else Static(id=n) for n in names)
            await self.query_one("#left").mount(self._form)
            await self.query_one("#body").mount(VerticalScroll(*parts, id="report"))

    def on_mount(self) -> None:
        self.app.call_after_refresh(self._complete)
        self._find()
        if self._path.value.strip():
            self.read()
        else:
            tab = key_of(self._path, "path.complete")
            self._say(_("Press ↓ to pick a file, or type its path ({key} completes).", key=tab))

    @property
    def _path(self) -> PathInput:
        return self.query_one("#path", PathInput)

    async def entered(self, field: str = "") -> None:
        """Reads the file anew when what decides about what is cut and learned has changed."""
        self.screen.set_focus(self._path)  # at once: a key may be waiting already
        prefix = self.draft.given("data_file")
        if self.draft.data is None and prefix.strip() and prefix != self._prefix:
            self._path.value = self._prefix = prefix  # set in the form or by a preset
            self.read()
        elif self._read_as is not None and self._read_as != self._reading():
            self.read()

    def cancel(self) -> bool:
        if self._form.cancel():
            return True
        if self._checking is None:
            return False
        self._checking.cancel()
        self._checking = None
        self._next_step()
        return True

    def action_path(self) -> None:
        self._path.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Each is offered for what it can be done with."""
        data = self._shown
        rows = data is not None and data.kind == "rows"
        listed = self.query_one("#files", OptionList)
        offered = {
            "add": listed.has_focus and listed.highlighted is not None and bool(self._path.value.strip()),
            "convert": self._form.display, "template": rows,
            "tokens": data is not None and data.documents > 0,
            "whole": data is not None and not data.complete and self._checking is None,
        }  # fmt: skip
        return offered.get(action, True)

    def action_convert(self) -> None:
        self._form.toggle()

    def _say(self, text: str, style: str = "$foreground 70%") -> None:
        from rwkv_tui.widgets.data_report import in_the_form

        self._said = Content.styled(in_the_form(text), style)
        self.query_one("#hint", Static).update(self._said)

    @on(DescendantFocus)
    @on(Input.Changed)
    @on(Choice.Changed)
    def _advise(self, event: DescendantFocus | Input.Changed | Choice.Changed) -> None:
        """On the field under the cursor, and what its text as it is now leads to; else what was said last."""
        field, told = self.screen.focused, self._said
        if event.control is not field:
            return  # the program wrote into it
        if field is not None and field.id in ADVICE and self in field.ancestors:
            told = Content.styled(_(ADVICE[field.id]), "$text-success")
            if self._shown and isinstance(field, Input):
                from rwkv_tui.consequences import of_conversion

                follows = of_conversion(field.id, field.value.strip(), self._shown, self._path.paths)
                told = Content("\n").join([told, Content(follows)]) if follows else told
        self.query_one("#hint", Static).update(told)

    # Files found

    @work(thread=True, group="find")
    def _find(self) -> None:
        found = find_files(self.cwd, LISTED)
        self.from_thread(self._list, found)

    def _list(self, found: list[Found]) -> None:
        found = [
            f for f in found
            if not f.path.name.endswith(OURS)
            and (f.path.suffix != ".idx" or is_file(f.path.with_suffix(".bin")))
        ]  # fmt: skip
        self._files = [f.path for f in found]
        title = _("Files here ({n})", n=len(found)) if found else _("No data file below this folder")
        self.query_one("#files-title", Label).update(title)
        options = self.query_one("#files", OptionList)
        options.clear_options()
        options.add_options(
            Option(Content.assemble(plain(short(f.path, self.cwd)), (f"  {size(f.size)}", "dim")))
            for f in found
        )
        options.display = bool(found)

    @on(OptionList.OptionSelected, "#files")
    def _picked(self, event: OptionList.OptionSelected) -> None:
        self._path.value = short(self._files[event.option_index], self.cwd)
        self._path.cursor_position = len(self._path.value)
        self.read()

    def action_add(self) -> None:
        """The file under the cursor is read beside those that are given."""
        place = self.query_one("#files", OptionList).highlighted
        if place is not None and self._files[place] not in self._path.paths:
            self._path.value = f"{self._path.value.strip()}, {short(self._files[place], self.cwd)}"
            self.read()

    @on(PathInput.Candidates, "#path")
    def _candidates(self, event: PathInput.Candidates) -> None:
        if event.names:
            self._say(plain("  ".join(event.names)))

    @on(Input.Submitted, "#path")
    def _submitted(self) -> None:
        self.read()

    @on(Input.Blurred, "#path")
    def _left(self) -> None:
        """A path that was typed and left counts as given, once it names something."""
        if self._path.value.strip() and self._read_as != self._reading() and self._names_data():
            self.read()

    def _names_data(self) -> bool:
        return all(is_file(path) or is_file(Path(f"{path}.idx")) for path in self._path.paths)

    def key_down(self, event: Key) -> None:
        """From the path down into the list, to its first entry."""
        if self._path.has_focus and self._files:
            self.query_one("#files").focus()
            event.stop()  # it would go on to the second one

    # What the file holds

    def _flags(self) -> tuple[str, ...]:
        """How the data is read and what training will make of it, as flags of a job."""
        s = self.draft.approximate()
        plan = (f"--{name}={spell(getattr(s, name))}" for name in PLAN_FLAGS)
        return (*plan, *self._rows.flags())

    def _reading(self) -> tuple[str, ...]:
        return self._path.value.strip(), *self._flags()

    @on(RowsForm.Changed)
    def _read_otherwise(self) -> None:
        self.read()

    def read(self) -> None:
        """Looks at the data in a process of its own; the vocabulary alone would fill this one."""
        if not self._path.value.strip():
            return
        if self._read_as is not None and self._read_as[0] != self._path.value.strip():
            self._show(None)  # what is on the screen is another file's
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
        self._read_as = self._reading()
        self._say(_("Reading {file} …", file=plain(self._path.value.strip())), "$text-primary")
        self._summarise(self._path.paths, *self._read_as)

    @work(exclusive=True, group="summary")
    async def _summarise(self, paths: Sequence[Path], text: str, *flags: str) -> None:
        from engine.contract.reports import DataSummary
        from rwkv_tui.services.jobs import document

        await self._complete()
        try:
            answer = await document("summary", *flags, "--", *map(str, paths))
        except UserError as error:
            self._show(None)
            self._say(f"! {plain(str(error))}", "$text-error")
            return
        self._show(DataSummary.model_validate_json(answer))
        if self._shown is not None and self._shown.kind == "binidx":
            self._prefix = _prefix(text)
            self.draft.take_data(self._prefix, self._shown)
            self.changed()

    def action_whole(self) -> None:
        """Reads on to the end, however long that takes; Esc ends it."""
        self._checking = self._check(self._path.paths, *self._flags())
        self.refresh_bindings()

    @work(exclusive=True, group="summary")
    async def _check(self, paths: Sequence[Path], *flags: str) -> None:
        from engine.contract.events import Failed, Progress, Summarised
        from rwkv_tui.services.jobs import events

        first: Progress | None = None
        async with aclosing(events("summary", "--whole", *flags, "--", *map(str, paths))) as job:
            async for event in job:
                if isinstance(event, Progress):
                    first = first or event
                    self._say(self._checked(first, event), "$text-primary")
                elif isinstance(event, Failed):
                    self._checking = None
                    self._say(f"! {plain(f'{event.reason} {event.remedy}'.strip())}", "$text-error")
                elif isinstance(event, Summarised):
                    self._checking = None
                    self._show(event.report)

    def _checked(self, first: Progress, now: Progress) -> str:
        """How far the check is, and how long it will take."""
        share, key = now.done / now.total if now.total else 0.0, key_of(self, "wizard.leave")
        if now.done <= first.done or now.t <= first.t:
            return _("Checking all of it: {share:.0%}; {key} ends this.", share=share, key=key)
        left = duration((now.total - now.done) * (now.t - first.t) / (now.done - first.done))
        told = N_("Checking all of it: {share:.0%}, {time} left; {key} ends this.")
        return _(told, share=share, time=left, key=key)

    def action_tokens(self) -> None:
        from rwkv_tui.screens.wizard.tokens import TokenScreen

        self.app.push_screen(TokenScreen(self._path.paths, self._flags()))

    def action_template(self) -> None:
        """Shows the template; what is kept is read with at once."""
        from rwkv_tui.screens.wizard.template import TemplateScreen

        if self._shown is not None:
            mine = self._rows.template()
            file = mine or free_file(self.cwd / "template.txt")
            screen = TemplateScreen(self._shown.template, file, short(file, self.cwd), mine is not None)
            self.app.push_screen(screen, self._templated)

    def _templated(self, file: Path | None) -> None:
        if file is not None:
            self._rows.use(file)

    def _show(self, data: DataSummary | None) -> None:
        self._shown = data
        if data is None:
            self.query_one("#report").scroll_home(animate=False)
        self._form.offer(data, self._path.paths)
        self._rows.display = data is None or data.kind == "rows"
        self.set_class(data is not None, "-read")
        if data is not None:
            self._draw(data)
        self._next_step()
        self.refresh_bindings()
        self.changed()

    def _next_step(self) -> None:
        data = self._shown
        if data is None:
            return
        if data.kind == "binidx":
            key = key_of(self, "wizard.next")
            self._say(_("✓ This is the training data. {key} goes on to the model.", key=key), "$text-success")
        else:
            key = key_of(self, "data.convert")
            self._say(_("Training reads binidx: convert this once ({key}).", key=key), "$text-warning")

    def _draw(self, data: DataSummary) -> None:
        from rwkv_tui.widgets import data_report

        self.query_one("#facts", Static).update(data_report.facts(data, key_of(self, "data.whole")))
        self.query_one("#refused").display = False
        self.query_one("#cut", Static).update(data_report.cut_line(data))
        self.query_one("#lengths", data_report.Lengths).show(data)
        self.query_one("#findings", Static).update(data_report.findings(data))
        parts = [data_report.legend(), *(data_report.sample(s) for s in data.samples)]
        if data.rendered:
            title = _("Template ({key} changes it)", key=key_of(self, "data.template"))
            parts.append(Content.assemble((f"{title}\n", "bold"), plain(data.template)))
        self.query_one("#samples", Static).update(Content("\n\n").join(parts))

    # Conversion

    @on(ConvertForm.Refused)
    def _refused(self, event: ConvertForm.Refused) -> None:
        refused = self.query_one("#refused", Static)
        refused.display = True
        refused.update(Content.styled(f"! {plain(event.reason)}", "$text-error"))
        self.query_one("#report").scroll_home(animate=False)

    @on(ConvertForm.Done)
    def _converted(self, event: ConvertForm.Done) -> None:
        """The new pair is the training data from here on."""
        if self._form in (self.screen.focused.ancestors if self.screen.focused else ()):
            self.screen.set_focus(self._path)  # the form goes, and with the focus in it no key would work
        report = event.report
        if report.held_out_prefix:
            name = short(Path(report.held_out_prefix), self.cwd)
            told = n_(
                "{n:,} document is held out as {name}.",
                "{n:,} documents are held out as {name}.",
                report.held_out_documents,
                name=name,
            )
            self.notify(plain(told), markup=False)
        self._path.value = short(Path(report.prefix), self.cwd)
        self._prefix = self._path.value
        self.draft.take_data(self._prefix, None)
        self._find()
        self.read()


def _prefix(text: str) -> str:
    """The common name of a pair, given either half or the name itself."""
    text = text.strip()
    return text[:-4] if text.endswith((".bin", ".idx")) else text
