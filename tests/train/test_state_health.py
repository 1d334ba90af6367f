"""What is told of the state while it is tuned, and the warnings when it goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.contract import events
from engine.train.state_health import RECORDS, WINDOW, Record, Watch
from tests.train.test_validation import _signals, of, train  # noqa: F401  the fixture gives the signals back


def warnings(records: list[Record], before: float | None = 2.0) -> list[str]:
    watch = Watch(2, lr_init=1.0, before=before)
    return [said for record in records if (said := watch.add(record)) is not None]


def told(count: int, norms: object, loss: object, rate: float = 1.0) -> list[Record]:
    """Records whose norms and loss are functions of their number."""
    return [Record(10 * n, norms(n), loss(n), rate) for n in range(count)]  # type: ignore[operator]


def test_a_state_that_grows_while_the_loss_falls_is_well() -> None:
    assert not warnings(told(60, lambda n: (1.0, 1.3**n, 2.0, 1.0), lambda n: 2 - n / 50))


def test_a_state_that_is_long_worse_than_none_is_named_once() -> None:
    records = told(60, lambda n: (1.0, 2.0, 1.0, 1.2**n), lambda n: 2 + n / 40)
    said = warnings(records)
    assert len(said) == 1
    assert "runs away" in said[0]
    assert "head 1 of layer 1" in said[0]
    assert "lr_init" in said[0]
    assert not warnings(records[:17])  # 2.4 is 1.2 times as much
    assert not warnings(records, before=None)


def test_a_bad_stretch_is_no_running_away() -> None:
    assert not warnings(told(60, lambda n: (1.0, 1.5**n), lambda n: 3.0 if n % (WINDOW + 1) else 2.3))
    assert not warnings(told(60, lambda n: (1.0, 1.5**n), lambda n: 0.1), before=0.05)


def test_a_state_that_rests_although_the_rate_is_high_is_saturated() -> None:
    still = told(40, lambda n: (50.0 + n * 1e-4, 60.0), lambda n: 2.0)
    said = warnings(still)
    assert len(said) == 1
    assert "saturated" in said[0]
    assert not warnings(told(40, lambda n: (50.0, 60.0), lambda n: 2.0, rate=0.2))  # as it should at the end
    assert not warnings(told(40, lambda n: (0.0, 0.0), lambda n: 2.0))


def test_a_run_tells_the_norms_of_its_state(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    values = {"load_model": tiny_model, "data_file": tiny_data, "epoch_steps": 3, "epoch_count": 2}
    run = train(tmp_path, **values)
    states = of(events.StateHealth, run)
    assert [s.step for s in states] == [1, 2, 3, 4, 5, 6]
    saved = torch.load(of(events.Checkpoint, run)[-1].path)
    norms = [n for _, state in sorted(saved.items()) for n in state.flatten(1).norm(dim=1).tolist()]
    assert states[-1].norms == pytest.approx(norms, rel=1e-3)
    assert len(norms) == states[-1].heads * 2
    assert states[-1].norms != states[0].norms
    assert RECORDS >= 100


def test_other_methods_have_none(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    values = {"load_model": tiny_model, "data_file": tiny_data, "train_type": "none", "lr_init": 1e-4}
    assert not of(events.StateHealth, train(tmp_path, **values, lr_final=1e-5))
