"""Two to six runs side by side: their losses over each other, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Footer, Static
from textual.worker import get_current_worker

from engine.contract.check import check_values
from engine.contract.errors import UserError
from engine.contract.flags import spell
from engine.contract.i18n import N_, _
from engine.contract.presets import parse_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import train_params
from rwkv_tui.panels.looking import CHART_KEYS, ChartKeys, Looking
from rwkv_tui.plain import column, one_line, short
from rwkv_tui.screens.base import TuneScreen
from rwkv_tui.services.run_tail import RunModel, RunWatch
from rwkv_tui.widgets.axes import Unit
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.lines import Lines
from rwkv_tui.widgets.plot import Curve

STYLES = "abcdef"
COLORS = ("$primary", "$accent", "$success", "$error", "$secondary", "$foreground")
TOLD_BELOW = {"chart.move_back", "chart.zoom_in", "chart.along"}
"""Keys of the chart that the last line names."""
NAME_WIDTH = 24
REFRESH = 2.0
SLICE_BYTES = 1 << 20


@dataclass
class Compared:
    """One of the runs, as far as it has been read."""

    name: str
    run: RunDir
    watch: RunWatch
    settings: dict[str, str]

    @property
    def model(self) -> RunModel:
        return self.watch.model

    def places(self, unit: Unit) -> Sequence[float]:
        model = self.model
        return {"step": model.loss.xs, "tokens": model.tokens_at.ys, "time": model.seconds_at.ys}[unit]


class Losses(Looking):
    """The smoothed losses of all of them over one axis, which is as long as the longest."""

    def __init__(self, runs: Sequence[Compared]) -> None:
        super().__init__("losses")
        self._runs = runs

    def compose(self) -> ComposeResult:
        yield LineChart(_("Loss, nats a token"), brief=_("Loss"), id="loss")

    def show(self) -> None:
        """Draws what the runs have told by now; the last curve comes first in the legend."""
        unit = self._axis.unit
        curves = [
            Curve(self._smoothed(one.name, one.model.loss), one_line(one.name), style, one.places(unit))
            for one, style in zip(self._runs, STYLES, strict=False)
        ]
        self.query_one(LineChart).show(curves[::-1], axis=self._axis, log=bool(self._log))

    def _answer(self) -> None:
        self.show()

    def _scaled(self) -> str:
        return "loss"

    def _places(self, unit: Unit) -> Sequence[float]:
        return max((one.places(unit) for one in self._runs), key=len)

    def _span(self) -> tuple[float, float]:
        known = [places for one in self._runs if len(places := one.places(self._axis.unit))]
        if not known:
            return 0.0, 1.0
        return min(places[0] for places in known), max(places[-1] for places in known)


class CompareScreen(ChartKeys, TuneScreen[None]):
    """Reads the runs in a thread; what goes on is followed."""

    CSS_PATH = "../styles/home.tcss"
    HELP_TEXT = N_(
        "The smoothed losses of the marked runs, and below them the settings in which they differ."
    )
    BINDINGS = [
        *(replace(key, show=key.id in TOLD_BELOW) for key in CHART_KEYS),
        Binding("escape,q", "back", N_("Back"), key_display="esc", id="compare.close"),
    ]

    def __init__(self, runs: list[tuple[str, RunDir]]) -> None:
        super().__init__()
        self._runs = [Compared(name, run, RunWatch(run), _settings(run)) for name, run in runs]

    def compose(self) -> ComposeResult:
        yield Static(" " + _("Comparing; reading the runs"), id="head", markup=False)
        yield Losses(self._runs)
        yield Lines(id="differences", follow=False)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one(Lines).focus()
        self._table()
        self._read()
        self.set_interval(REFRESH, self._read)

    @work(thread=True, exclusive=True, group="compare")
    def _read(self) -> None:
        worker = get_current_worker()
        for one in self._runs:
            one.watch.poll(SLICE_BYTES)
            while one.watch.behind and not worker.is_cancelled:
                one.watch.poll(SLICE_BYTES)
        self.from_thread(self._draw)

    def _draw(self) -> None:
        self.charts.show()
        head, told = self.query_one("#head", Static), " " + _("Comparing {n} runs", n=len(self._runs))
        if head.content != told:  # what stands there is not painted again
            head.update(told)
        self._table()

    def _table(self) -> None:
        table = self.query_one(Lines)
        lines = differences(self._runs, table.scrollable_content_region.width)
        if [line.plain for line in lines] != table.lines:
            table.put(lines)

    def on_resize(self) -> None:
        self.call_after_refresh(self._table)

    @property
    def charts(self) -> Losses:
        return self.query_one(Losses)

    def action_back(self) -> None:
        """Puts the cursor away, else leaves."""
        if not self.charts.leave():
            self.dismiss(None)


def differences(runs: list[Compared], room: int) -> list[Content]:
    """A row for each setting that is not the same in all of them, and for what came of it; `room`: cells."""
    widest = max(12, *(cell_len(one_line(one.name)) for one in runs)) + 2
    width = min(widest, max(7, (room - NAME_WIDTH - 1) // len(runs)))
    rows = [_row("", [one_line(one.name) for one in runs], width, COLORS)]
    last = [one.model.loss_smooth.last for one in runs]
    least = [one.model.valid_loss.extremes()[0] for one in runs]
    rows.append(_row(_("loss now"), ["-" if v is None else short(v) for v in last], width))
    if any(len(one.model.valid_loss) for one in runs):
        best = [short(v) if v < float("inf") else "-" for v in least]
        rows.append(_row(_("best validation"), best, width))
    rows.append(_row(_("steps"), [f"{one.model.step:,}" for one in runs], width))
    for name in train_params():
        values = [one.settings.get(name, "?") for one in runs]
        if name != "proj_dir" and len(set(values)) > 1:
            rows.append(_row(name, [value or "-" for value in values], width))
    return rows


def _row(name: str, values: list[str], width: int, colors: tuple[str, ...] = ()) -> Content:
    cells = [  # of a path the end tells it from others
        (column(one_line(value), width - 1, ending=value.startswith("/")) + " ", colors[n] if colors else "")
        for n, value in enumerate(values)
    ]
    return Content.assemble((f" {column(name, NAME_WIDTH)}", "bold"), *cells)


def _settings(run: RunDir) -> dict[str, str]:
    """Every parameter as one types it; empty when the settings cannot be read."""
    try:
        values = parse_yaml(run.settings.read_text(encoding="utf-8"), str(run.settings))
    except (OSError, UserError):
        return {}
    settings = check_values(values, files=False).settings
    return {name: spell(getattr(settings, name)) for name in train_params()} if settings else {}
