"""The curves of a run, and how one looks at them: which stretch, along what, how much smoothed."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from textual.app import ComposeResult
from textual.containers import Container

from engine.contract.i18n import _
from rwkv_tui.series import Series, Smoothed
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.widgets.axes import Unit, XAxis
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.plot import Curve

NAMES = ("loss", "lr", "kt_s", "grad_norm")
SMOOTHED = ("loss", "kt_s", "grad_norm")
STRENGTHS = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
UNITS: tuple[Unit, ...] = ("step", "tokens", "time")


class Charts(Container):
    """Four charts that share their axis. `show` gives them the run; the other methods answer keys."""

    def __init__(self) -> None:
        super().__init__(id="charts")
        self._model = RunModel()
        self._axis = XAxis()
        self._log: set[str] = set()
        self._strength = 0.95
        self._smooth: dict[str, Smoothed] = {}
        self._large = ""

    def compose(self) -> ComposeResult:
        yield LineChart(_("Loss, nats a token"), id="loss")
        yield LineChart(_("Learning rate"), id="lr", from_zero=True)
        yield LineChart(_("Speed, kt/s"), id="kt_s", from_zero=True)
        yield LineChart(_("Gradient norm"), id="grad_norm", from_zero=True)

    async def show(self, model: RunModel) -> None:
        """Draws one chart after the other; in between keys get their turn."""
        if model is not self._model:
            self._model, self._smooth = model, {}
        await self._draw_in_turn(NAMES)

    async def _draw_in_turn(self, names: Sequence[str]) -> None:
        for name in names:
            self._draw([name])
            await asyncio.sleep(0)

    def _answer(self) -> None:
        """A key has changed how one looks at the curves: it shows in the first chart at once."""
        first, *others = [name for name in NAMES if self.query_one(f"#{name}").display]
        self._draw([first])
        if others:
            self.call_after_refresh(self._draw_in_turn, others)

    @property
    def large(self) -> str:
        """The chart that has the room of all, "" for none."""
        return self._large

    def enlarge(self, name: str) -> None:
        """Gives one chart the room of all; the same name again, or "", gives it back."""
        self._large = "" if name == self._large else name
        self.set_class(bool(self._large), "-one")
        for chart in self.query(LineChart):
            chart.set_class(chart.id == self._large, "-large")
        self.call_after_refresh(self._draw)

    def leave(self) -> bool:
        """Puts the cursor away, else makes the large chart small again; False when there was neither."""
        if self._axis.cursor is not None:
            self._look(replace(self._axis, cursor=None))
        elif self._large:
            self.enlarge("")
        else:
            return False
        return True

    def scale(self) -> None:
        """Linear or logarithmic: of the large chart, else of the loss."""
        self._log ^= {self._large or "loss"}
        self._draw()

    def smooth(self, by: int) -> None:
        """A stronger (1) or weaker (-1) average."""
        place = STRENGTHS.index(self._strength) + by
        self._strength = STRENGTHS[min(len(STRENGTHS) - 1, max(0, place))]
        self._smooth = {}
        self._answer()

    def along(self) -> None:
        """Steps, tokens, time, and steps again. The stretch shown is kept as well as it can be."""
        unit = UNITS[(UNITS.index(self._axis.unit) + 1) % len(UNITS)]
        old, self._axis = self._axis, XAxis(unit)
        if old.window or old.width or old.cursor is not None:
            place = {p: n for n, p in enumerate(self._places(old.unit))}
            known = sorted(place)
            new = self._places(unit)

            def moved(x: float) -> float:
                return new[place[known[min(len(known) - 1, bisect_left(known, x))]]]

            window = None if old.window is None else (moved(old.window[0]), moved(old.window[1]))
            width = abs(new[-1] - moved(known[-1] - old.width)) if old.width else 0.0
            if window is not None and window[0] >= window[1]:
                window = None
            cursor = None if old.cursor is None else moved(old.cursor)
            self._axis = XAxis(unit, 0, window, width, cursor)
        self._answer()

    def zoom(self, factor: float) -> None:
        """Shows `factor` times as much: around the cursor, else of the newest, else around the middle."""
        shown = self._shown()
        if shown is None:
            return
        low, high = shown
        width = (high - low) * factor
        axis = self._axis
        whole = replace(axis, window=None, width=0).shown(*self._span())
        if width >= whole[1] - whole[0]:
            self.whole()
        elif width < (2 if axis.unit == "step" else (whole[1] - whole[0]) * 1e-5):
            return
        elif axis.cursor is not None:
            share = (axis.cursor - low) / (high - low)
            start = axis.cursor - share * width
            self._look(replace(axis, window=_within((start, start + width), whole), width=0))
        elif axis.window is None:
            self._look(replace(axis, width=min(width, self._span()[1] - whole[0])))
        else:
            middle = (low + high) / 2
            self._look(replace(axis, window=_within((middle - width / 2, middle + width / 2), whole)))

    def pan(self, by: int) -> None:
        """Moves a quarter of what is shown to the left (-1) or right (1)."""
        shown = self._shown()
        if shown is not None:
            shift = by * (shown[1] - shown[0]) / 4
            whole = replace(self._axis, window=None, width=0).shown(*self._span())
            window = _within((shown[0] + shift, shown[1] + shift), whole)
            self._look(replace(self._axis, window=window, width=0))

    def follow(self) -> None:
        """Shows the newest again, as much of it as is shown now."""
        shown = self._shown()
        if shown is not None and self._axis.window is not None:
            self._look(replace(self._axis, window=None, width=shown[1] - shown[0]))

    def whole(self) -> None:
        self._look(replace(self._axis, window=None, width=0))

    def move(self, by: int) -> None:
        """Moves the cursor by columns of dots, of which each holds all of its points; at an edge the
        charts move along."""
        chart = next((c for c in self.query(LineChart) if c.display and c.xs), None)
        if chart is None or chart.xs is None:
            return
        xs, cursor = chart.xs, self._axis.cursor
        column = (xs.high - xs.low) / xs.pixels
        low, high = self._span()
        place = (
            xs.place(min(high, xs.high)) if cursor is None else math.floor((cursor - xs.low) / column) + by
        )
        cursor = xs.low + (place + 0.5) * column
        cursor = min(max(cursor, low - column / 2), high + column / 2)
        axis = replace(self._axis, cursor=cursor)
        if not xs.low <= cursor <= xs.high:
            shift = (xs.high - xs.low) / 2 * (1 if by > 0 else -1)
            axis = replace(axis, window=(xs.low + shift, xs.high + shift), width=0)
        self._look(axis)

    def _look(self, axis: XAxis) -> None:
        self._axis = axis
        self._answer()

    def _span(self) -> tuple[float, float]:
        places = self._places(self._axis.unit)
        return (places[0], places[-1]) if len(places) else (0.0, 1.0)

    def _shown(self) -> tuple[float, float] | None:
        return self._with_end().shown(*self._span()) if len(self._model.loss) else None

    def _with_end(self) -> XAxis:
        """How far the whole run will go is known in steps, and guessed of the others."""
        model, unit = self._model, self._axis.unit
        if unit == "step" or not model.steps or not model.step:
            return replace(self._axis, end=model.steps)
        return replace(self._axis, end=self._span()[1] / model.step * model.steps)

    def _places(self, unit: Unit) -> Sequence[float]:
        model = self._model
        return {"step": model.loss.xs, "tokens": model.tokens_at.ys, "time": model.seconds_at.ys}[unit]

    def _at(self, steps: Sequence[float]) -> list[float]:
        """Where steps lie on the axis."""
        if self._axis.unit == "step":
            return list(steps)
        known, places = self._model.loss.xs, self._places(self._axis.unit)
        return [places[min(len(places) - 1, bisect_left(known, step))] for step in steps] if known else []

    def _draw(self, names: Sequence[str] = NAMES) -> None:
        if not len(self._model.loss):
            return
        model, axis = self._model, self._with_end()
        epochs, saves = self._at(model.epoch_marks), self._at([c.step for c in model.checkpoints])
        for name in names:
            chart = self.query_one(f"#{name}", LineChart)
            if chart.display or chart.is_empty:  # one that a later layout shows has all at once then
                chart.show(self._curves(name), axis=axis, epochs=epochs, saves=saves, log=name in self._log)

    def _curves(self, name: str) -> list[Curve]:
        series: Series = getattr(self._model, name)
        places = self._places(self._axis.unit)
        if name not in SMOOTHED or not self._strength:
            curves = [Curve(series, "", "main", places)]
        else:
            if name not in self._smooth:
                self._smooth[name] = Smoothed(series, self._strength)
            smooth = self._smooth[name].update()
            curves = [
                Curve(series, _("raw"), "raw", places),
                Curve(smooth, _("smooth {strength:g}", strength=self._strength), "main", places),
            ]
        if name == "loss" and len(self._model.valid_loss):
            valid = self._model.valid_loss
            curves.append(Curve(valid, _("validation"), "point", self._at(valid.xs), dots=True))
        return curves


def _within(window: tuple[float, float], whole: tuple[float, float]) -> tuple[float, float]:
    """The window moved so that it does not reach over the whole."""
    low, high = window
    shift = max(0.0, whole[0] - low) - max(0.0, high - whole[1])
    return low + shift, high + shift
