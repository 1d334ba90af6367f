"""Step 3: the form, made from the declaration of the parameters, with advice, totals and a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from textual import getters, on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import DescendantFocus
from textual.widgets import Label, Static

from engine.contract.flags import spell
from engine.contract.i18n import N_, _, n_
from engine.contract.params import GROUPS, Group, Param
from engine.contract.schedule import learning_rate, steps_shown
from engine.contract.settings import train_params
from rwkv_tui.app import TuneApp
from rwkv_tui.consequences import consequences
from rwkv_tui.draft import Draft
from rwkv_tui.keys import key_of
from rwkv_tui.plain import plain
from rwkv_tui.screens.wizard.pane import Pane
from rwkv_tui.series import Series
from rwkv_tui.services.speed import Kind, Speed, last_speed
from rwkv_tui.widgets.axes import XAxis
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.data_report import counted
from rwkv_tui.widgets.field import Field
from rwkv_tui.widgets.plot import Curve
from rwkv_tui.widgets.review_text import examples

FIRST: tuple[Group, ...] = ("files", "important", "learning rate")  # unsaid
CURVE_POINTS = 300
MARKS = {"memory": "▦", "time": "◷", "risk": "!"}
STYLES = {"memory": "$foreground", "time": "$foreground", "risk": "$text-warning"}


class Form(VerticalScroll, can_focus=False, inherit_bindings=False):
    """Up and down go from field to field."""

    BINDINGS = [
        # Priority: keys that arrive in a burst, as over a slow link, must find the focus already moved.
        Binding(
            "up", "app.focus_previous", N_("Between fields"), show=False, priority=True,
            id="form.focus_previous",
        ),
        Binding(
            "down", "app.focus_next", N_("Between fields"), show=False, priority=True, id="form.focus_next",
        ),
        Binding("enter", "app.focus_next", N_("Between fields"), show=False, id="form.focus_next_enter"),
        Binding("pageup", "page_up", N_("Scroll up"), show=False, id="form.page_up"),
        Binding("pagedown", "page_down", N_("Scroll down"), show=False, id="form.page_down"),
    ]  # fmt: skip


class ParametersPane(Pane):
    """All parameters of a run; the important ones first, the others behind one key."""

    app = getters.app(TuneApp)
    HELP_TEXT = N_(
        "Parameters: type, or change a ‹ value › with left and right. "
        "An empty field means the default. What is wrong is said below the field. "
        "• marks what differs from the preset."
    )
    BINDINGS = [
        Binding("f3,a", "all", N_("Show all"), id="parameters.all"),
        Binding("f4,slash", "search", N_("Search"), id="parameters.search"),
        Binding("ctrl+z,u", "undo", N_("Undo"), id="parameters.undo"),
        Binding("ctrl+r", "revert", N_("The preset's value again"), show=False, id="parameters.revert"),
    ]

    def __init__(self, draft: Draft, cwd: Path, id: str) -> None:
        super().__init__(draft, cwd, id)
        self._focused = ""
        self._speeds: dict[Kind, Speed | None] = {}

    def compose(self) -> ComposeResult:
        with Horizontal(id="body"):
            with Form(id="form"):
                yield Vertical(*self._groups(FIRST), classes="column")
                yield Vertical(classes="column more")
            with Vertical(id="side"):
                with VerticalScroll(id="advice-box", can_focus=False):
                    yield Static(id="advice")
                    yield Static(id="consequences")
                yield LineChart(_("learning rate"), id="rate")
                yield Static(id="totals")

    def _groups(self, names: Iterable[Group]) -> Iterable[Vertical]:
        for group in names:
            fields = [Field(p, self.cwd) for p in train_params().values() if p.group == group]
            title = Label(_(group).capitalize(), classes="title")
            yield Vertical(title, *fields, classes="group")

    async def entered(self, field: str = "") -> None:
        wanted = field or self._focused or "micro_bsz"
        hidden = [n for n in (wanted, *self.draft.errors) if n in train_params() and not _is_first(n)]
        if hidden:
            await self._reveal()
        self._show_all_fields()
        self.query_one(f"#field-{wanted}", Field).editor.focus()

    async def _reveal(self) -> None:
        """Shows the parameters that most runs leave alone; they are made when first wanted."""
        more = self.query_one(".more")
        if not more.children:
            await more.mount_all(self._groups(g for g in GROUPS if g not in FIRST))
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
            field.mark_changed(self.draft.is_changed(name))
            field.display = name in errors or not field.param.methods or method in field.param.methods
        self._draw()
        self._tell_consequences()

    @on(Field.Edited)
    def _edited(self, event: Field.Edited) -> None:
        self.draft.edit(event.name, event.text)
        self._show_all_fields(texts=False)  # a key may have come since: its text is newer than this one
        self.changed()

    @on(DescendantFocus)
    def _describe(self, event: DescendantFocus) -> None:
        for node in event.widget.ancestors:
            if isinstance(node, Field):
                self._focused = node.param.name
                self.query_one("#advice", Static).update(_advice(node.param))
                self.set_class(node.param.group == "learning rate", "-rate")  # unsaid
                self.query_one("#advice-box").scroll_home(animate=False)
                self._tell_consequences()

    def _tell_consequences(self) -> None:
        """Beside the field that has the focus, as its text is now."""
        shown = self.query_one("#consequences", Static)
        if not self._focused:
            return
        lines = [
            Content.assemble((f"{MARKS[c.kind]} ", STYLES[c.kind]), (plain(c.text), STYLES[c.kind]))
            for c in consequences(self._focused, self.draft, self._speed())
        ]
        if self.draft.is_changed(self._focused):
            usual, preset = self.draft.usual(self._focused) or _("nothing"), self.draft.preset
            key = key_of(self, "parameters.revert")
            told = (
                _("• in {name}: {value}; {key} brings it back", name=preset, value=usual, key=key) if preset
                else _("• by default: {value}; {key} brings it back", value=usual, key=key)
            )  # fmt: skip
            lines.append(Content.styled(plain(told), "$text-accent"))
        shown.update(Content("\n").join(lines))
        shown.display = bool(lines)

    def _speed(self) -> Speed | None:
        """Of the last run like this one; looked up once for each kind, as disks may be slow."""
        s = self.draft.approximate()
        kind = Kind(s.my_testing, s.n_layer, s.n_embd, s.method)
        if kind not in self._speeds:
            self._speeds[kind] = None
            self._look_up(kind)
        return self._speeds[kind]

    @work(thread=True, group="speed")
    def _look_up(self, kind: Kind) -> None:
        speed = last_speed(self.app.paths.runs, kind)
        if speed is not None:
            self.from_thread(self._take_speed, kind, speed)

    def _take_speed(self, kind: Kind, speed: Speed) -> None:
        self._speeds[kind] = speed
        self._tell_consequences()

    def action_search(self) -> None:
        """Finds any parameter by its name or by what is said of it."""
        from rwkv_tui.screens.wizard.search import SearchScreen

        self.app.push_screen(SearchScreen(self.draft), self._go)

    async def _go(self, name: str | None) -> None:
        if name:
            await self.entered(name)

    async def action_undo(self) -> None:
        """Takes the last change back and goes to its field; a preset's loading is one change."""
        names = self.draft.undo()
        if not names:
            self.notify(_("There is nothing to undo."))
            return
        await self._restored(names[0] if len(names) == 1 else "")

    async def action_revert(self) -> None:
        """The field under the cursor gets the preset's value, or the default."""
        self.draft.revert(self._focused)
        await self._restored(self._focused)

    async def _restored(self, name: str) -> None:
        await self.entered(name)
        self.changed()

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
    default = spell(param.default) or _("not set")
    if param.kind == "bool":
        default = _("on") if param.default else _("off")
    lines = [Content.styled(param.name, "bold $primary"), Content(param.help)]
    if param.advice:
        lines.append(Content.styled(param.advice, "$text-success"))
    facts = [_("one of {values}", values=", ".join(param.choices))] if param.choices else []
    usual = _("default {value}", value=default)
    facts.append(f"{usual}, {param.limits}" if param.limits else usual)
    if param.methods:
        facts.append(_("only for {methods}", methods=", ".join(param.methods)))
    return Content("\n").join([*lines, *(Content.styled(fact, "$foreground 70%") for fact in facts)])


def totals(draft: Draft) -> Content:
    """Steps, documents, tokens and passes of the run the draft describes."""
    s = draft.approximate()
    documents = s.total_steps * s.step_documents
    tokens = _("at most {n:,} tokens", n=documents * s.ctx_len)
    whole = s.dataload != "get"
    if whole and draft.data is not None and draft.data.documents and draft.data.ctx_len == s.ctx_len:
        mean = (draft.data.tokens - draft.data.cut_tokens) / draft.data.documents
        tokens = _("about {n:,.0f} tokens", n=documents * mean)
    steps = f"{s.total_steps:,}"
    lines = [
        counted(
            n_("{steps} steps in {n:,} epoch", "{steps} steps in {n:,} epochs", s.epoch_count, steps=steps)
        ),
        counted(examples(s, documents)),
        Content(tokens),
    ]
    passes = draft.passes()
    if passes is None:
        lines.append(Content.styled(_("passes: known once the data is read"), "$foreground 70%"))
    else:
        lines.append(counted(_("{n:,.3g} passes over the data", n=passes)))
    return Content("\n").join(lines)
