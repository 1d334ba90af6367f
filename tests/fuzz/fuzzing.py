"""What every fuzz test does: a reader meets many inputs, and says of each what is wrong in a UserError."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

from engine.contract.errors import UserError
from tests.fuzz.mutate import mutants
from tests.fuzz.readers import Reader

FEW, MANY = 300, 100_000
SECONDS = 5.0  # of the processor, for one input
MEMORY = 200 << 20  # bytes that a reader may come to hold, whatever the inputs claim
SHM = Path("/dev/shm")  # on a disk, writing so many files takes longer than reading them


def fuzz(reader: Reader, count: int) -> None:
    """Fails with the input that the reader answers by anything but UserError, or too slowly."""
    with tempfile.TemporaryDirectory(dir=SHM if os.access(SHM, os.W_OK) else None) as folder:
        _fuzz(reader, Path(folder), count)


def _fuzz(reader: Reader, folder: Path, count: int) -> None:
    valid, read = reader.valid(), reader.open(folder)
    for data in valid:
        _attempt(read, data)  # what it imports is not what an input takes
    before, accepted = _peak(), 0
    for data in mutants(valid, reader.words, count):
        began = time.process_time()
        try:
            accepted += _attempt(read, data)
        except BaseException as error:
            raise AssertionError(f"{data!r} was answered by {error!r}") from error
        assert time.process_time() - began < SECONDS, f"{data!r} took too long"
    assert _peak() - before < MEMORY
    assert accepted  # a reader that takes nothing tells nothing


def _attempt(read: object, data: bytes) -> bool:
    try:
        read(data)  # type: ignore[operator]
    except UserError as error:
        assert error.message and error.remedy is not None
        return False
    return True


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
