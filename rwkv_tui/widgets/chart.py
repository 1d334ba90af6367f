"""A line chart of growing series that repaints only the cells that changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from rwkv_tui.widgets.axes import ALL_STEPS, Scale, XAxis
from rwkv_tui.widgets.plot import Curve, Run, picture

GAP = 16
"""Cells that stayed the same between two that changed; moving the cursor there costs as much."""


class LineChart(Widget):
    """Curves over an axis. Whoever owns it calls `show` when the data may have changed.

    Curves name their style: "raw" is faint, "main" is bright, "point" stands out; "a" to "f" tell six apart.
    """

    COMPONENT_CLASSES = {
        f"chart--{name}" for name in ("title", "axis", "mark", "cursor", "raw", "main", "point", *"abcdef")
    }
    DEFAULT_CSS = """
    LineChart {
        & > .chart--title { text-style: bold; }
        & > .chart--axis { text-style: dim; }
        & > .chart--mark { color: $border; }
        & > .chart--cursor { color: $foreground; }
        & > .chart--raw { color: $primary-darken-2; }
        & > .chart--main { color: $accent; }
        & > .chart--point { color: $success; text-style: bold; }
        & > .chart--a { color: $primary; }
        & > .chart--b { color: $accent; }
        & > .chart--c { color: $success; }
        & > .chart--d { color: $error; }
        & > .chart--e { color: $secondary; }
        & > .chart--f { color: $foreground; }
    }
    """

    def __init__(
        self, title: str, *, brief: str = "", from_zero: bool = False, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.chart_title, self._brief = title, brief
        self.xs: Scale | None = None
        self._from_zero = from_zero
        self._curves: Sequence[Curve] = ()
        self._axis = XAxis()
        self._epochs: Sequence[float] = ()
        self._saves: Sequence[float] = ()
        self._log = False
        self._drawn: object = None
        self._drawn_size = Size(0, 0)
        self._rows: list[list[Run]] = []
        self._strips: list[Strip] = []

    @property
    def is_empty(self) -> bool:
        """Whether it has not been given any curve yet."""
        return not self._curves

    def show(
        self,
        curves: Sequence[Curve],
        *,
        axis: XAxis = ALL_STEPS,
        epochs: Sequence[float] = (),
        saves: Sequence[float] = (),
        log: bool = False,
    ) -> None:
        """Takes the data (see `plot.picture`) and repaints what differs from what is on the screen."""
        self._curves, self._axis, self._epochs, self._saves, self._log = curves, axis, epochs, saves, log
        if not self.size or self._state() == self._drawn:
            return
        old, old_size = self._rows, self._drawn_size
        self._draw()
        if old_size != self.size or len(old) != len(self._rows):
            self.refresh()
            return
        changed = [
            Region(x, y, width, 1)
            for y, (before, now) in enumerate(zip(old, self._rows, strict=True))
            if before != now
            for x, width in _changes(before, now, self.size.width)
        ]
        if changed:
            self.refresh(*changed)

    def render_line(self, y: int) -> Strip:
        # Newer data wait for `show`: drawn here, they would be painted in this line alone
        if self._drawn is None or self._drawn_size != self.size:
            self._draw()
        strip = self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)
        return strip.apply_style(self.rich_style)

    def notify_style_update(self) -> None:
        self._drawn = None
        super().notify_style_update()

    def _state(self) -> object:
        data = tuple((id(c.series), c.series.revision, c.label) for c in self._curves)
        return data, self._axis, len(self._epochs), len(self._saves), self._log, self.size

    def _draw(self) -> None:
        self._drawn, self._drawn_size = self._state(), self.size
        made = picture(
            self.chart_title, self._curves, self.size.width, self.size.height, axis=self._axis,
            epochs=self._epochs, saves=self._saves, log=self._log, from_zero=self._from_zero,
            brief=self._brief,
        ) if self._curves else None  # fmt: skip
        styles = {
            name.removeprefix("chart--"): self.get_component_rich_style(name, partial=True)
            for name in self.COMPONENT_CLASSES
        }
        self._rows, self.xs = (made.rows, made.xs) if made else ([], None)
        self._strips = [_strip(runs, styles, self.size.width) for runs in self._rows]


def _strip(runs: list[Run], styles: dict[str, Style], width: int) -> Strip:
    return Strip([Segment(text, styles[name]) for text, name in runs]).adjust_cell_length(width)


def _changes(before: list[Run], now: list[Run], width: int) -> Iterator[tuple[int, int]]:
    """The stretches (start, length) of a row that changed; all of it when cells and characters differ."""
    old, new = _cells(before, width), _cells(now, width)
    if any(len(char) > 1 or (not char.isascii() and ord(char) > 0x2E7F) for char, _ in (*old, *new)):
        yield 0, width
        return
    start = end = -1
    for x in (x for x in range(width) if old[x] != new[x]):
        if start >= 0 and x - end > GAP:
            yield start, end + 1 - start
            start = x
        start, end = (x if start < 0 else start), x
    if start >= 0:
        yield start, end + 1 - start


def _cells(runs: list[Run], width: int) -> list[tuple[str, str]]:
    cells = [(char, style) for text, style in runs for char in text]
    return [*cells[:width], *[(" ", "axis")] * (width - len(cells))]
