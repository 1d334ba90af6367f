"""Step 1: choose the data, see what is in it, and convert jsonl to what training reads."""

from __future__ import annotations

from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from engine.contract.errors import UserError
from engine.contract.flags import spell
from engine.contract.reports import DataSummary
from rwkv_tui.draft import Draft
from rwkv_tui.plain import plain, size
from rwkv_tui.screens.wizard.convert import ConvertForm
from rwkv_tui.screens.wizard.pane import Pane
from rwkv_tui.services.files import Found, find_files, is_file, short
from rwkv_tui.services.jobs import document
from rwkv_tui.widgets import data_report
from rwkv_tui.widgets.path_input import PathInput
from rwkv_tui.widgets.picker import Picker


class DataPane(Pane):
    """A path and what was found on the left, what the file holds on the right."""

    HELP_TEXT = (
        'Data: a .jsonl file has one {"text": ...} a line and is converted once; '
        "a .bin/.idx pair is ready to train. Type a path or pick a file below."
    )
    BINDINGS = [
        Binding("f4,c", "convert", "Convert"),
        Binding("slash", "path", "Type a path", show=False),
    ]

    def __init__(self, draft: Draft, cwd: Path, id: str, source: Path | None = None) -> None:
        super().__init__(draft, cwd, id)
        self._given = short(source, cwd) if source else draft.text("data_file")
        self._shown: DataSummary | None = None
        self._read_as: tuple[str, int, str, str] | None = None  # path as typed, ctx_len, loss_mask, mask_id
        self._files: list[Path] = []
        self._prefix = draft.text("data_file")  # the training data as this pane knows it

    def compose(self) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label("Data file", classes="name")
            yield PathInput(
                self._given, cwd=self.cwd, suffixes=(".jsonl", ".idx", ".bin"),
                placeholder="a .jsonl file, or the name of a .bin/.idx pair", id="path",
            )  # fmt: skip
        yield Static(id="hint")
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield Label("Files here", classes="title", id="files-title")
                yield Picker("files")
                yield ConvertForm(self.draft, self.cwd)
            with VerticalScroll(id="report"):
                yield Static(id="facts")
                yield Static(id="bad")
                yield Static(id="cut")
                yield data_report.Lengths("lengths")
                yield Static(id="samples")

    def on_mount(self) -> None:
        self._find()
        if self._path.value.strip():
            self.read()
        else:
            self._say("Press ↓ to pick a file, or type its path (Tab completes).")

    @property
    def _path(self) -> PathInput:
        return self.query_one("#path", PathInput)

    async def entered(self, field: str = "") -> None:
        """Reads the file anew when ctx_len or loss_mask, which decide what is cut and learned, changed."""
        self._path.focus()
        prefix = self.draft.text("data_file")
        if self.draft.data is None and prefix.strip() and prefix != self._prefix:
            self._path.value = self._prefix = prefix  # set in the form or by a preset
            self.read()
        elif self._read_as is not None and self._read_as != self._reading():
            self.read()

    def cancel(self) -> bool:
        return self.query_one(ConvertForm).cancel()

    def action_path(self) -> None:
        self._path.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Converting is offered for what can be converted."""
        return action != "convert" or self.query_one(ConvertForm).display

    def action_convert(self) -> None:
        self.query_one(ConvertForm).toggle()

    def _say(self, text: str, style: str = "$foreground 70%") -> None:
        self.query_one("#hint", Static).update(Content.styled(text, style))

    # Files found

    @work(thread=True, group="find")
    def _find(self) -> None:
        found = find_files(self.cwd, (".jsonl", ".idx"))
        self.from_thread(self._list, found)

    def _list(self, found: list[Found]) -> None:
        found = [f for f in found if f.path.suffix == ".jsonl" or is_file(f.path.with_suffix(".bin"))]
        self._files = [f.path for f in found]
        title = f"Files here ({len(found)})" if found else "No .jsonl or .idx file below this folder"
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
        path = self._path.path
        return is_file(path) or is_file(Path(f"{path}.idx"))

    def key_down(self) -> None:
        """From the path down into the list."""
        if self._path.has_focus and self._files:
            self.query_one("#files").focus()

    # What the file holds

    def _reading(self) -> tuple[str, int, str, str]:
        s = self.draft.approximate()
        return self._path.value.strip(), s.ctx_len, s.loss_mask, spell(s.mask_id)

    def read(self) -> None:
        """Looks at the file in a process of its own; the vocabulary alone would fill this one."""
        if not self._path.value.strip():
            return
        if self._read_as is not None and self._read_as[0] != self._path.value.strip():
            self._show(None)  # what is on the screen is another file's
        self._read_as = self._reading()
        self._say(f"Reading {plain(self._path.value.strip())} …", "$text-primary")
        self._summarise(self._path.path, *self._read_as)

    @work(exclusive=True, group="summary")
    async def _summarise(self, path: Path, text: str, ctx_len: int, loss_mask: str, mask_id: str) -> None:
        how = ("--ctx_len", str(ctx_len), "--loss_mask", loss_mask, "--mask_id", mask_id)
        try:
            answer = await document("summary", str(path), *how)
        except UserError as error:
            self._show(None)
            self._say(f"! {plain(str(error))}", "$text-error")
            return
        self._show(DataSummary.model_validate_json(answer))
        if self._shown is not None and self._shown.kind == "binidx":
            self._prefix = _prefix(text)
            self.draft.take_data(self._prefix, self._shown)
            self.changed()

    def _show(self, data: DataSummary | None) -> None:
        self._shown = data
        self.query_one(ConvertForm).offer(data)
        self.query_one("#report").display = data is not None
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
            self._say("✓ This is the training data. Ctrl+N goes on to the model.", "$text-success")
        elif data.documents:
            self._say("Training reads binidx: convert this file once (F4).", "$text-warning")
        else:
            self._say("! There is no document in this file.", "$text-error")

    def _draw(self, data: DataSummary) -> None:
        self.query_one("#facts", Static).update(data_report.facts(data))
        bad = self.query_one("#bad", Static)
        bad.display = bool(data.bad_count)
        bad.update(data_report.bad_lines(data))
        cut, lengths = self.query_one("#cut", Static), self.query_one("#lengths", data_report.Lengths)
        cut.display = lengths.display = bool(data.documents)
        if data.documents:
            cut.update(data_report.cut_line(data))
            lengths.show(data)
        parts = [data_report.legend(), *(data_report.sample(s) for s in data.samples)]
        self.query_one("#samples", Static).update(Content("\n\n").join(parts) if data.samples else "")

    # Conversion

    @on(ConvertForm.Refused)
    def _refused(self, event: ConvertForm.Refused) -> None:
        bad = self.query_one("#bad", Static)
        bad.display = True
        bad.update(Content.styled(f"! {plain(event.reason)}", "$text-error"))
        self.query_one("#report").scroll_home(animate=False)

    @on(ConvertForm.Done)
    def _converted(self, event: ConvertForm.Done) -> None:
        """The new pair is the training data from here on."""
        report = event.report
        self._path.value = short(Path(report.prefix), self.cwd)
        self._prefix = self._path.value
        self.draft.take_data(self._prefix, None)
        self._find()
        self.read()


def _prefix(text: str) -> str:
    """The common name of a pair, given either half or the name itself."""
    text = text.strip()
    return text[:-4] if text.endswith((".bin", ".idx")) else text
