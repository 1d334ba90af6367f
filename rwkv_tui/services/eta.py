"""How long a run still takes: the pace of its steps, and what its pauses cost."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

RECENT = 2048
MANY = 400
FEW = 8  # steps whose pace is no basis yet
BLOCK = 32  # steps whose mean pace is looked at for a change
CHANGED = 1 / 3
"""Of the usual pace: two blocks on end that differ by more, and by more than chance would, show that another
pace has begun, as when a machine's load comes or goes; what was before says nothing any more."""


class Pace:
    """Told of the steps and of what else takes time; `left` says how many seconds are to come.

    A run is steps at a pace that may drift, a pause at the end of each epoch (validation, saving), pauses in
    between (saving by the clock), and what comes after the last step. The pause of an epoch is known only
    after the first one, so until then it is guessed from the measuring before the run: `per_document`
    seconds for each of the documents held out.
    """

    def __init__(self, steps: int, epoch_steps: int, held_out: int = 0) -> None:
        self.steps, self.epoch_steps, self.held_out = steps, max(1, epoch_steps), held_out
        self.per_document = 0.0
        self.after = 0.0
        self._plain: deque[float] = deque(maxlen=RECENT)
        self._last: tuple[int, float] | None = None
        self._paused = False
        self._epoch_pauses: list[float] = []
        self._other_pauses = 0.0
        self._walked = 0
        self._noted = 0
        self._step = 0

    def start(self, step: int) -> None:
        """The run begins, or goes on, after `step`."""
        self._last, self._step, self._paused = None, step, False

    def pause(self) -> None:
        """Something other than a step happened since the last one."""
        self._paused = True

    def walk(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Steps are over; of each its `step`, the time `t` of its end and the `step_s` it took itself."""
        first = rows[0]
        if self._last is not None and first["step"] == self._last[0] + 1:
            self._took(max(0.0, first["t"] - self._last[1]), first["step_s"])
        self._paused = False
        pairs = pairwise(rows)  # between steps told in one go there was no pause
        walls = [max(0.0, b["t"] - a["t"]) for a, b in pairs if b["step"] == a["step"] + 1]
        for wall in walls:
            self._note(wall)
        self._walked += len(walls)
        self._last = rows[-1]["step"], rows[-1]["t"]
        self._step = rows[-1]["step"]

    def _took(self, wall: float, step_s: float) -> None:
        """From the last step to the end of the next, which itself took `step_s`."""
        assert self._last is not None
        self._walked += 1
        if not self._paused:
            self._note(wall)
        elif self._last[0] % self.epoch_steps:
            self._other_pauses += max(0.0, wall - step_s)
        else:
            self._epoch_pauses.append(max(0.0, wall - step_s))

    def _note(self, wall: float) -> None:
        """A step without a pause; once a block, drops those of a pace that is over."""
        self._plain.append(wall)
        self._noted += 1
        if self._noted % BLOCK or len(self._plain) < 4 * BLOCK:
            return
        known = list(islice(reversed(self._plain), 10 * BLOCK))
        newest, earlier, usual = known[:BLOCK], known[BLOCK : 2 * BLOCK], known[2 * BLOCK :]
        mean = sum(usual) / len(usual)
        spread = math.sqrt(sum((one - mean) ** 2 for one in usual) / len(usual))
        least = max(CHANGED * mean, 3 * spread / math.sqrt(BLOCK))
        drifts = [sum(block) / BLOCK - mean for block in (newest, earlier)]
        if min(drifts) > least or max(drifts) < -least:
            self._plain = deque(known[2 * BLOCK - 1 :: -1], RECENT)

    @property
    def step_seconds(self) -> float | None:
        """Mean seconds from a step to the next, of the later ones that are known; None too early."""
        if len(self._plain) < FEW:
            return None
        # the first steps compile and fill caches, and a pace may change; but a few steps alone vary too much
        count = len(self._plain)
        recent = list(self._plain)[-max(FEW, count * 4 // 5 if count < MANY else count // 2) :]
        return sum(recent) / len(recent)

    def left(self) -> float | None:
        """Seconds from the last step to the end of the run, None when there is no basis."""
        pace = self.step_seconds
        if pace is None:
            return None
        remaining = max(0, self.steps - self._step)
        epochs = self.steps // self.epoch_steps - max(0, self._step - 1) // self.epoch_steps
        known = self._epoch_pauses
        pause = sum(known[-3:]) / len(known[-3:]) if known else self.per_document * self.held_out
        others = self._other_pauses / self._walked if self._walked else 0.0
        return remaining * (pace + others) + epochs * pause + self.after
