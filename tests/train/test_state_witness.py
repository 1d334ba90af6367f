"""What the warnings about a state are worth: real state tunings at rates that serve and that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.contract import events
from tests.conftest import PAIRS
from tests.train.test_validation import _signals, of, train  # noqa: F401  the fixture gives the signals back

pytestmark = pytest.mark.soak
STEPS = 200


@pytest.fixture(scope="module")
def base(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that speaks plainly."""
    folder = tmp_path_factory.mktemp("base") / "run"
    values: dict[str, Any] = {"train_type": "none", "lr_init": 1e-2, "lr_final": 1e-3, "epoch_steps": 30}
    told = train(folder, load_model=tiny_model, data_file=tiny_data, ctx_len=32, micro_bsz=4, **values)
    return Path(of(events.Checkpoint, told)[-1].path)


@pytest.fixture(scope="module")
def manner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same questions answered in another manner, for a state to learn."""
    path = tmp_path_factory.mktemp("manner") / "manner.jsonl"
    texts = [f"User: {question}\n\nAssistant: Wow! {answer} 🎉" for question, answer in PAIRS]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def tuned(base: Path, data: Path, folder: Path, rate: float) -> tuple[list[str], list[float]]:
    """What was said of the state at this rate, and the losses before and after."""
    told = train(
        folder, load_model=base, data_file=data, data_type="jsonl" if data.suffix else "binidx", ctx_len=32,
        lr_init=rate, lr_final=rate / 100, warmup_steps=10, epoch_steps=STEPS, eval_docs=4,
    )  # fmt: skip
    assert isinstance(told[-1], events.Finished | events.Failed)
    said = [warned.text for warned in of(events.Warned, told) if warned.about == "state"]
    return said, [one.loss for one in of(events.Evaluated, told)]


@pytest.mark.parametrize("rate", [1e-2, 1.0])
def test_rates_that_serve_are_not_warned_of(base: Path, manner: Path, tmp_path: Path, rate: float) -> None:
    said, (before, after) = tuned(base, manner, tmp_path / "run", rate)
    assert after < before - 0.5
    assert not said


def test_of_what_a_model_knows_a_rate_of_a_hundred_makes_it_forget(
    base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    said, (before, after) = tuned(base, tiny_data, tmp_path / "wild", 100.0)
    assert after > before
    assert ["runs away" in one for one in said] == [True]
    assert not tuned(base, tiny_data, tmp_path / "bold", 1.0)[0]


def test_a_state_beyond_all_gradients_is_saturated(base: Path, manner: Path, tmp_path: Path) -> None:
    said, (_before, after) = tuned(base, manner, tmp_path / "run", 1e6)
    assert any("saturated" in one for one in said)
    assert after > tuned(base, manner, tmp_path / "bold", 1.0)[1][1] + 0.5
