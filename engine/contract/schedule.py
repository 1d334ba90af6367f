"""The learning rate of a step: what the engine applies and what the form draws."""

from __future__ import annotations

import math

from engine.contract.settings import TrainSettings

STABLE_SHARE = 0.8  # of a wsd run; the last fifth falls


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """The rate applied in `step` of `steps`, 0 <= step < steps.

    `steps` is the whole run, so the curve would reach lr_final one step after the last one and
    the last step is within one step's change of it. Warmup multiplies whatever the schedule says
    by 0.01 + 0.99 * step / warmup_steps; it also applies when lr_init equals lr_final.
    """
    rate = _scheduled(step / max(steps, 1), settings)
    if step < settings.warmup_steps:
        rate *= 0.01 + 0.99 * step / settings.warmup_steps
    return rate


def _scheduled(done: float, s: TrainSettings) -> float:
    """The rate without warmup; `done` is the share of the run that is over, 0 to 1."""
    start, end = s.lr_init, s.lr_final
    if s.lr_schedule == "cos_decay":
        return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
    if s.lr_schedule == "linear":
        return start + (end - start) * done
    if s.lr_schedule == "wsd":
        return start + (end - start) * max(0.0, (done - STABLE_SHARE) / (1 - STABLE_SHARE))
    return start


def steps_shown(settings: TrainSettings) -> tuple[int, int]:
    """(first step, steps of the whole curve) of a run: epoch_begin continues an earlier run's curve."""
    first = settings.epoch_begin * settings.epoch_steps
    return first, first + settings.total_steps
