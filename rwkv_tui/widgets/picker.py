"""A list to pick from, which says so in the footer."""

from __future__ import annotations

from textual.binding import Binding
from textual.widgets import OptionList

from engine.contract.i18n import N_


class Picker(OptionList):
    """One line an entry; Enter picks."""

    BINDINGS = [Binding("enter", "select", N_("Pick"), id="list.select")]

    def __init__(self, id: str) -> None:
        super().__init__(id=id, compact=True, markup=False)

    def on_focus(self) -> None:
        """An entry is always under the cursor, so that Enter never does nothing."""
        if self.highlighted is None:
            self.action_first()
