"""What every screen of the program is: it says what its keys do in the person's language."""

from __future__ import annotations

from dataclasses import replace

from textual.binding import ActiveBinding
from textual.screen import ModalScreen, Screen, ScreenResultType

from engine.contract.i18n import _

Keys = dict[str, ActiveBinding]


class TuneScreen(Screen[ScreenResultType]):
    """A screen whose BINDINGS are marked with `N_`."""

    @property
    def active_bindings(self) -> Keys:
        """The keys that work now, what they do being translated."""
        return _told(super().active_bindings)


class TuneDialog(ModalScreen[ScreenResultType]):
    """The same above another screen."""

    @property
    def active_bindings(self) -> Keys:
        """The keys that work now, what they do being translated."""
        return _told(super().active_bindings)


def _told(keys: Keys) -> Keys:
    return {
        key: active._replace(binding=replace(active.binding, description=_(active.binding.description)))
        for key, active in keys.items()
    }
