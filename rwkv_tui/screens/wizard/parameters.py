"""Step 3: the form, made from the declaration of the parameters, with advice, totals and a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import DescendantFocus
from textual.widgets import Label, Static

from engine.contract.flags import spell
from engine.contract.params import GROUPS, Group, Param
from engine.contract.schedule import learning_rate, steps_shown
from engine.contract.settings import train_params
from rwkv_tui.draft import Draft
from rwkv_tui.screens.wizard.pane import Pane
from rwkv_tui.series import Series
from rwkv_tui.widgets.axes import XAxis
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.field import Field
from rwkv_tui.widgets.plot import Curve

FIRST: tuple[Group, ...] = ("files", "important", "learning rate")
CURVE_POINTS = 300


class Form(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Up and down go from field to field."""

    BINDINGS = [
        # Priority: keys that arrive in a burst, as over a slow link, must find the focus already moved.
        Binding(
            "up", "app.focus_previous", "Previous field", show=False, priority=True, id="form.focus_previous"
        ),
        Binding("down", "app.focus_next", "Next field", show=False, priority=True, id="form.focus_next"),
        Binding("enter", "app.focus_next", "Next field", show=False, id="form.focus_next_enter"),
        Binding("pageup", "page_up", "Scroll up", show=False, id="form.page_up"),
        Binding("pagedown", "page_down", "Scroll down", show=False, id="form.page_down"),
    ]


class ParametersPane(Pane):
    """All parameters of a run; the important ones first, the others behind one key."""

    HELP_TEXT = (
        "Parameters: type, or change a ‹ value › with left and right. "
        "An empty field means the default. What is wrong is said below the field."
    )
    BINDINGS = [Binding("f3,a", "all", "All parameters", id="parameters.all")]

    def __init__(self, draft: Draft, cwd: Path, id: str) -> None:
        super().__init__(draft, cwd, id)
        self._focused = ""

    def compose(self) -> ComposeResult:
        with Horizontal(id="body"):
            with Form(id="form"):
                yield from self._groups(FIRST)
            with Vertical(id="side"):
                with VerticalScroll(id="advice-box", can_focus=False):
                    yield Static(id="advice")
                yield LineChart("learning rate", id="rate")
                yield Static(id="totals")

    def _groups(self, names: Iterable[Group]) -> Iterable[Vertical]:
        for group in names:
            fields = [Field(p, self.cwd) for p in train_params().values() if p.group == group]
            title = Label(group.capitalize(), classes="title")
            yield Vertical(title, *fields, classes="group" if group in FIRST else "group more")

    async def entered(self, field: str = "") -> None:
        wanted = field or self._focused or "micro_bsz"
        hidden = [n for n in (wanted, *self.draft.errors) if n in train_params() and not _is_first(n)]
        if hidden:
            await self._reveal()
        self._show_all_fields()
        self.query_one(f"#field-{wanted}", Field).editor.focus()

    async def _reveal(self) -> None:
        """Shows the parameters that most runs leave alone; they are made when first wanted."""
        if not self.query(".more"):
            await self.query_one(Form).mount_all(self._groups(g for g in GROUPS if g not in FIRST))
        self.add_class("-all")

    async def action_all(self) -> None:
        """Shows or hides the parameters that most runs leave alone."""
        if not self.has_class("-all"):
            await self._reveal()
            self._show_all_fields()
            return
        self.remove_class("-all")
        if self._focused and not _is_first(self._focused):
            self.query_one("#field-micro_bsz", Field).editor.focus()

    def _show_all_fields(self, *, texts: bool = True) -> None:
        """Brings every field up to date; without `texts` it leaves alone what is being typed."""
        errors, method = self.draft.errors, self.draft.approximate().method
        for field in self.query(Field):
            name = field.param.name
            if texts:
                field.show(self.draft.text(name))
            field.mark(errors.get(name, ""))
            field.display = name in errors or not field.param.methods or method in field.param.methods
        self._draw()

    @on(Field.Edited)
    def _edited(self, event: Field.Edited) -> None:
        self.draft.put(event.name, event.text)
        self._show_all_fields(texts=False)  # a key may have come since: its text is newer than this one
        self.changed()

    @on(DescendantFocus)
    def _describe(self, event: DescendantFocus) -> None:
        for node in event.widget.ancestors:
            if isinstance(node, Field):
                self._focused = node.param.name
                self.query_one("#advice", Static).update(_advice(node.param))

    def _draw(self) -> None:
        """The curve of the learning rate, and what the run amounts to."""
        s = self.draft.approximate()
        first, end = steps_shown(s)
        stride = max(1, (end - first) // CURVE_POINTS)
        series = Series()
        for step in (*range(first, end - 1, stride), end - 1):
            series.append(step, learning_rate(step, end, s))
        self.query_one("#rate", LineChart).show([Curve(series, "lr", "main")], axis=XAxis(end=end))
        self.query_one("#totals", Static).update(totals(self.draft))


def _is_first(name: str) -> bool:
    return train_params()[name].group in FIRST


def _advice(param: Param) -> Content:
    """What a parameter is, how to choose it, and what it may be."""
    default = spell(param.default) or "not set"
    if param.kind == "bool":
        default = "on" if param.default else "off"
    lines = [Content.styled(param.name, "bold $primary"), Content(param.help)]
    if param.advice:
        lines.append(Content.styled(param.advice, "$text-success"))
    limits = f", {param.limits}" if param.limits else ""
    if param.choices:
        lines.append(Content.styled("one of " + ", ".join(param.choices), "$foreground 70%"))
    lines.append(Content.styled(f"default {default}{limits}", "$foreground 70%"))
    if param.methods:
        lines.append(Content.styled(f"only for {', '.join(param.methods)}", "$foreground 70%"))
    return Content("\n").join(lines)


def totals(draft: Draft) -> Content:
    """Steps, documents, tokens and passes of the run the draft describes."""
    s = draft.approximate()
    documents = s.total_steps * s.step_documents
    tokens = f"at most {documents * s.ctx_len:,} tokens"
    if draft.data is not None and draft.data.documents and draft.data.ctx_len == s.ctx_len:
        mean = (draft.data.tokens - draft.data.cut_tokens) / draft.data.documents
        tokens = f"about {documents * mean:,.0f} tokens"
    lines = [
        Content.assemble(
            (f"{s.total_steps:,}", "bold"),
            f" steps in {s.epoch_count:,} {'epoch' if s.epoch_count == 1 else 'epochs'}",
        ),
        Content.assemble((f"{documents:,}", "bold"), " documents"),
        Content(tokens),
    ]
    passes = draft.passes()
    if passes is None:
        lines.append(Content.styled("passes: known once the data is read", "$foreground 70%"))
    else:
        lines.append(Content.assemble((f"{passes:,.3g}", "bold"), " passes over the data"))
    return Content("\n").join(lines)
