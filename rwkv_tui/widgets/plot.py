"""Curves as rows of text: braille dots, axes and ticks. Pure; `chart.LineChart` puts it on the screen."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from engine.contract.i18n import _
from rwkv_tui.plain import short
from rwkv_tui.series import Series
from rwkv_tui.widgets.axes import ALL_STEPS, Scale, XAxis, nice_step, nice_time, spell_ticks, y_axis

# Dot bits of a braille cell: [column][row], rows from the top (U+2800 plus the bits)
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
Run = tuple[str, str]
"""Text and the name of its style: "title", "axis", "mark", "cursor" or a curve's own."""


@dataclass(frozen=True)
class Curve:
    """A series with its name in the legend and the name of its style.

    `xs` are the places of its points when they are not the series' own; they never fall. `dots` draws each
    point as a sign of its own instead of a line.
    """

    series: Series
    label: str
    style: str
    xs: Sequence[float] | None = None
    dots: bool = False

    @property
    def places(self) -> Sequence[float]:
        return self.series.xs if self.xs is None else self.xs

    def between(self, low: float, high: float) -> tuple[int, int]:
        """The points from `low` to `high`, both included, as a range of indices."""
        places, count = self.places, len(self.series)
        return bisect_left(places, low, 0, count), bisect_right(places, high, 0, count)


class Canvas:
    """`width` x `height` braille cells. Of the curves in a cell the one drawn last gives the colour."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bits = bytearray(width * height)
        self.owner = bytearray(width * height)
        self.signs: dict[int, str] = {}

    def column(self, x: int, y0: int, y1: int, owner: int) -> None:
        """Dots from y0 to y1, counted upwards from the bottom, in dot column x."""
        cells, side = self.height * 4 - 1, DOTS[x & 1]
        for y in range(min(y0, y1), max(y0, y1) + 1):
            row = cells - y
            at = (row >> 2) * self.width + (x >> 1)
            self.bits[at] |= side[row & 3]
            self.owner[at] = owner

    def sign(self, x: int, y: int, char: str, owner: int) -> None:
        """A whole cell of its own for one point."""
        at = ((self.height * 4 - 1 - y) >> 2) * self.width + (x >> 1)
        self.signs[at] = char
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


def draw(canvas: Canvas, curve: Curve, xs: Scale, ys: Scale, owner: int) -> None:
    """Draws a curve: each dot column spans from the least to the greatest of its points, so that no
    spike is lost however many points share it. A missing value breaks the line."""
    places, values = curve.places, curve.series.ys
    edges = [xs.low + (xs.high - xs.low) * k / xs.pixels for k in range(1, xs.pixels)]
    start, total = curve.between(xs.low, xs.high)
    previous: tuple[int, int] | None = None
    for x in range(xs.pixels):
        stop = bisect_left(places, edges[x], start, total) if x < len(edges) else total
        if stop == start:
            continue
        low, high = curve.series.extremes(start, stop)
        if low > high:
            previous, start = None, stop
            continue
        if curve.dots:
            for value in {low, high}:
                canvas.sign(x, ys.place(value), "•", owner)
            start = stop
            continue
        first, last = values[start], values[stop - 1]
        if previous is not None and not math.isnan(first):
            canvas.line(*previous, x, ys.place(first), owner)
        canvas.column(x, ys.place(low), ys.place(high), owner)
        previous = None if math.isnan(last) else (x, ys.place(last))
        start = stop


@dataclass(frozen=True)
class Picture:
    """The rows of a chart, and how places on its axis became columns of dots (None: no plot was drawn)."""

    rows: list[list[Run]]
    xs: Scale | None = None


def picture(
    title: str,
    curves: Sequence[Curve],
    width: int,
    height: int,
    *,
    axis: XAxis = ALL_STEPS,
    epochs: Sequence[float] = (),
    saves: Sequence[float] = (),
    log: bool = False,
    from_zero: bool = False,
    brief: str = "",
) -> Picture:
    """A whole chart: title with the latest values, or those under the cursor; plot; axis line with a ◆ per
    saved file; labels.

    `epochs` and `saves` are places on the axis. `log` is ignored unless all values shown are above 0.
    `brief` is the title where the values would leave no room for the other.
    """
    window, low, high = _extent(curves, axis)
    plot_height, titles = height - 3, (title, brief)
    head = _latest(titles, curves, width)
    if low > high or plot_height < 2 or width < 16:
        return Picture([head, *_blank(width, height - 1, "" if low <= high else _("no value yet"))][:height])
    low = min(low, 0.0) if from_zero and not log else low
    log = log and low > 0
    y0, y1, ticks = y_axis(low, high, plot_height // 2, log=log)
    labels = dict(zip(ticks, spell_ticks(ticks), strict=True))
    gutter = max(map(len, labels.values())) + 1
    canvas = Canvas(width - gutter, plot_height)
    xs = Scale(*window, canvas.width * 2)
    ys = Scale(y0, y1, plot_height * 4, log)
    for owner, curve in enumerate(curves):
        draw(canvas, curve, xs, ys, owner)
    marks = dict.fromkeys(_cells(epochs, xs), "mark")
    if len(marks) > canvas.width // 4:
        marks = {}
    if axis.cursor is not None and xs.low <= axis.cursor <= xs.high:
        under = _under_cursor(curves, axis.cursor, xs)
        marks[xs.place(under[0]) // 2] = "cursor"
        head = _reading(titles, curves, width, axis.reading(*under), under)
    at_row = {plot_height - 1 - ys.place(t) // 4: labels[t] for t in reversed(ticks)}
    edges = [at_row.get(r, "").rjust(gutter - 1) + "│┤"[r in at_row] for r in range(plot_height)]
    plot = [[(edge, "axis"), *_cells_row(canvas, r, curves, marks)] for r, edge in enumerate(edges)]
    return Picture([head, *plot, *_x_axis(gutter, canvas.width, xs, axis, _cells(saves, xs))], xs)


def _extent(curves: Sequence[Curve], axis: XAxis) -> tuple[tuple[float, float], float, float]:
    """The window on the axis, and the least and the greatest value in it (inf, -inf where there is none)."""
    known = [c.places for c in curves if len(c.series)]
    window = axis.shown(min(x[0] for x in known), max(x[-1] for x in known)) if known else (0.0, 1.0)
    spans = [c.series.extremes(*c.between(*window)) for c in curves]
    return window, min((s[0] for s in spans), default=math.inf), max((s[1] for s in spans), default=-math.inf)


def _blank(width: int, height: int, said: str) -> list[list[Run]]:
    """Empty rows, with what is said in the middle."""
    rows: list[list[Run]] = [[] for _row in range(max(0, height))]
    if said and rows:
        said = set_cell_size(" " * ((width - cell_len(said)) // 2) + said, width)
        rows[height // 2] = [(said, "axis")]
    return rows


def _latest(titles: tuple[str, str], curves: Sequence[Curve], width: int) -> list[Run]:
    found = [(c, "-" if c.series.last is None else short(c.series.last)) for c in curves if len(c.series)]
    return _title(titles, [], found, width)


def _under_cursor(curves: Sequence[Curve], cursor: float, xs: Scale) -> tuple[float, float]:
    """The stretch of the cursor's column; where it holds no point, the nearest point's place."""
    stretch = (xs.high - xs.low) / xs.pixels
    low = xs.low + xs.place(cursor) * stretch
    high = low + stretch
    spans = [(c.places, *c.between(low, math.nextafter(high, -math.inf))) for c in curves]
    if any(start < stop for _places, start, stop in spans):
        return low, high
    beside = [places[n] for places, start, _stop in spans for n in (start - 1, start) if 0 <= n < len(places)]
    near = [x for x in beside if xs.low <= x <= xs.high]
    if not near:
        return low, high
    nearest = min(near, key=lambda x: abs(x - cursor))
    return nearest, math.nextafter(nearest, math.inf)


def _reading(
    titles: tuple[str, str], curves: Sequence[Curve], width: int, place: str, under: tuple[float, float]
) -> list[Run]:
    """The title with what lies under the cursor: one value, or the least and the greatest."""
    found = []
    for curve in curves:
        start, stop = curve.between(under[0], math.nextafter(under[1], -math.inf))
        low, high = curve.series.extremes(start, stop)
        if low <= high:
            one = short(low) if short(low) == short(high) else f"{short(low)}..{short(high)}"
            found.append((curve, one))
    return _title(titles, [(f"  {place}", "cursor")], found, width)


def _title(
    titles: tuple[str, str], notes: list[Run], values: Sequence[tuple[Curve, str]], width: int
) -> list[Run]:
    """The title, or the brief one where that lets more in, and as many of the values as there is room for,
    the last curve's first."""
    texts = [(f"  {c.label} {value}".replace("   ", "  "), c.style) for c, value in reversed(values)]
    whole, brief = titles
    needed = sum(cell_len(text) for text, _style in (*notes, *texts))
    title = brief if brief and cell_len(whole) + needed > width else whole
    runs: list[Run] = [(title, "title"), *notes]
    used = sum(cell_len(text) for text, _style in runs)
    for text, style in texts:
        if used + cell_len(text) <= width:
            runs.append((text, style))
            used += cell_len(text)
    return runs


