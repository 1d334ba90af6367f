"""Appends events to the run's event file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.events import Event, dump_event
from engine.contract.i18n import _

LONGEST_WAIT = 4 << 20  # bytes, some 20,000 steps


class EventWriter:
    """Each event is one write to a file opened for appending, so that readers see whole lines.

    Who has the file open is the run: a second writer is refused with a UserError, and so is a folder that
    cannot be written to. `continued` says that an earlier process of this run has told something.
    What a full disk does not take waits until it does: training goes on meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._waiting = path, b""
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(
                _("Cannot write {path} ({strerror}).", path=path, strerror=error.strerror),
                _("Check that the folder is there and writable."),
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                _("The run in {parent} is alive.", parent=path.parent), _("Stop it before you resume it.")
            ) from None
        except OSError:
            pass  # a file system without locks: the launcher has looked for the process
        self.continued = self._file.seek(0, os.SEEK_END) > 0
        if self.continued:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")  # closes a line that a sudden end has torn

    def __call__(self, event: Event) -> None:
        """Raises UserError when the disk has been full for too long."""
        self._waiting += dump_event(event).encode()
        try:
            written = self._file.write(self._waiting) or 0
        except OSError as error:
            if len(self._waiting) > LONGEST_WAIT:
                raise UserError(
                    _("Cannot write {path} ({strerror}).", path=self._path, strerror=error.strerror),
                    _("Free some space, then resume the run."),
                ) from error
        else:
            self._waiting = self._waiting[written:]  # a disk that becomes full takes a part

    def close(self) -> None:
        with contextlib.suppress(OSError), self._file:
            self._file.write(self._waiting)
