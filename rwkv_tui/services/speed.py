"""How fast this machine was in the last run that is like the one being planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from engine.contract.events import Event, Plan, Started, Step, parse_event
from engine.contract.files import opened
from engine.contract.rundir import RunDir, RunList

RUNS_TRIED = 30
HEAD_BYTES = 1 << 18
TAIL_BYTES = 1 << 16
FEW = 4  # steps that are no basis yet


@dataclass(frozen=True)
class Speed:
    """`step_s` seconds took a step of `tokens` (micro_bsz times ctx_len) in the run `name`."""

    step_s: float
    tokens: int
    name: str


class Kind(NamedTuple):
    """What runs must share to be comparable."""

    version: str
    n_layer: int
    n_embd: int
    method: str


def last_speed(runs: Path, kind: Kind) -> Speed | None:
    """That of the newest run of the same kind of model and method; None when there is none."""
    for name, run in RunList(runs).all()[:RUNS_TRIED]:
        plan, took = _read(run)
        if plan and len(took) > FEW and kind == (plan.version, plan.n_layer, plan.n_embd, plan.method):
            return Speed(median(took), plan.micro_bsz * plan.ctx_len, name)
    return None


def _read(run: RunDir) -> tuple[Plan | None, list[float]]:
    """The plan, and what the last steps took; of a long file only its two ends are read."""
    try:
        with opened(run.events) as file:
            head = file.read(HEAD_BYTES)
            end = file.seek(0, 2)
            file.seek(max(0, end - TAIL_BYTES))
            tail = file.read(TAIL_BYTES)
    except OSError:
        return None, []
    plan = next((e.plan for e in _events(head) if isinstance(e, Started)), None)
    return plan, [e.step_s for e in _events(tail) if isinstance(e, Step)]


def _events(data: bytes) -> list[Event]:
    return [event for line in data.splitlines() if (event := parse_event(line)) is not None]
