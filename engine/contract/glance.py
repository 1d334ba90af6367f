"""A run's events in passing: what a list shows of it.

Without the models of `events`, which take longer to load than a list takes to read; a line counts for what
it is there. tests/contract/test_glance.py holds both readers to each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.contract.files import opened

HEAD_BYTES = 1 << 18
TAIL_BYTES = 1 << 16
STEP_MARK = b'"type":"step"'
Ending = Literal["", "finished", "stopped", "failed"]


@dataclass
class Glance:
    """`ending` is the run's last word so far, "" while it goes on, and `reason` why it failed; `steps` are
    those of its plan, 0 while unknown; `first_t` and `last_t` are seconds since the epoch."""

    began: bool = False
    ending: Ending = ""
    reason: str = ""
    method: str = ""
    version: str = ""
    device: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    first_t: float | None = None
    last_t: float | None = None

    def take(self, line: bytes) -> None:
        """Takes in one line; one that is no event is none here."""
        try:
            told: Any = json.loads(line)
            t, kind = _real(told["t"]), told["type"]
            if not 0 <= t <= 1e11:
                return
            if kind == "step":
                self.step, self.loss = _whole(told["step"]), _maybe(told["loss_smooth"])
            elif kind == "started":
                plan = told["plan"]
                steps = _whole(plan["epoch_count"]) * _whole(plan["epoch_steps"])
                self.method, self.version, self.steps = str(plan["method"]), str(plan["version"]), steps
                self.device = str(plan["device"])
                self.began, self.ending = True, ""
            elif kind == "resumed":
                step = _whole(told["step"])
                self.loss = self.loss if self.step <= step else None
                self.step, self.ending = step, ""
            elif kind == "finished":
                step = _whole(told["step"])
                self.ending, self.step = _END[told["status"]], max(self.step, step)
            elif kind == "failed":
                self.reason = str(told["reason"])
                self.ending = "failed"
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return
        self.first_t = t if self.first_t is None else self.first_t
        self.last_t = t


_END: dict[str, Ending] = {"finished": "finished", "stopped": "stopped"}


def _whole(value: object) -> int:
    if type(value) is not int or abs(value) > 1 << 53:
        raise ValueError(value)
    return value


def _real(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError(value)
    return float(value)  # type: ignore[arg-type]


def _maybe(value: object) -> float | None:
    real = None if value is None else _real(value)
    return real if real is not None and math.isfinite(real) else None


def glance(path: Path) -> Glance:
    """An event file from its beginning up to the plan, and from its last part; nothing between is read."""
    found = Glance()
    for line in _ends(path, found):
        found.take(line)
    return found


def _ends(path: Path, found: Glance) -> Iterable[bytes]:
    try:
        with opened(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(HEAD_BYTES)
            place = 0
            while not found.began and (end := head.find(b"\n", place)) >= 0:
                yield head[place:end]
                place = end + 1
            start = max(place, size - TAIL_BYTES)
            file.seek(start)
            tail = file.read(size - start).split(b"\n")
    except OSError:
        return
    yield from tail[start > place : -1]  # the first may be the rest of a line, the last a line being written
