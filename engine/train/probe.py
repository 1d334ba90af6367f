"""What tuning changed: the loss and one answer, before and after."""

from __future__ import annotations

from typing import Any, Literal

from engine.chat.generate import generate
from engine.contract import events
from engine.data.tokenizer import Tokenizer
from engine.train.evaluate import measure, spread
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
        self.base_answer = ""

    def state_dict(self) -> dict[str, Any]:
        """What `before` found, for a run that goes on later."""
        return {"loss_before": self.loss_before, "base_answer": self.base_answer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss_before, self.base_answer = state["loss_before"], state["base_answer"]

    def before(self) -> None:
        """Of the base model."""
        self.loss_before = self._loss("before")
        if self.loaded.settings.sample_len:
            self.base_answer = self._answer()

    def after(self, step: int) -> None:
        """Of the tuned model; also tells the two answers. A stop ends the measuring, not the finished run."""
        try:
            self.loss_after = self._loss("after")
            if self.loaded.settings.sample_len:
                tuned = self._answer()
                self.emit(events.Sample(step=step, prompt=self._prompt(), base=self.base_answer, tuned=tuned))
        except Stopped:
            self.emit(events.Log(text="asked to stop while measuring: the trained files are complete"))

    def _loss(self, when: Literal["before", "after"]) -> float | None:
        examples = self.loaded.examples
        chosen = spread(len(examples), self.loaded.settings.eval_docs)
        if not chosen:
            return None
        self.loaded.model.eval()

        def progress(done: int, total: int) -> None:
            self.stop.check()
            self.emit(events.Progress(phase=f"loss {when} tuning", done=done, total=total, unit="documents"))

        report = measure(
            self.loaded.model, examples, chosen=chosen, device=self.loaded.device, progress=progress
        )
        self.emit(events.Evaluated(
            when=when, loss=report.loss, tokens=report.tokens, documents=report.documents
        ))  # fmt: skip
        return report.loss

    def _prompt(self) -> str:
        s = self.loaded.settings
        if s.sample_prompt:
            return s.sample_prompt
        first = Tokenizer().decode(self.loaded.data.item(0)[:PROMPT_TOKENS].tolist())
        head, mark, _ = first.partition(MARK)
        return head.removeprefix("User:").strip() if mark else first[:40]

    def _answer(self) -> str:
        """The greedy answer, up to the end of its turn."""
        tokenizer = Tokenizer()
        prompt = f"User: {self._prompt()}\n\n{MARK}"
        self.loaded.model.eval()
        ids: list[int] = []
        for token in generate(
            self.loaded.model, tokenizer.encode(prompt), length=self.loaded.settings.sample_len
        ):
            self.stop.check()
            ids.append(token)
            if tokenizer.decode_bytes(ids).endswith(b"\n\nUser:"):
                break
        return tokenizer.decode(ids).removesuffix("\n\nUser:").strip()
