"""A value out of a few, changed with the arrow keys; one line, for switches as well as for lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.binding import Binding
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from engine.contract.i18n import N_

CLICKED_BACK = 3  # cells from the left


class Choice(Widget, can_focus=True):
    """Shows `‹ value ›`; left, right and space go round. `labels` are shown instead of the values."""

    BINDINGS = [
        Binding("left", "turn(-1)", N_("Previous value"), show=False, id="choice.turn_back"),
        Binding("right,space,enter", "turn(1)", N_("Next value"), show=False, id="choice.turn"),
    ]
    DEFAULT_CSS = """
    Choice { height: 1; width: 100%; padding: 0 1; background: $surface; }
    Choice:focus { background: $primary 30%; text-style: bold; }
    """
    value: reactive[str] = reactive("")

    class Changed(Message):
        """The person chose another value."""

        def __init__(self, choice: Choice, value: str) -> None:
            super().__init__()
            self.choice = choice
            self.value = value

        @property
        def control(self) -> Choice:
            return self.choice

    def __init__(
        self, values: Sequence[str], value: str, *, labels: dict[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.values = tuple(values)
        self.labels = labels or {}
        self.set_reactive(Choice.value, value)

    def render(self) -> Content:
        label = self.labels.get(self.value, self.value)
        return Content.assemble(("‹ ", "dim"), label, (" ›", "dim"))

    def on_click(self, event: Click) -> None:
        """Back at the left sign, else on."""
        self.action_turn(-1 if event.x < CLICKED_BACK else 1)

    def action_turn(self, by: int) -> None:
        """The next value; a value from elsewhere that is none of them counts as the first."""
        here = self.values.index(self.value) if self.value in self.values else 0
        self.value = self.values[(here + by) % len(self.values)]
        self.post_message(self.Changed(self, self.value))
