from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.schedule import learning_rate, steps_shown
from engine.contract.settings import TrainSettings

SCHEDULES = st.sampled_from(["cos_decay", "linear", "wsd", "constant"])
RATES = st.floats(1e-6, 1.0)


def settings(**values: object) -> TrainSettings:
    return TrainSettings.model_validate(values)


@given(SCHEDULES, RATES, RATES, st.integers(2, 500), st.integers(0, 50))
def test_after_warmup_the_rate_never_rises_and_stays_between_its_ends(
    schedule: str, one: float, other: float, steps: int, warmup: int
) -> None:
    high, low = max(one, other), min(one, other)
    s = settings(lr_schedule=schedule, lr_init=high, lr_final=low, warmup_steps=warmup)
    rates = [learning_rate(n, steps, s) for n in range(warmup, steps)]
    assert all(low * (1 - 1e-9) <= rate <= high * (1 + 1e-9) for rate in rates)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(rates))


@given(SCHEDULES, st.integers(1, 100))
def test_warmup_multiplies_any_schedule(schedule: str, warmup: int) -> None:
    plain = settings(lr_schedule=schedule, warmup_steps=0)
    warm = settings(lr_schedule=schedule, warmup_steps=warmup)
    for step in range(warmup):
        factor = learning_rate(step, 1000, warm) / learning_rate(step, 1000, plain)
        assert factor == pytest.approx(0.01 + 0.99 * step / warmup)
    assert learning_rate(warmup, 1000, warm) == learning_rate(warmup, 1000, plain)


def test_the_curves_known_points() -> None:
    cos = settings(lr_init=1.0, lr_final=0.01, warmup_steps=0)
    assert learning_rate(0, 100, cos) == 1.0
    assert learning_rate(50, 100, cos) == pytest.approx(0.505)
    assert learning_rate(99, 100, cos) == pytest.approx(0.01, abs=5e-4)
    wsd = settings(lr_init=1.0, lr_final=0.0, lr_schedule="wsd", warmup_steps=0)
    assert learning_rate(80, 100, wsd) == pytest.approx(1.0)
    assert learning_rate(90, 100, wsd) == pytest.approx(0.5)
    linear = settings(lr_init=1.0, lr_final=0.0, lr_schedule="linear", warmup_steps=0)
    assert learning_rate(25, 100, linear) == 0.75
    same = settings(lr_init=0.1, lr_final=0.1, warmup_steps=10)
    assert learning_rate(0, 100, same) == pytest.approx(0.001)
    assert learning_rate(50, 100, same) == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("schedule", "steepest", "end"),
    [("cos_decay", math.pi / 2, 0.01), ("linear", 1.0, 0.01), ("wsd", 5.0, 0.01), ("constant", 0.0, 1.0)],
)
def test_the_ends_of_each_schedule(schedule: str, steepest: float, end: float, steps: int) -> None:
    """It starts at lr_init; its last step is at most one step's change from where it would end."""
    s = settings(lr_schedule=schedule, lr_init=1.0, lr_final=0.01, warmup_steps=0)
    assert learning_rate(0, steps, s) == 1.0
    assert 0 <= learning_rate(steps - 1, steps, s) - end <= 0.99 * steepest / steps + 1e-12
    assert learning_rate(steps, steps, s) == pytest.approx(end)
    warm = settings(lr_schedule=schedule, lr_init=1.0, lr_final=0.01, warmup_steps=1)
    assert learning_rate(0, steps, warm) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", ["cos_decay", "linear", "wsd", "constant"])
def test_equal_ends_are_constant_and_still_warm_up(schedule: str) -> None:
    s = settings(lr_schedule=schedule, lr_init=0.1, lr_final=0.1, warmup_steps=4)
    rates = [learning_rate(step, 20, s) for step in range(20)]
    assert rates == pytest.approx([0.001, 0.02575, 0.0505, 0.07525] + [0.1] * 16)


def test_wsd_is_stable_until_its_last_fifth() -> None:
    s = settings(lr_schedule="wsd", lr_init=1.0, lr_final=0.2, warmup_steps=0)
    assert [learning_rate(n, 10, s) for n in (5, 8, 9)] == pytest.approx([1.0, 1.0, 0.6])


def test_a_later_first_epoch_continues_the_curve() -> None:
    assert steps_shown(settings(epoch_begin=2, epoch_count=3, epoch_steps=10)) == (20, 50)
