"""The command of on_finish: started once, at the very end, whether anybody watches or not."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

from engine.contract import events
from engine.contract.i18n import _
from engine.contract.plain import say
from engine.contract.rundir import RunDir

TAIL_BYTES = 1 << 16  # of the event file, in which the last step is looked for


class OnFinish:
    """Takes a run's events and, at `close`, starts the shell command if one of them was its last word.

    The command gets a session of its own: it may take its time, and ending the run does not end it. What it
    prints goes where the run's own words go.
    """

    def __init__(self, run: RunDir, command: str) -> None:
        self._run = run
        self._command = command
        self._status = ""
        self._loss: float | None = None

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Step():
                self._loss = event.loss_smooth
            case events.Evaluated(when="after"):
                self._loss = event.loss
            case events.Finished():
                self._status = event.status
            case events.Failed():
                self._status = "failed"

    def close(self) -> None:
        if not (self._command and self._status):
            return
        if self._loss is None:  # told by another process of the run
            self._loss = last_loss(self._run.events)
        told = {
            "RWKV_TUNE_RUN": self._run.name(), "RWKV_TUNE_STATUS": self._status,
            "RWKV_TUNE_LOSS": _number(self._loss),
            "RWKV_TUNE_PROJ_DIR": str(self._run.path),
        }  # fmt: skip
        say(f"on_finish: {self._command}")
        try:
            subprocess.Popen(
                ["/bin/sh", "-c", self._command], cwd=self._run.path, env={**os.environ, **told},
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            say(_("on_finish: it could not be started ({error})", error=error))


def _number(loss: float | None) -> str:
    return f"{loss:.6g}" if loss is not None and math.isfinite(loss) else ""


def last_loss(path: Path) -> float | None:
    """The smoothed loss of the last step that an event file tells, None where its end has none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    steps = (e for line in reversed(lines) if isinstance(e := events.parse_event(line), events.Step))
    return next((e.loss_smooth for e in steps), None)
