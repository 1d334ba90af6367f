"""Curves as rows of text: braille dots, axes and ticks. Pure; `chart.LineChart` puts it on the screen."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rwkv_tui.plain import short
from rwkv_tui.series import Series

# Dot bits of a braille cell: [column][row], rows from the top (U+2800 plus the bits)
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
Run = tuple[str, str]
"""Text and the name of its style: "title", "axis", "mark" or a curve's own."""


@dataclass(frozen=True)
class Curve:
    """A series with its name in the legend and the name of its style."""

    series: Series
    label: str
    style: str


@dataclass(frozen=True)
class Scale:
    """Maps a value to one of `pixels` places; values outside land on the nearest end."""

    low: float
    high: float
    pixels: int
    log: bool = False

    def place(self, value: float) -> int:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        share = (value - low) / (high - low)
        return min(self.pixels - 1, max(0, int(share * self.pixels)))


class Canvas:
    """`width` x `height` braille cells. Of the curves in a cell the one drawn last gives the colour."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bits = bytearray(width * height)
        self.owner = bytearray(width * height)

    def column(self, x: int, y0: int, y1: int, owner: int) -> None:
        """Dots from y0 to y1, counted upwards from the bottom, in dot column x."""
        cells, side = self.height * 4 - 1, DOTS[x & 1]
        for y in range(min(y0, y1), max(y0, y1) + 1):
            row = cells - y
            at = (row >> 2) * self.width + (x >> 1)
            self.bits[at] |= side[row & 3]
            self.owner[at] = owner

    def line(self, x0: int, y0: int, x1: int, y1: int, owner: int) -> None:
        """A line to a later column x1 > x0, without gaps and without its first column."""
        rise = (y1 - y0) / (x1 - x0)
        last = y0
        for x in range(x0 + 1, x1 + 1):
            y = y1 if x == x1 else round(y0 + rise * (x - x0))
            # Start beside the dot before, so that a steep line stays within its own columns
            self.column(x, y if y == last else last + (1 if y > last else -1), y, owner)
            last = y


def draw(canvas: Canvas, series: Series, xs: Scale, ys: Scale, owner: int) -> None:
    """Draws a curve: each dot column spans from the least to the greatest of its points, so that no
    spike is lost however many points share it. A missing value breaks the line."""
    edges = [xs.low + (xs.high - xs.low) * k / xs.pixels for k in range(1, xs.pixels)]
    start = bisect_left(series.xs, xs.low)
    previous: tuple[int, int] | None = None
    values, total = series.ys, bisect_left(series.xs, math.nextafter(xs.high, math.inf))
    for x in range(xs.pixels):
        stop = bisect_left(series.xs, edges[x], start, total) if x < len(edges) else total
        if stop == start:
            continue
        low, high = series.extremes(start, stop)
        if low > high:
            previous, start = None, stop
            continue
        first, last = values[start], values[stop - 1]
        if previous is not None and not math.isnan(first):
            canvas.line(*previous, x, ys.place(first), owner)
        canvas.column(x, ys.place(low), ys.place(high), owner)
        previous = None if math.isnan(last) else (x, ys.place(last))
        start = stop


def nice_step(span: float, count: int) -> float:
    """The least of 1, 2, 2.5, 5 x 10^n that divides `span` into at most `count` parts."""
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power >= raw * (1 - 1e-9))


def y_axis(low: float, high: float, count: int, *, log: bool) -> tuple[float, float, list[float]]:
    """Least value, greatest value and ticks of an axis that holds [low, high]; some `count` ticks."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        stride = max(1, -(-(last - first) // max(1, count)))
        return 10.0**first, 10.0**last, [10.0**n for n in range(first, last + 1, stride)]
    most = max(abs(low), abs(high))
    if high - low <= max(most * 1e-9, 1e-99):  # flat, as far as a tick can tell
        margin = most * 0.1 if most > 1e-99 else 1.0
        low, high = low - margin, high + margin
    step = nice_step(high - low, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [n * step for n in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def x_end(first: float, last: float, end: float) -> float:
    """Where the axis of a growing curve ends: rarely moved, at most `end` (when that is known)."""
    span = max(last - first, 10.0)
    power = 10.0 ** math.floor(math.log10(span))
    grown = first + next(m * power for m in (1, 1.5, 2, 3, 5, 7, 10) if m * power >= span)
    return max(last, min(grown, end)) if end else grown


def rows(
    title: str,
    curves: Sequence[Curve],
    width: int,
    height: int,
    *,
    end: int = 0,
    epochs: Sequence[int] = (),
    saves: Sequence[int] = (),
    log: bool = False,
    from_zero: bool = False,
    spell: Callable[[float], str] = short,
) -> list[list[Run]]:
    """A whole chart: title with the latest values, plot, axis line with a ◆ per saved file, labels.

    `end` is the last step of the run (0: unknown), `epochs` and `saves` are steps. `log` is ignored
    unless all values are above 0.
    """
    spans = [c.series.extremes() for c in curves]
    low, high = min(s[0] for s in spans), max(s[1] for s in spans)
    plot_height = height - 3
    if low > high or plot_height < 2 or width < 16:
        blank: list[list[Run]] = [[] for _ in range(max(0, height - 1))]
        if low > high and blank:
            blank[(height - 1) // 2] = [("no value yet".center(width)[:width], "axis")]
        return [_title(title, curves, width, spell), *blank][:height]
    low = min(low, 0.0) if from_zero else low
    log = log and low > 0
    y0, y1, ticks = y_axis(low, high, plot_height // 2, log=log)
    labels = {t: spell(t) for t in ticks}
    gutter = max(map(len, labels.values())) + 1
    canvas = Canvas(width - gutter, plot_height)
    known = [c.series.xs for c in curves if len(c.series)]
    first, last = min(x[0] for x in known), max(x[-1] for x in known)
    xs = Scale(first - 1, x_end(first - 1, last, end), canvas.width * 2)
    ys = Scale(y0, y1, plot_height * 4, log)
    for owner, curve in enumerate(curves):
        draw(canvas, curve.series, xs, ys, owner)
    at_row = {plot_height - 1 - ys.place(t) // 4: labels[t] for t in reversed(ticks)}
    marked = _cells(epochs, xs)
    if len(marked) > canvas.width // 4:
        marked = set()
    edges = [at_row.get(r, "").rjust(gutter - 1) + "│┤"[r in at_row] for r in range(plot_height)]
    plot = [[(edge, "axis"), *_cells_row(canvas, r, curves, marked)] for r, edge in enumerate(edges)]
    return [_title(title, curves, width, spell), *plot, *_x_axis(gutter, canvas.width, xs, _cells(saves, xs))]


def _title(title: str, curves: Sequence[Curve], width: int, spell: Callable[[float], str]) -> list[Run]:
    runs: list[Run] = [(title, "title")]
    used = len(title)
    for curve in reversed(curves):
        value = curve.series.last
        text = f"  {curve.label} {'-' if value is None else spell(value)}".replace("   ", "  ")
        if len(curve.series) and used + len(text) <= width:
            runs.append((text, curve.style))
            used += len(text)
    return runs


def _cells(steps: Sequence[int], xs: Scale) -> set[int]:
    return {xs.place(s) // 2 for s in steps if xs.low <= s <= xs.high}


def _cells_row(canvas: Canvas, row: int, curves: Sequence[Curve], marked: set[int]) -> list[Run]:
    runs: list[Run] = []
    text, style = "", "axis"
    for x in range(canvas.width):
        at = row * canvas.width + x
        bits = canvas.bits[at]
        if bits:
            char, name = chr(0x2800 + bits), curves[canvas.owner[at]].style
        else:
            char, name = ("┊", "mark") if x in marked else (" ", style)
        if name != style and text:
            runs.append((text, style))
            text = ""
        text, style = text + char, name
    return [*runs, (text, style)]


def _x_axis(gutter: int, width: int, xs: Scale, saved: set[int]) -> list[list[Run]]:
    step = max(1.0, nice_step(xs.high - xs.low, max(1, width // 10)))
    line, labels = ["─"] * width, [" "] * (width + gutter)
    free = 0
    for n in range(math.ceil(xs.low / step), math.floor(xs.high / step) + 1):
        x = xs.place(n * step) // 2
        line[x] = "┬"
        label = f"{n * step:.0f}" if xs.high < 100_000 else f"{n * step / 1000:g}k"
        start = min(max(free, gutter + x - len(label) // 2), width + gutter - len(label))
        if start >= free:
            labels[start : start + len(label)] = label
            free = start + len(label) + 1
    for x in saved:
        line[x] = "◆"
    axis: list[Run] = [(" " * (gutter - 1) + "└" + "".join(line), "axis")]
    return [axis, [("".join(labels), "axis")]]
