"""The trail of steps at the top: where one is, what is done, what lacks something."""

from __future__ import annotations

from typing import Literal

from rich.cells import cell_len
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from engine.contract.i18n import N_, _

STEPS = (N_("Data"), N_("Model"), N_("Parameters"), N_("Review"), N_("Monitor"), N_("Done"))
Mark = Literal["todo", "ok", "problem"]
_STYLES = {"ok": "$success", "problem": "$warning", "todo": "$foreground 60%"}


class Trail(Static):
    """One line naming the six steps. Those before `current` count as done unless `go` says otherwise."""

    DEFAULT_CSS = "Trail { height: 1; width: 100%; padding: 0 1; background: $panel; }"

    class Chosen(Message):
        """A step was clicked on."""

        def __init__(self, step: str) -> None:
            super().__init__()
            self.step = step

    def __init__(self, current: str, id: str | None = None) -> None:
        place = STEPS.index(current)
        self._current = current
        self._marks: dict[str, Mark] = {s: "ok" if n < place else "todo" for n, s in enumerate(STEPS)}
        super().__init__(self._line(), id=id)

    def go(self, step: str, marks: dict[str, Mark] | None = None) -> None:
        """Makes `step` the current one and takes over the marks."""
        self._current = step
        self._marks.update(marks or {})
        self.update(self._line())

    def on_click(self, event: Click) -> None:
        """Says which step stands there."""
        end = self.gutter.left
        for step in STEPS:
            end += cell_len(f"   {_(step)}  ")  # with its sign, and what stands between two
            if event.x < end:
                self.post_message(self.Chosen(step))
                return

    def _line(self) -> Content:
        """A sign as well as a colour, so that it reads without colours."""
        parts = []
        for number, step in enumerate(STEPS, 1):
            mark = self._marks[step]
            sign = {"ok": "✓", "problem": "!", "todo": str(number)}[mark]
            style = _STYLES[mark] + (" bold reverse" if step == self._current else "")  # unsaid
            parts.append(Content.styled(f" {sign} {_(step)} ", style))
        return Content.styled("›", "dim").join(parts)
