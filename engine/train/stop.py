"""Being asked to stop: SIGTERM and SIGINT raise a flag that the run reads between its steps."""

from __future__ import annotations

import signal
from types import FrameType


class Stopped(Exception):
    """The run was asked to stop before training had begun."""


class StopRequest:
    """The flag. `install` may be called again to take the signals back from a library."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raises Stopped when a stop was requested."""
        if self.requested:
            raise Stopped