def _cells(places: Sequence[float], xs: Scale) -> set[int]:
    return {xs.place(s) // 2 for s in places if xs.low <= s <= xs.high}


def _cells_row(canvas: Canvas, row: int, curves: Sequence[Curve], marks: dict[int, str]) -> list[Run]:
    runs: list[Run] = []
    text, style = "", "axis"
    for x in range(canvas.width):
        at = row * canvas.width + x
        bits = canvas.bits[at]
        if at in canvas.signs:
            char, name = canvas.signs[at], curves[canvas.owner[at]].style
        elif bits:
            char, name = chr(0x2800 + bits), curves[canvas.owner[at]].style
        elif x in marks:
            char, name = "┊" if marks[x] == "mark" else "│", marks[x]
        else:
            char, name = " ", style
        if name != style and text:
            runs.append((text, style))
            text = ""
        text, style = text + char, name
    return [*runs, (text, style)]


def _x_axis(gutter: int, width: int, xs: Scale, axis: XAxis, saved: set[int]) -> list[list[Run]]:
    nice = nice_time if axis.unit == "time" else nice_step
    step = nice(xs.high - xs.low, max(1, width // 10))
    if axis.unit != "time":  # whole ones: there is no step 2.5
        step = max(1.0, step) if step != 2.5 else 5.0
    line, labels = ["─"] * width, [" "] * (width + gutter)
    free, end = 0, width + gutter
    if axis.note and cell_len(axis.note) + 12 < width:
        end -= cell_len(axis.note) + 1
        labels[end + 1 :] = axis.note
    for n in range(math.ceil(xs.low / step), math.floor(xs.high / step) + 1):
        x = xs.place(n * step) // 2
        line[x] = "┬"
        label = axis.spell(n * step)
        start = min(max(free, gutter + x - len(label) // 2), width + gutter - len(label))
        if start >= free and start + len(label) <= end:
            labels[start : start + len(label)] = label
            free = start + len(label) + 1
    for x in saved:
        line[x] = "◆"
    marks: list[Run] = [(" " * (gutter - 1) + "└" + "".join(line), "axis")]
    return [marks, [("".join(labels), "axis")]]
