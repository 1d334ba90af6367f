"""Files that appear whole or not at all: a small one, or several together."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from engine.contract.i18n import _
from engine.contract.process import Process


def opened(path: Path) -> BinaryIO:
    """A file to read. Raises OSError where it is none: a pipe would keep its reader waiting, a device might
    never end."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, _("it is no file"), str(path))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, once nobody else does; a file system without locks has none to hold. Raises
    OSError when the file cannot be read."""
    with opened(path) as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_json(path: Path) -> dict[str, object]:
    """The object in a small file of ours, {} where it is gone or holds something else."""
    try:
        with opened(path) as file:
            record = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file beside its place and renames it there. Raises OSError, leaving no part behind."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Staged:
    """Files that appear together: `parts` are written in the `with` block and put in place at its end.

    The last target is the one without which a reader takes the others for nothing: it is moved away
    first and put in place last. An exception in the block, or while files are moved, leaves what was
    there before. What a killed process left, the next one clears up: its parts go, and what it had
    moved aside comes back unless it had put in place all of its own.
    """

    def __init__(self, targets: Sequence[Path], *, replace: bool = True) -> None:
        pid = os.getpid()
        self.targets, self._replace = tuple(targets), replace
        self.parts = tuple(t.with_name(f".{t.name}.{pid}.part") for t in targets)
        self._olds = tuple(t.with_name(f".{t.name}.{pid}.old") for t in targets)

    def __enter__(self) -> Staged:
        for folder in {target.parent for target in self.targets}:
            folder.mkdir(parents=True, exist_ok=True)
        self._clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            for part in self.parts:
                part.unlink(missing_ok=True)

    def _publish(self) -> None:
        """Raises FileExistsError for a target that is there and is not to be replaced."""
        if not self._replace:
            for target in self.targets:
                if target.exists():
                    raise FileExistsError(f"{target} appeared meanwhile")  # unsaid
        try:
            for target, old in reversed(list(zip(self.targets, self._olds, strict=True))):
                if target.exists():
                    target.replace(old)
            for target, part in zip(self.targets, self.parts, strict=True):
                part.replace(target)
        except BaseException:  # also a signal between two of them
            for target, part, old in zip(self.targets, self.parts, self._olds, strict=True):
                if old.exists():
                    old.replace(target)
                elif not part.exists():
                    target.unlink(missing_ok=True)
            raise
        for old in self._olds:
            old.unlink(missing_ok=True)

    def _clear(self) -> None:
        for target in self.targets:
            for path in _left(target, "part"):
                path.unlink(missing_ok=True)
        complete = self.targets[-1].exists()
        for target in self.targets:
            for old in _left(target, "old"):
                if complete:
                    old.unlink()
                else:
                    old.replace(target)


def _left(target: Path, kind: str) -> list[Path]:
    """The files beside the target that processes which are gone have left."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.{kind}")
    found = [(path, pattern.fullmatch(path.name)) for path in target.parent.iterdir()]
    return [path for path, match in found if match and not _runs(int(match[1]))]


def _runs(pid: int) -> bool:
    try:
        Process.of(pid)
    except OSError:
        return False
    return True


def write_new(path: Path, text: str) -> None:
    """Writes a text file that must not exist yet. Raises FileExistsError, else OSError leaving none."""
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink()
            raise
