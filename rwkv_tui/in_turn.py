"""Keys take turns: what is typed ahead of the program does what it would have done had one waited for it."""

from __future__ import annotations

from collections import deque
from functools import partial

from textual import events, on
from textual.app import App
from textual.message import Message

from rwkv_tui.screens.base import PATIENCE, TuneScreen

ROUNDS = 3
"""A key does what it is bound to in the first; what that posted is done in the second, as the closing of a
dialog, and what waited for its answer has taken the focus in the third."""


class Followed(Message):
    """Goes behind a key from the focus up to the application: everyone on the way has dealt with it then."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds


class KeysInTurn(App[None]):
    """Hands on a key once the one before it has done all that it does.

    Textual hands keys on as they come, and a binding of the screen runs only when nobody below wanted the
    key. Over a slow link several arrive at once: the letters behind a key that opens a dialog would go to
    what had the focus before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._typed: deque[events.Key | events.Paste] = deque()
        self._followed: Followed | None = None  # under way behind the last key

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif self._followed is None:
            await self._hand_on(event)
        else:
            self._typed.append(event)
            self.set_timer(PATIENCE, partial(self._lost, self._followed))

    async def _hand_on(self, event: events.Key | events.Paste) -> None:
        """Also not before the screen that it is meant for has been made."""
        if isinstance(self.screen, TuneScreen):
            await self.screen.made()
        if isinstance(event, events.Key) and event.key == "ctrl+j":
            event = events.Key("enter", "\r")  # as a terminal spells it before it is a screen's
        await super().on_event(event)
        self._follow(ROUNDS)

    def _follow(self, rounds: int) -> None:
        self._followed = Followed(rounds)
        if not (self.focused or self.screen).post_message(self._followed):
            self.post_message(self._followed)  # that widget is going

    @on(Followed)
    async def _came(self, message: Followed) -> None:
        if message is not self._followed:
            return
        if message.rounds > 1:
            self._follow(message.rounds - 1)
        else:
            await self._next()

    async def _lost(self, message: Followed) -> None:
        """A widget that was removed may have had it: keys go on all the same."""
        if message is self._followed:
            await self._next()

    async def _next(self) -> None:
        self._followed = None
        if self._typed:
            await self._hand_on(self._typed.popleft())
