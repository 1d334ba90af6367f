"""What every screen of the program is: it says what its keys do in the person's language."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from textual import on
from textual.binding import ActiveBinding
from textual.events import Mount
from textual.screen import ModalScreen, Screen, ScreenResultType
from textual.worker import get_current_worker

from engine.contract.i18n import _
from rwkv_tui.keys import key_of

Keys = dict[str, ActiveBinding]
PATIENCE = 3.0
"""Seconds that a key waits for its screen."""


class Helpful:
    """A screen whose BINDINGS and HELP_TEXT are marked with `N_`.

    A key in HELP_TEXT is a {place}: the last word of its name, which is in HELP_KEYS.
    """

    HELP_TEXT = ""
    HELP_KEYS: tuple[str, ...] = ()

    def about(self) -> str:
        """What its help says above the keys."""
        assert isinstance(self, Screen)
        keys = {name.rpartition(".")[2]: key_of(self, name) for name in self.HELP_KEYS}
        return _(self.HELP_TEXT, **keys)

    @property
    def active_bindings(self) -> Keys:
        """The keys that work now, what they do being translated."""
        return {
            key: active._replace(binding=replace(active.binding, description=_(active.binding.description)))
            for key, active in super().active_bindings.items()  # type: ignore[misc]
        }


class TuneScreen(Helpful, Screen[ScreenResultType]):
    """Keys wait until it is `made`."""

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

    def from_thread(self, show: Callable[..., None], *given: object) -> None:
        """Shows what a worker has found, unless it is wanted no more or the screen has been left."""
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(lambda: show(*given) if self in self.app.screen_stack else None)


class TuneDialog(Helpful, ModalScreen[ScreenResultType]):
    """The same above another screen."""
