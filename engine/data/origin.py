"""How a pair was made: PREFIX.idx.json beside it, with the hash of each source."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ORIGIN = ".idx.json"
"""Comes behind the prefix. Not just .json: that is what a source may be called."""

_BLOCK = 2 << 20


class Digests:
    """SHA-256 of files, found beside other work: hashing lets other threads run."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._found = paths, list[str]()
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Digests:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> list[str]:
        """In hexadecimal, one a path. Raises OSError if a file can no longer be read."""
        while self._thread.is_alive():
            self._thread.join(0.1)
        if self._error:
            raise self._error
        return self._found

    def _run(self) -> None:
        try:
            for path in self._paths:
                digest = hashlib.sha256()
                with path.open("rb") as file:
                    while not self._stop.is_set() and (block := file.read(_BLOCK)):
                        digest.update(block)
                self._found.append(digest.hexdigest())
        except OSError as error:
            self._error = error
