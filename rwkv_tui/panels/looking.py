"""How one looks at curves over an axis: along what, which stretch, how much smoothed, where the cursor is."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from textual.binding import Binding
from textual.containers import Container

from engine.contract.i18n import N_
from rwkv_tui.series import Series, Smoothed
from rwkv_tui.widgets.axes import Unit, XAxis
from rwkv_tui.widgets.chart import LineChart

STRENGTHS = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
UNITS: tuple[Unit, ...] = ("step", "tokens", "time")

CHART_KEYS = [
    Binding("left", "move(-1)", N_("Cursor"), show=False, key_display="← →", id="chart.move_back"),
    Binding("right", "move(1)", N_("Cursor to the right"), show=False, id="chart.move"),
    Binding("shift+left", "move(-10)", N_("Cursor by ten"), show=False, id="chart.move_far_back"),
    Binding("shift+right", "move(10)", N_("Cursor by ten to the right"), show=False, id="chart.move_far"),
    Binding("plus,equals_sign", "zoom(0.5)", N_("Zoom"), show=False, key_display="+ -", id="chart.zoom_in"),
    Binding("minus", "zoom(2)", N_("Zoom out"), show=False, id="chart.zoom_out"),
    Binding(
        "comma",
        "pan(-1)",
        N_("Move what is shown"),
        show=False,
        key_display=", .",
        id="chart.pan_back",
    ),
    Binding("full_stop", "pan(1)", N_("Move what is shown to the right"), show=False, id="chart.pan"),
    Binding("0", "whole", N_("The whole run"), show=False, id="chart.whole"),
    Binding("f", "follow", N_("Follow the newest"), show=False, id="chart.follow"),
    Binding("x", "along", N_("Along steps, tokens or time"), show=False, id="chart.along"),
    Binding("y", "scale", N_("Linear or logarithmic"), show=False, id="chart.scale"),
    Binding("m", "smooth(1)", N_("Smooth more or less"), show=False, key_display="m M", id="chart.smooth"),
    Binding("M", "smooth(-1)", N_("Smooth less"), show=False, id="chart.smooth_back"),
]


class Looking(Container):
    """What holds charts that share an axis; its methods answer the keys of `ChartKeys`.

    Who derives from it says where the points lie along each unit (`_places`), draws (`_answer`), and may know
    where the axis will end (`_with_end`).
    """

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._axis = XAxis()
        self._log: set[str] = set()
        self._strength = 0.95
        self._averages: dict[str, Smoothed] = {}

    def _places(self, unit: Unit) -> Sequence[float]:
        """Where the points lie, rising; the same number of them along each unit."""
        raise NotImplementedError

    def _answer(self) -> None:
        """Draws, after a key has changed how one looks at the curves."""
        raise NotImplementedError

    def _with_end(self) -> XAxis:
        """The axis with where it will end, as far as that is known."""
        return self._axis

    def _scaled(self) -> str:
        """The id of the chart that `scale` is meant for."""
        raise NotImplementedError

    def _smoothed(self, name: str, series: Series) -> Series:
        """The average of a series as strong as is asked for; `name` tells it from others."""
        if not self._strength:
            return series
        average = self._averages.get(name)
        if average is None or average.source is not series or average.strength != self._strength:
            average = self._averages[name] = Smoothed(series, self._strength)
        return average.update()

    def leave(self) -> bool:
        """Puts the cursor away; False when there was none."""
        if self._axis.cursor is None:
            return False
        self._look(replace(self._axis, cursor=None))
        return True

    def scale(self) -> None:
        """Linear or logarithmic."""
        self._log ^= {self._scaled()}
        self._answer()

    def smooth(self, by: int) -> None:
        """A stronger (1) or weaker (-1) average."""
        place = STRENGTHS.index(self._strength) + by
        self._strength = STRENGTHS[min(len(STRENGTHS) - 1, max(0, place))]
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
        """Moves the cursor by columns of dots, of which each holds all of its points, and past those that
        hold none; at an edge the charts move along."""
        chart = next((c for c in self.query(LineChart) if c.display and c.xs), None)
        if chart is None or chart.xs is None:
            return
        xs, cursor = chart.xs, self._axis.cursor
        column = (xs.high - xs.low) / xs.pixels
        low, high = self._span()
        place = (
            xs.place(min(high, xs.high)) if cursor is None else math.floor((cursor - xs.low) / column) + by
        )
        place = self._with_points(place, by, xs.low, column)
        cursor = xs.low + (place + 0.5) * column
        cursor = min(max(cursor, low - column / 2), high + column / 2)
        axis = replace(self._axis, cursor=cursor)
        if not xs.low <= cursor <= xs.high:
            shift = (xs.high - xs.low) / 2 * (1 if by > 0 else -1)
            axis = replace(axis, window=(xs.low + shift, xs.high + shift), width=0)
        self._look(axis)

    def _with_points(self, place: int, by: int, start: float, column: float) -> int:
        """The column of dots at `place` if a point is in it, else the next one in the way of `by` that has
        some; columns are `column` wide and begin at `start`."""
        points = self._places(self._axis.unit)
        left = start + place * column
        beside = bisect_left(points, left) if by > 0 else bisect_left(points, left + column) - 1
        if not 0 <= beside < len(points):
            return place
        column_of = math.floor((points[beside] - start) / column)
        return max(place, column_of) if by > 0 else min(place, column_of)

    def _look(self, axis: XAxis) -> None:
        self._axis = axis
        self._answer()

    def _span(self) -> tuple[float, float]:
        places = self._places(self._axis.unit)
        return (places[0], places[-1]) if len(places) else (0.0, 1.0)

    def _shown(self) -> tuple[float, float] | None:
        return self._with_end().shown(*self._span()) if len(self._places("step")) else None


class ChartKeys:
    """A screen's keys for the charts in it: its BINDINGS begin with `CHART_KEYS`."""

    @property
    def charts(self) -> Looking:
        raise NotImplementedError

    def action_move(self, by: int) -> None:
        self.charts.move(by)

    def action_zoom(self, factor: float) -> None:
        self.charts.zoom(factor)

    def action_pan(self, by: int) -> None:
        self.charts.pan(by)

    def action_whole(self) -> None:
        self.charts.whole()

    def action_follow(self) -> None:
        self.charts.follow()

    def action_along(self) -> None:
        self.charts.along()

    def action_scale(self) -> None:
        self.charts.scale()

    def action_smooth(self, by: int) -> None:
        self.charts.smooth(by)


def _within(window: tuple[float, float], whole: tuple[float, float]) -> tuple[float, float]:
    """The window moved so that it does not reach over the whole."""
    low, high = window
    shift = max(0.0, whole[0] - low) - max(0.0, high - whole[1])
    return low + shift, high + shift
