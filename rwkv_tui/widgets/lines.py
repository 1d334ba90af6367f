"""Many lines of text to scroll through, of which only those in sight are made into pictures."""

from __future__ import annotations

from collections.abc import Iterable

from textual.binding import Binding
from textual.content import Content
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

from engine.contract.i18n import N_


class Lines(ScrollView, can_focus=True, inherit_bindings=False):
    """Shows lines, each wrapped to the width. It stays at the end while it is there, and else where it is;
    one that does not `follow` begins at the beginning.

    Left and right are left to the screen.
    """

    BINDINGS = [
        Binding("up", "scroll_up", N_("Up"), show=False, id="lines.up"),
        Binding("down", "scroll_down", N_("Down"), show=False, id="lines.down"),
        Binding("pageup", "page_up", N_("Page up"), show=False, id="lines.page_up"),
        Binding("pagedown", "page_down", N_("Page down"), show=False, id="lines.page_down"),
        Binding("home", "scroll_home", N_("To the beginning"), show=False, id="lines.first"),
        Binding("end", "scroll_end", N_("To the end"), show=False, id="lines.last"),
    ]
    DEFAULT_CSS = "Lines { height: 1fr; scrollbar-size-vertical: 1; }"

    def __init__(self, id: str | None = None, *, follow: bool = True) -> None:
        super().__init__(id=id)
        self._follow = follow
        self._given: list[Content] = []
        self._wrapped: list[Content] = []
        self._width = 0

    @property
    def lines(self) -> list[str]:
        """What there is to see, unwrapped."""
        return [line.plain for line in self._given]

    def put(self, lines: Iterable[Content]) -> None:
        """Shows these lines instead of those before."""
        self._given = list(lines)
        self._lay(list(self._given), fresh=True)

    def add(self, lines: Iterable[Content]) -> None:
        """Shows more lines below."""
        more = list(lines)
        self._given += more
        if more:
            self._lay(more, fresh=False)

    def is_at_end(self) -> bool:
        return self.scroll_offset.y >= self.max_scroll_y

    def _lay(self, lines: list[Content], *, fresh: bool) -> None:
        follow = self._follow and (self.is_at_end() or fresh)
        width = max(10, self.scrollable_content_region.width)
        self._width = width
        wrapped = [part for line in lines for part in _wrap(line, width)]
        before = 0 if fresh else len(self._wrapped)
        self._wrapped = wrapped if fresh else self._wrapped + wrapped
        self.virtual_size = Size(width, len(self._wrapped))
        if follow:
            self.scroll_end(animate=False, immediate=True)
        top = self.scroll_offset.y
        if fresh or follow:
            self.refresh()
        elif before < top + self.size.height:
            self.refresh(Region(0, before - top, width, len(wrapped)))

    def on_resize(self) -> None:
        if self.scrollable_content_region.width != self._width:
            self._lay(list(self._given), fresh=True)

    def render_line(self, y: int) -> Strip:
        at, width = y + self.scroll_offset.y, self.size.width
        if at >= len(self._wrapped):
            return Strip.blank(width, self.rich_style)
        made = Visual.to_strips(self, self._wrapped[at], width, 1, self.visual_style)
        return made[0].adjust_cell_length(width, self.rich_style) if made else Strip.blank(width)


def _wrap(line: Content, width: int) -> list[Content]:
    if "\n" not in line.plain and line.cell_length <= width:
        return [line]
    return [
        part for piece in line.split("\n", allow_blank=True) for part in piece.wrap(width) or [Content("")]
    ]
