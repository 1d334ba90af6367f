"""Answers after each save: whose, when, and what they cost."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.contract import events
from engine.contract.settings import TrainSettings
from engine.train import samples
from engine.train.samples import Samples
from tests.train.test_validation import _signals, of, train  # noqa: F401  the fixture gives the signals back

PROMPTS = "What colour is the sky? || 你好吗？"


def test_each_prompt_is_answered_after_each_save(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    values = {
        "load_model": tiny_model, "data_file": tiny_data, "epoch_steps": 2, "epoch_count": 3,
        "sample_prompt": PROMPTS, "sample_len": 3, "sample_share": 1.0,
    }  # fmt: skip
    told = of(events.Sample, train(tmp_path / "run", **values))
    questions = ["What colour is the sky?", "你好吗？"]
    assert [(s.step, s.prompt) for s in told] == [(n, q) for n in (2, 4, 6) for q in questions]
    assert len({(s.prompt, s.base) for s in told}) == 2  # one answer of the base model to each
    assert told[-1].tuned != told[-1].base
    again = train(tmp_path / "none", **{**values, "sample_share": 0.0})
    assert [s.step for s in of(events.Sample, again)] == [6, 6]
    losses = [[s.loss for s in of(events.Step, run)] for run in (again, train(tmp_path / "x", **values))]
    assert losses[0] == losses[1]  # answering changes nothing of the training


class Clock:
    """Time that passes only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(samples, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(time, "monotonic", time.monotonic)


def budgeted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, *, answer_s: float, step_s: float, prompts: int = 3
) -> tuple[list[Any], float, float]:
    """A training of 2,000 steps that saves every 50: what was told, seconds of answers, seconds of steps."""
    settings = TrainSettings(epoch_steps=2000, epoch_count=1, sample_share=0.02)
    told: list[Any] = []

    def answer(question: str, seconds: float) -> str:
        clock.now += min(answer_s, seconds)
        return "so"

    probe: Any = SimpleNamespace(
        loaded=SimpleNamespace(settings=settings), answer_seconds=answer_s, answer=answer,
        prompts=tuple(f"q{n}" for n in range(prompts)), base=lambda place: "base",
    )  # fmt: skip
    saver: Any = SimpleNamespace(saved_step=0)
    stop: Any = SimpleNamespace(requested=False)
    callback = Samples(probe, saver, told.append, stop)
    monkeypatch.setattr(samples, "TuneModule", SimpleNamespace)
    module: Any = SimpleNamespace(settings=settings, model=SimpleNamespace(train=lambda: None))
    callback.on_train_start(None, module)  # type: ignore[arg-type]
    trained = 0.0
    for step in range(1, 2001):
        clock.now += step_s
        trained += step_s
        if step % 50 == 0:
            saver.saved_step = step
        callback.on_train_batch_end(None, module, None, None, 0)  # type: ignore[arg-type]
    return told, callback.spent, trained


def test_quick_answers_come_after_every_save(monkeypatch: pytest.MonkeyPatch) -> None:
    told, spent, trained = budgeted(Clock(monkeypatch), monkeypatch, answer_s=0.01, step_s=0.5)
    assert len(of(events.Sample, told)) == 39 * 3  # all but at the end, when the probe answers
    assert spent <= 0.02 * trained
    assert not of(events.Log, told)


def test_slow_answers_take_their_share_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    told, spent, trained = budgeted(Clock(monkeypatch), monkeypatch, answer_s=2.0, step_s=0.1)
    answers = of(events.Sample, told)
    assert 0.5 * 0.02 * trained <= spent <= 0.02 * trained + 1e-6
    assert {a.prompt for a in answers} == {"q0", "q1", "q2"}  # what was left out comes first the next time
    assert len(of(events.Log, told)) == 1
    assert "sample_share" in of(events.Log, told)[0].text


def test_an_answer_that_never_fits_is_never_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    told, spent, _ = budgeted(Clock(monkeypatch), monkeypatch, answer_s=60.0, step_s=0.1)
    assert spent == 0
    assert len(told) == 1
