"""Step 2: choose the base model; its version and dimensions are read from the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len
from textual import getters, on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.events import DescendantFocus, Key
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import get_current_worker

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.contract.reports import ModelInfo
from rwkv_tui.app import TuneApp
from rwkv_tui.draft import Draft
from rwkv_tui.keys import key_of
from rwkv_tui.plain import column, plain, size
from rwkv_tui.screens.wizard.pane import Pane
from rwkv_tui.services.files import find_files, is_file, short
from rwkv_tui.services.gpu import GpuReading
from rwkv_tui.widgets import vram_table
from rwkv_tui.widgets.path_input import PathInput
from rwkv_tui.widgets.picker import Picker

VERSION_NAMES = {"x052": "RWKV-5", "x060": "RWKV-6", "x070": "RWKV-7"}


@dataclass(frozen=True)
class Candidate:
    """A .pth file: what it says of itself, or why it is no model."""

    path: Path
    info: ModelInfo | None
    reason: str


def look_at(path: Path) -> Candidate:
    """Reads a file's header; milliseconds, but a network disk may take its time."""
    from engine.checkpoints.inspect import inspect_model

    try:
        return Candidate(path, inspect_model(path), "")
    except UserError as error:
        return Candidate(path, None, error.message.removeprefix(f"{path} "))


