"""What tuning changed: the loss and one answer, before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

from engine.chat.generate import generate
from engine.contract import events
from engine.contract.i18n import N_, _
from engine.data.tokenizer import Tokenizer
from engine.train.evaluate import measure
from engine.train.evaluate import spread as spread_evenly
from engine.train.prepare import Loaded
from engine.train.stop import Stopped, StopRequest

MARK = "Assistant:"
PROMPT_TOKENS = 1024  # of the first document, which may be a whole book


class Probe:
    """Measures the loaded model twice; `loss_before` and `loss_after` are None when not measured."""

    def __init__(self, loaded: Loaded, emit: events.Emit, stop: StopRequest) -> None:
        self.loaded = loaded
        self.emit = emit
        self.stop = stop
        self.loss_before: float | None = None
        self.loss_after: float | None = None
        self.base_answers: list[str] = []
        self.answer_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What `before` found, for a run that goes on later."""
        return {
            "loss_before": self.loss_before, "base_answers": self.base_answers,
            "answer_seconds": self.answer_seconds,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss_before = state["loss_before"]
        self.base_answers = state.get("base_answers", [])  # one text in files of the first release
        self.answer_seconds = state.get("answer_seconds", 0.0)

    def before(self) -> None:
        """Of the base model."""
        self.loss_before = self._loss("before")
        if self.loaded.settings.sample_len:
            began = time.monotonic()
            self.base_answers = [self.answer(prompt) for prompt in self.prompts]
            self.answer_seconds = (time.monotonic() - began) / len(self.prompts)

    def base(self, place: int) -> str:
        """The base model's answer to one of the prompts, "" when it was never asked."""
        return self.base_answers[place] if place < len(self.base_answers) else ""

    def after(self, step: int) -> None:
        """Of the tuned model; also tells both answers. A stop ends the measuring, not the finished run."""
        try:
            self.loss_after = self._loss("after")
            if self.loaded.settings.sample_len:
                for place, prompt in enumerate(self.prompts):
                    tuned = self.answer(prompt)
                    self.emit(events.Sample(step=step, prompt=prompt, base=self.base(place), tuned=tuned))
        except Stopped:
            self.emit(events.Log(text=_("asked to stop while measuring: the trained files are complete")))

    def _loss(self, when: Literal["before", "after"]) -> float | None:
        examples = self.loaded.examples
        chosen = spread_evenly(len(examples), self.loaded.settings.eval_docs)
        if not chosen:
            return None
        self.loaded.model.eval()

        def progress(done: int, total: int) -> None:
            self.stop.check_together()
            phase = N_("loss before tuning") if when == "before" else N_("loss after tuning")
            self.emit(events.Progress(phase=phase, done=done, total=total, unit=N_("documents")))

        with self.loaded.spread.readable(self.loaded.model.head.weight):
            report = measure(
                self.loaded.model, examples, chosen=chosen, device=self.loaded.device, progress=progress,
                group=self.loaded.group,
            )  # fmt: skip
        self.emit(events.Evaluated(
            when=when, loss=report.loss, tokens=report.tokens, documents=report.documents
        ))  # fmt: skip
        return report.loss

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """What is asked: the person's own prompts, else the first question of the data."""
        if own := self.loaded.settings.sample_prompts:
            return own
        first = Tokenizer().decode(self.loaded.data.item(0)[:PROMPT_TOKENS].tolist())
        head, mark, _ = first.partition(MARK)
        return (head.removeprefix("User:").strip() if mark else first[:40],)

    def answer(self, question: str, seconds: float = math.inf) -> str:
        """The greedy answer of the model as it is now, up to the end of its turn, or what came of it within
        `seconds`. Leaves the model in eval mode.

        The leading process makes it; where each has but a part of the model, all do, whatever it takes.
        """
        whole = self.loaded.spread.whole
        if whole and not self.loaded.group.leads:
            return ""
        with self.loaded.spread.readable(self.loaded.model.head.weight):
            check = self.stop.check if whole else self.stop.check_together
            return self._generated(question, seconds if whole else math.inf, check)

    def _generated(self, question: str, seconds: float, check: Callable[[], None]) -> str:
        tokenizer, began = Tokenizer(), time.monotonic()
        prompt = f"User: {question}\n\n{MARK}"
        self.loaded.model.eval()
        ids: list[int] = []
        for token in generate(
            self.loaded.model, tokenizer.encode(prompt), length=self.loaded.settings.sample_len
        ):
            check()
            ids.append(token)
            if tokenizer.decode_bytes(ids).endswith(b"\n\nUser:") or time.monotonic() - began >= seconds:
                break
        return tokenizer.decode(ids).removesuffix("\n\nUser:").strip()
