"""Being asked to stop: SIGTERM and SIGINT raise a flag that the run reads between its steps.

The launcher starts a run with both held back, so that none is lost before the flag is there. SIGHUP, which
a closing terminal sends, is nothing to a run.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Protocol

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The run was asked to stop before training had begun."""


class Together(Protocol):
    """The processes of a run, see engine.train.group."""

    @property
    def size(self) -> int: ...
    @property
    def leads(self) -> bool: ...
    def any(self, flag: bool) -> bool: ...


class StopRequest:
    """The flag. `install` may be called again to take the signals back from a library.

    Of several processes each is told at another moment: `requested` says what they agreed on last.
    """

    def __init__(self, group: Together | None = None) -> None:
        self.group = group
        self._asked = self._agreed = False

    def install(self) -> None:
        for number in STOPPING:
            signal.signal(number, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True

    @property
    def requested(self) -> bool:
        return self._asked if self.group is None or self.group.size == 1 else self._agreed

    def agree(self) -> bool:
        """Asks all processes, which must all call this; gives `requested`."""
        if self.group is not None and self.group.size > 1:
            self._agreed = self.group.any(self._asked)
        return self.requested

    def check(self) -> None:
        """Raises Stopped when a stop was requested. Of several processes the leading one does: the others
        end with it."""
        if self._asked and (self.group is None or self.group.leads):
            raise Stopped

    def check_together(self) -> None:
        """As `check`, where all processes are at the same place."""
        if self.agree():
            raise Stopped
