"""A line chart of growing series that repaints only the lines that changed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from rwkv_tui.widgets.plot import Curve, Run, rows


class LineChart(Widget):
    """Curves over steps. Whoever owns it calls `show` when the data may have changed.

    Curves name their style: "raw" is faint, "main" is bright.
    """

    COMPONENT_CLASSES = {
        "chart--title",
        "chart--axis",
        "chart--mark",
        "chart--raw",
        "chart--main",
    }
    DEFAULT_CSS = """
    LineChart {
        & > .chart--title { text-style: bold; }
        & > .chart--axis { text-style: dim; }
        & > .chart--mark { color: $border; }
        & > .chart--raw { color: $primary-darken-2; }
        & > .chart--main { color: $accent; }
    }
    """

    def __init__(
        self,
        title: str,
        *,
        from_zero: bool = False,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.chart_title = title
        self._from_zero = from_zero
        self._curves: Sequence[Curve] = ()
        self._end = 0
        self._epochs: Sequence[int] = ()
        self._saves: Sequence[int] = ()
        self._log = False
        self._drawn: object = None
        self._drawn_size = Size(0, 0)
        self._strips: list[Strip] = []

    def show(
        self,
        curves: Sequence[Curve],
        *,
        end: int = 0,
        epochs: Sequence[int] = (),
        saves: Sequence[int] = (),
        log: bool = False,
    ) -> None:
        """Takes the data (see `plot.rows`) and repaints what differs from what is on the screen."""
        self._curves, self._end, self._epochs, self._saves, self._log = curves, end, epochs, saves, log
        if not self.size or self._state() == self._drawn:
            return
        old, old_size, new = self._strips, self._drawn_size, self._draw()
        if old_size != self.size or len(old) != len(new):
            self.refresh()
            return
        changed = [Region(0, y, self.size.width, 1) for y, strip in enumerate(new) if strip != old[y]]
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
        data = tuple((id(c.series), c.series.revision) for c in self._curves)
        return data, self._end, len(self._epochs), len(self._saves), self._log, self.size

    def _draw(self) -> list[Strip]:
        self._drawn, self._drawn_size = self._state(), self.size
        text = rows(
            self.chart_title, self._curves, self.size.width, self.size.height,
            end=self._end, epochs=self._epochs, saves=self._saves, log=self._log,
            from_zero=self._from_zero,
        ) if self._curves else []  # fmt: skip
        styles = {
            name.removeprefix("chart--"): self.get_component_rich_style(name, partial=True)
            for name in self.COMPONENT_CLASSES
        }
        self._strips = [_strip(runs, styles, self.size.width) for runs in text]
        return self._strips


def _strip(runs: list[Run], styles: dict[str, Style], width: int) -> Strip:
    return Strip([Segment(text, styles[name]) for text, name in runs]).adjust_cell_length(width)
