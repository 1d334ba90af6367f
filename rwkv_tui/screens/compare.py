"""Two to six runs side by side: their losses over each other, and the settings in which they differ."""

from __future__ import annotations

from dataclasses import dataclass

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
from rwkv_tui.plain import column, one_line, short
from rwkv_tui.screens.base import TuneScreen
from rwkv_tui.series import Smoothed
from rwkv_tui.services.run_tail import RunModel, RunWatch
from rwkv_tui.widgets.axes import Unit, XAxis
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.lines import Lines
from rwkv_tui.widgets.plot import Curve

STYLES = "abcdef"
COLORS = ("$primary", "$accent", "$success", "$error", "$secondary", "$foreground")
UNITS: tuple[Unit, ...] = ("step", "tokens", "time")
STRENGTHS = (0.95, 0.99, 0.0)
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


class CompareScreen(TuneScreen[None]):
    """Reads the runs in a thread; what goes on is followed."""

    CSS_PATH = "../styles/home.tcss"
    HELP_TEXT = N_(
        "The smoothed losses of the marked runs, and below them the settings in which they differ."
    )
    BINDINGS = [
        Binding("x", "along", N_("Steps, tokens, time"), id="compare.along"),
        Binding("y", "scale", N_("Logarithmic"), id="compare.scale"),
        Binding("m", "smooth", N_("Smoothing"), id="compare.smooth"),
        Binding("escape,q", "dismiss(None)", N_("Back"), key_display="esc", id="compare.close"),
    ]

    def __init__(self, runs: list[tuple[str, RunDir]]) -> None:
        super().__init__()
        self._runs = [Compared(name, run, RunWatch(run), _settings(run)) for name, run in runs]
        self._unit: Unit = "step"
        self._log = False
        self._strength = STRENGTHS[0]
        self._smooth: dict[str, Smoothed] = {}

    def compose(self) -> ComposeResult:
        yield Static(" " + _("Comparing; reading the runs"), id="head", markup=False)
        yield LineChart(_("Loss, nats a token"), id="losses")
        yield Lines(id="differences")
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
        if not worker.is_cancelled:
            self.app.call_from_thread(self._draw)

    def _draw(self) -> None:
        curves = []
        for one, style in zip(self._runs, STYLES, strict=False):
            model = one.model
            smooth = self._smooth.get(one.name)
            if smooth is None or smooth.source is not model.loss or smooth.strength != self._strength:
                smooth = self._smooth[one.name] = Smoothed(model.loss, self._strength)
            places = {"step": model.loss.xs, "tokens": model.tokens_at.ys, "time": model.seconds_at.ys}
            curves.append(Curve(smooth.update(), one_line(one.name), style, places[self._unit]))
        self.query_one(LineChart).show(curves, axis=XAxis(self._unit), log=self._log)
        self.query_one("#head", Static).update(" " + _("Comparing {n} runs", n=len(self._runs)))
        self._table()

    def _table(self) -> None:
        table = self.query_one(Lines)
        lines = list(differences(self._runs))
        if [line.plain for line in lines] != table.lines:
            table.put(lines)

    def action_along(self) -> None:
        self._unit = UNITS[(UNITS.index(self._unit) + 1) % len(UNITS)]
        self._draw()

    def action_scale(self) -> None:
        self._log = not self._log
        self._draw()

    def action_smooth(self) -> None:
        self._strength = STRENGTHS[(STRENGTHS.index(self._strength) + 1) % len(STRENGTHS)]
        self._draw()


def differences(runs: list[Compared]) -> list[Content]:
    """A row for each setting that is not the same in all of them, and for what came of it."""
    width = max(12, *(cell_len(one_line(one.name)) for one in runs)) + 2
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
    cells = [
        (column(one_line(value), width - 1) + " ", colors[n] if colors else "")
        for n, value in enumerate(values)
    ]
    return Content.assemble((f" {column(name, 24)}", "bold"), *cells)


def _settings(run: RunDir) -> dict[str, str]:
    """Every parameter as one types it; empty when the settings cannot be read."""
    try:
        values = parse_yaml(run.settings.read_text(encoding="utf-8"), str(run.settings))
    except (OSError, UserError):
        return {}
    settings = check_values(values, files=False).settings
    return {name: spell(getattr(settings, name)) for name in train_params()} if settings else {}