class ModelPane(Pane):
    """The models found, the chosen one in words, and what sizes the GPU can hold."""

    app = getters.app(TuneApp)
    HELP_TEXT = N_(
        "Model: pick the base model. Version, layers and width come from the file. "
        "The table shows which sizes fit into your GPU's memory."
    )
    BINDINGS = [
        Binding("g", "next_gpu", N_("Next GPU"), show=False, id="model.next_gpu"),
        Binding("f4,n", "new", N_("Random weights"), id="model.new"),
        Binding("slash", "path", N_("Type a path"), show=False, id="model.path"),
    ]

    def __init__(self, draft: Draft, cwd: Path, id: str) -> None:
        super().__init__(draft, cwd, id)
        self._found: list[Candidate] | None = None  # None while looking
        self._reading: GpuReading | None = None
        self._gpu = 0

    def compose(self) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label(_("Model file"), classes="name")
            yield PathInput(
                self.draft.text("load_model"), cwd=self.cwd, suffixes=(".pth",),
                placeholder=_("an RWKV .pth file"), id="path",
            )  # fmt: skip
        yield Static(id="hint")
        yield Label(_("Looking for .pth files …"), classes="title", id="models-title")
        yield Picker("models")
        with VerticalScroll(id="memory", can_focus=False):
            yield Static(vram_table.heading(None, 0, ""), id="gpu")
            yield Static(id="vram")
            yield Static(_(vram_table.FOOTNOTE), classes="dim")

    def on_mount(self) -> None:
        self._draw_memory()
        self._find()
        self._ask_gpus()
        self._look(self._path.path)

    @property
    def _path(self) -> PathInput:
        return self.query_one("#path", PathInput)

    async def entered(self, field: str = "") -> None:
        """Takes over a path that a preset or another pane has set."""
        if self._path.value != self.draft.text("load_model"):
            self._path.value = self.draft.text("load_model")
        self._describe()
        (self.query_one("#models") if self._found and not self._path.value else self._path).focus()

    def action_path(self) -> None:
        self._path.focus()

    def action_new(self) -> None:
        from rwkv_tui.screens.wizard.new_model import NewModelScreen

        self.app.push_screen(NewModelScreen(), self._made)

    def _made(self, file: Path | None) -> None:
        """A model that was just made is the chosen one."""
        if file is not None:
            self._path.value = short(file, self.cwd)
            self._find()

    def _say(self, content: Content) -> None:
        self.query_one("#hint", Static).update(content)

    # Models found

    @work(thread=True, exclusive=True, group="find")
    def _find(self) -> None:
        """Below the current folder, in ./models, and in the folder of the typed path."""
        worker = get_current_worker()
        typed = self._path.path.parent if self._path.value.strip() else self.cwd
        folders = dict.fromkeys((self.cwd, self.cwd / "models", typed))
        paths = dict.fromkeys(f.path for d in folders for f in find_files(d, (".pth",), depth=2))
        found = []
        for path in paths:
            if worker.is_cancelled:
                return
            found.append(look_at(path))
        found.sort(key=lambda c: c.info is None)
        self.from_thread(self._list, found)

    def _list(self, found: list[Candidate]) -> None:
        self._found = found
        models = sum(c.info is not None for c in found)
        title = self._columns(_("Model files"), _("version"), _("size"), _("layers x width"), _("bytes"))
        if not models:
            title = _("No model below this folder. Download one (BlinkDL on Hugging Face), type its path, or "
                      "make one of random weights ({key}).", key=key_of(self, "model.new"))  # fmt: skip
        self.query_one("#models-title", Label).update(title)
        options = self.query_one("#models", OptionList)
        place = options.highlighted
        options.clear_options()
        options.add_options(Option(self._row(c), disabled=c.info is None) for c in found)
        options.display = bool(found)
        options.styles.max_height = len(found)
        if place is not None and place < len(found):
            options.highlighted = place
        if models and not self._path.value and self._path.has_focus:
            options.focus()

    def _name_width(self) -> int:
        """Room for the longest name, as far as the other columns leave it."""
        longest = max((cell_len(plain(short(c.path, self.cwd))) for c in self._found or ()), default=0)
        return max(20, min(longest + 2, self.size.width - 46))

    def _columns(self, name: str, *others: str) -> str:
        version, size_name, shape, file_size = others
        cells = ((version, 8, False), (size_name, 6, True), (shape, 16, True), (file_size, 11, True))
        rest = [column(text, width, right=right) for text, width, right in cells]
        return "".join([column(name, self._name_width(), ending=True), " ", *rest])

    def _row(self, candidate: Candidate) -> Content:
        name = plain(short(candidate.path, self.cwd))
        info = candidate.info
        if info is None:
            called = column(name, self._name_width(), ending=True)
            return Content.assemble(called, " ", (plain(candidate.reason), "dim"))
        shape = f"{info.n_layer} x {info.n_embd}"
        version = VERSION_NAMES[info.version]
        return Content(self._columns(name, version, info.size_name, shape, size(info.file_bytes)))

    def on_resize(self) -> None:
        if self._found is not None:
            self.call_after_refresh(self._list, self._found)

    @on(OptionList.OptionSelected, "#models")
    def _picked(self, event: OptionList.OptionSelected) -> None:
        assert self._found is not None
        candidate = self._found[event.option_index]
        self._path.value = short(candidate.path, self.cwd)
        self._path.cursor_position = len(self._path.value)
        self._take(candidate)

    # The chosen one

    @on(Input.Changed, "#path")
    def _typed(self, event: Input.Changed) -> None:
        """The text is the draft's at once; what the file says follows when it is read."""
        self.draft.put("load_model", event.value)
        if self.draft.model is None or Path(self.draft.model.path) != self._path.path:
            self.draft.forget_model()
        self._look(self._path.path)
        self.changed()

    @on(DescendantFocus)
    def _went(self) -> None:
        """The way to a model is another one there."""
        if not self._path.value.strip():
            self._describe()

    @on(PathInput.Candidates, "#path")
    def _candidates(self, event: PathInput.Candidates) -> None:
        if event.names:
            self._say(Content.styled(plain("  ".join(event.names)), "$foreground 70%"))

    @on(Input.Submitted, "#path")
    def _submitted(self) -> None:
        self._find()

    def key_down(self, event: Key) -> None:
        """From the path down into the list, to its first entry."""
        if self._path.has_focus and self._found:
            self.query_one("#models").focus()
            event.stop()  # it would go on to the second one

    @work(thread=True, exclusive=True, group="look")
    def _look(self, path: Path) -> None:
        if is_file(path):
            candidate = look_at(path)
            self.from_thread(self._take, candidate)
        else:
            self.from_thread(self._describe)

    def _take(self, candidate: Candidate) -> None:
        """Fills in version and dimensions from a model file."""
        if candidate.path != self._path.path:
            return
        if candidate.info is not None:
            self.draft.take_model(self._path.value, candidate.info)
        self._describe(candidate.reason)
        self._draw_memory()
        self.changed()

    def _describe(self, reason: str = "") -> None:
        info = self.draft.model
        text = self.draft.text("load_model").strip()
        if reason:
            self._say(Content.styled(f"! {plain(reason)}", "$text-error"))
        elif not text:
            self._say(Content.styled(self._way(), "$foreground 70%"))
        elif info is not None and Path(info.path) == self._path.path:
            self._say(self._described(info))
        elif "load_model" in self.draft.errors:
            self._say(Content.styled(f"! {self.draft.errors['load_model']}", "$text-error"))

    def _way(self) -> str:
        """How to name a model, from where the focus is."""
        models = self.query_one("#models")
        if models.has_focus:
            pick, key = key_of(models, "list.select"), key_of(self, "model.path")
            return _("Pick one with ↑ ↓ and {pick}, or press {key} to type its path.", pick=pick, key=key)
        key = key_of(self._path, "path.complete")
        return _("Press ↓ to pick a model, or type its path ({key} completes).", key=key)

    def _described(self, info: ModelInfo) -> Content:
        said = Content.assemble(
            ("✓ ", "$text-success"), (f"{VERSION_NAMES[info.version]} {info.size_name}", "bold"),
            _(": {layers} layers x {width}, heads of {head}, vocabulary {words:,}, {weights:,} parameters, "
              "{dtype}", layers=info.n_layer, width=info.n_embd, head=info.head_size, words=info.vocab_size,
              weights=info.parameters, dtype=info.dtype),
        )  # fmt: skip
        if "my_testing" in self.draft.errors:
            wrong = f"! {self.draft.errors['my_testing']}"
            said = Content("\n").join([said, Content.styled(wrong, "$text-error")])
        return said

    # Memory

    @work(thread=True, group="gpus")
    def _ask_gpus(self) -> None:
        reading = self.app.gpus()
        self.from_thread(self._show_gpus, reading)

    def _show_gpus(self, reading: GpuReading) -> None:
        self._reading = reading
        self._draw_memory()

    def action_next_gpu(self) -> None:
        if self._reading is not None and self._reading.gpus:
            self._gpu = (self._gpu + 1) % len(self._reading.gpus)
            self._draw_memory()

    def _draw_memory(self) -> None:
        gpu = self._reading.gpus[self._gpu] if self._reading and self._reading.gpus else None
        picked = self.draft.model.size_name if self.draft.model else ""
        self.query_one("#gpu", Static).update(
            vram_table.heading(self._reading, self._gpu, key_of(self, "model.next_gpu"))
        )
        self.query_one("#vram", Static).update(vram_table.table(gpu, picked))
