"""What all panels share: of their picture only the cells that differ are painted again."""

from __future__ import annotations

import string
from collections.abc import Iterable

from rich.cells import cell_len
from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget

SPARKS = "▁▂▃▄▅▆▇█"


class Panel(Widget):
    """Shows what `draw` returns for its `size`; the height comes from the style sheet."""

    _shown: Content | None = None

    def draw(self) -> Content:
        """The picture for `self.size`; all text in it is shown as it is."""
        raise NotImplementedError

    def touch(self) -> None:
        """To be called when what it shows may have changed."""
        if not self.size:
            return
        drawn = self.draw()
        if self._shown is None:
            self.refresh()
        elif not self._shown.is_same(drawn):
            self.refresh(*_changes(self._shown, drawn))

    def render(self) -> Content:
        self._shown = self.draw()
        return self._shown


def _changes(before: Content, now: Content) -> Iterable[Region]:
    """One stretch of each line that differs; nothing at all, which paints everything, when lines came or
    went."""
    old, new = before.split("\n", allow_blank=True), now.split("\n", allow_blank=True)
    if len(old) != len(new):
        return
    for y, (was, line) in enumerate(zip(old, new, strict=True)):
        if was.is_same(line):
            continue
        width = max(was.cell_length, line.cell_length)
        start = 0
        if was.spans == line.spans:
            while was.plain[start : start + 1] == line.plain[start : start + 1]:
                start += 1
        same = cell_len(line.plain[:start])
        yield Region(same, y, width - same, 1)


def fill(sentence: str, **parts: Content | str) -> Content:
    """A translated sentence with its {places} filled by what may have a style of its own."""
    made: list[Content | str] = []
    for text, name, _spec, _conversion in string.Formatter().parse(sentence):
        made += [text, *([parts[name]] if name else [])]
    return Content.assemble(*made)


def bar(share: float, width: int, color: str = "$primary") -> Content:
    """A bar of `width` cells; `share` is held within 0..1, and only what is complete is full."""
    filled = int(min(1.0, max(0.0, share)) * width)
    return Content.assemble(("━" * filled, color), ("─" * (width - filled), "$border"))


def spark(values: Iterable[float | None], width: int, top: float | None = None, low: float = 0.0) -> str:
    """The last `width` values as a line of bars from `low` to `top` (None: the greatest of them)."""
    last = list(values)[-width:] if width > 0 else []
    known = [v for v in last if v is not None]
    top = max(known, default=0.0) if top is None else top
    span = top - low
    signs = [" " if v is None else SPARKS[_level((v - low) / span if span > 0 else 0.0)] for v in last]
    return "".join(signs).rjust(max(0, width))


def _level(share: float) -> int:
    return min(len(SPARKS) - 1, max(0, round(share * (len(SPARKS) - 1))))
