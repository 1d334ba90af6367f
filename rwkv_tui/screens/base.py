"""What every screen of the program is: it says what its keys do in the person's language."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from textual import on
from textual.binding import ActiveBinding
from textual.events import Mount
from textual.screen import ModalScreen, Screen, ScreenResultType

from engine.contract.i18n import _

Keys = dict[str, ActiveBinding]
PATIENCE = 3.0
"""Seconds that a key waits for its screen."""


class TuneScreen(Screen[ScreenResultType]):
    """A screen whose BINDINGS are marked with `N_`. Keys wait until it is `made`."""

    def __init__(self) -> None:
        super().__init__()
        self._made = asyncio.Event()

    @on(Mount)
    def _is_made(self) -> None:
        self._made.set()  # handlers of a subclass have gone before

    async def made(self) -> None:
        """Waits until it has composed and mounted all that its `on_mount` waits for."""
        if not self._made.is_set():
            with suppress(asyncio.TimeoutError):  # whatever keeps it, keys must not be dead for ever
                await asyncio.wait_for(self._made.wait(), PATIENCE)

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
