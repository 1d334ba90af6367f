"""What is said of a run that goes wrong, step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from engine.contract import events
from engine.contract.errors import NoNumbers, UserError
from engine.train.health import BAD_STEPS, STOP_AFTER, WARN_AFTER, Health


class Follower:
    """A health and what it has told, given a step at a time."""

    def __init__(self, **options: Any) -> None:
        self.told: list[events.Event] = []
        self.health = Health(self.told.append, **options)
        self.step = 0

    def steps(self, count: int, loss: float = 2.0, norm: float | None = 1.0) -> None:
        for _ in range(count):
            self.step += 1
            self.health.note(self.step, loss, 0.5, norm)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run_after_a_few_steps(loss: float) -> None:
    run = Follower()
    run.steps(10)
    run.steps(BAD_STEPS - 1, loss)
    run.steps(1)  # one good step and it counts anew
    run.steps(BAD_STEPS - 1, loss)
    with pytest.raises(
        UserError, match=rf"is {loss} since step {run.step + 2 - BAD_STEPS} .*rate 0.5"
    ) as error:
        run.steps(1, loss)
    assert "Lower lr_init" in error.value.remedy and not run.told
    assert run.health.smooth.value == pytest.approx(2.0)


def test_a_model_that_gives_no_numbers_is_not_told_to_learn_more_slowly() -> None:
    run = Follower()
    with pytest.raises(NoNumbers, match="is nan from the first step on, before anything") as error:
        run.steps(BAD_STEPS, math.nan)
    assert "fp32" in error.value.remedy and "lr_init" not in error.value.remedy


def test_gradients_that_explode_are_told_once_and_end_the_run_when_they_stay() -> None:
    run = Follower()
    run.steps(40)
    run.steps(WARN_AFTER - 1, 2.0, 500.0)
    assert not run.told  # clipped, and soon over
    run.steps(1, 2.0, 500.0)
    (warned,) = run.told
    assert isinstance(warned, events.Warned) and "step 43" in warned.text and "norm 500" in warned.text
    with pytest.raises(UserError, match=r"run away since step 41: .*norm 500 .*rate 0\.5"):
        run.steps(STOP_AFTER, 2.0, 500.0)
    assert run.step == 40 + STOP_AFTER and len(run.told) == 1


def test_what_recovers_goes_on_and_says_so() -> None:
    run = Follower()
    run.steps(40)
    run.steps(STOP_AFTER - 1, 9.0)
    run.steps(1)
    assert [type(e) for e in run.told] == [events.Warned, events.Log]
    run.steps(STOP_AFTER)
    assert len(run.told) == 2


def test_a_run_that_learns_is_left_alone() -> None:
    """A loss that falls from that of random weights, norms that fall and jitter by a factor of ten."""
    run = Follower()
    for step in range(500):
        run.steps(1, 2 + 9 * math.exp(-step / 50) + 2 * (step % 7 == 0), 10 ** (math.sin(step) - step / 300))
    run.steps(50, 4.0, None)
    assert not run.told


@pytest.mark.parametrize(("norms", "told"), [([0.0] * 30, 1), ([0.0] * 9 + [1.0] + [0.0] * 30, 0)])
def test_a_run_that_learns_nothing_from_the_start_is_told_so_once(norms: list[float], told: int) -> None:
    run = Follower()
    for norm in norms:
        run.steps(1, norm=norm)
    warned = [event.text for event in run.told if isinstance(event, events.Warned)]
    assert len(run.told) == len(warned) == told
    assert all("Nothing is learned" in text for text in warned)


def test_it_goes_on_after_a_pause_as_if_there_were_none() -> None:
    whole, first = Follower(), Follower()
    for run in (whole, first):
        run.steps(30)
        run.steps(WARN_AFTER + 1, 2.0, 500.0)
    second = Follower()
    second.step = first.step
    second.health.load_state_dict(first.health.state_dict())
    for run in (whole, second):
        with pytest.raises(UserError):
            run.steps(STOP_AFTER, 2.0, 500.0)
    assert second.step == whole.step and not second.told
