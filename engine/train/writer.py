"""Appends events to the run's event file."""

from __future__ import annotations

from pathlib import Path

from engine.contract.events import Event, dump_event


class EventWriter:
    """Each event is one write to a file opened for appending, so that readers see whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __call__(self, event: Event) -> None:
        self._file.write(dump_event(event).encode())

    def close(self) -> None:
        self._file.close()
