"""A line of text that may come from a file or its name."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Input

from engine.contract.plain import same_length


class PlainInput(Input):
    """Shows a sign for each character that would steer the terminal; the value keeps them."""

    @property
    def _value(self) -> Text:
        shown = super()._value
        shown.plain = same_length(shown.plain)
        return shown
