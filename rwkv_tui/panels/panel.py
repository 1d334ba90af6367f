"""What all panels share: they are painted again only when their picture differs."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget


class Panel(Widget):
    """Shows what `draw` returns for its `size`; the height comes from the style sheet."""

    _shown: Content | None = None

    def draw(self) -> Content:
        """The picture for `self.size`; all text in it is shown as it is."""
        raise NotImplementedError

    def touch(self) -> None:
        """To be called when what it shows may have changed."""
        if self.size and not (self._shown and self._shown.is_same(self.draw())):
            self.refresh()

    def render(self) -> Content:
        self._shown = self.draw()
        return self._shown


def bar(share: float, width: int, color: str = "$primary") -> Content:
    """A bar of `width` cells; `share` is held within 0..1, and only what is complete is full."""
    filled = int(min(1.0, max(0.0, share)) * width)
    return Content.assemble(("━" * filled, color), ("─" * (width - filled), "$border"))
