"""Being asked to stop: SIGTERM and SIGINT raise a flag that the run reads between its steps.

The launcher starts a run with both held back, so that none is lost before the flag is there. SIGHUP, which
a closing terminal sends, is nothing to a run.
"""

from __future__ import annotations

import signal
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The run was asked to stop before training had begun."""


class StopRequest:
    """The flag. `install` may be called again to take the signals back from a library."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        for number in STOPPING:
            signal.signal(number, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raises Stopped when a stop was requested."""
        if self.requested:
            raise Stopped
