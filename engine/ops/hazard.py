"""Trials that may take more with them than themselves: a kernel that reads where it may not ends all use of
the GPU by its process, and a compiler may end, or hang, the process.

Each is noted in a file before it begins. What ended so is not tried again until the file is removed: the next
start would end the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from engine.contract.errors import UserError, first_line
from engine.contract.files import write_atomic
from engine.contract.i18n import _
from engine.contract.process import Process

FOLDER = "trials"


class Lost(UserError):
    """This process can no longer use the GPU."""


class Declined(Exception):
    """It is not tried, for it ended badly before."""


@contextlib.contextmanager
def trial(name: str, key: str, device: str, cache: Path | None) -> Iterator[None]:
    """Around a trial of `name`; `key` says of what and where, and notes are in the folder `cache`.

    Raises Declined instead of trying what ended the use of the GPU, or a process, before, and Lost where it
    has just ended the use of the GPU.
    """
    if device != "cuda" or cache is None:
        yield
        return
    note = cache / FOLDER / f"{hashlib.sha256(f'{name} {key}'.encode()).hexdigest()[:16]}.json"
    if ended := _ended(note):
        raise Declined(_("{ended} (remove {note} to try it again)", ended=ended, note=note))
    _write(note, "")
    try:
        yield
    except Exception as error:
        if not _is_lost():
            raise
        _write(note, first_line(error))
        raise Lost(
            _(
                "The trial of {name} has ended this process's use of the GPU: {reason}.",
                name=name,
                reason=first_line(error),
            ),
            _("Start again: it is left out then. --op chunked needs no trial."),
        ) from error
    finally:
        if not _read(note).get("reason"):
            note.unlink(missing_ok=True)


def _ended(note: Path) -> str:
    """How it ended before; "" when it did not, or is being tried by a process that is alive."""
    found = _read(note)
    if reason := found.get("reason"):
        return _("it ended the use of the GPU before: {reason}", reason=reason)
    process = Process.from_record(found)
    return "" if process is None or process.alive() else _("the process that tried it before ended at it")


def _is_lost() -> bool:
    """Whether the error is one that all that follows would have, too."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _read(note: Path) -> dict[str, object]:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(note: Path, reason: str) -> None:
    with contextlib.suppress(OSError):  # then nobody knows
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, json.dumps({**asdict(Process.current()), "reason": reason}))
