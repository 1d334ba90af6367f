"""A list to pick from, which says so in the footer."""

from __future__ import annotations

from textual.binding import Binding
from textual.widgets import OptionList


class Picker(OptionList):
    """One line an entry; Enter picks."""

    BINDINGS = [Binding("enter", "select", "Pick")]

    def __init__(self, id: str) -> None:
        super().__init__(id=id, compact=True, markup=False)
