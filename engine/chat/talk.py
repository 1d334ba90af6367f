"""Conversations with a model, in RWKV's prompt format. What was said is a state, so that it may be long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

from engine.chat.generate import generate, read
from engine.contract.events import Answered, Emit, Piece, Who
from engine.contract.talk import Ask
from engine.data.rows.template import clean
from engine.data.tokenizer import StreamDecoder, Tokenizer
from engine.models.base import RWKV, Carry

STOP = "\n\nUser:"
"""Where a model goes on with the person's part."""

Start = Sequence[nn.Parameter | None]
"""The state of each layer at the start of a sequence; None is zeros."""


class Halted(Exception):
    """The person does not want to hear more."""


class Talk:
    """One conversation; several may share a model and differ in where it starts."""

    def __init__(self, model: RWKV, start: Start) -> None:
        self._model = model
        self._start = start
        self.forget()

    def forget(self) -> None:
        """Begins anew."""
        self._carry: Carry | None = None
        self._last = ""  # the last turn, which the carry has not seen yet, so that it can be taken back
        self._asked = ""

    def answer(self, ask: Ask, halt: Callable[[], bool]) -> Iterator[int | str]:
        """The answer in pieces of text, each behind the tokens (one at a time) that it is made of.

        Raises Halted, between two tokens, once `halt` says so; what was said until then counts.
        """

        def check() -> None:
            if halt():
                raise Halted

        for mixer, state in zip(self._model.time_mixers(), self._start, strict=True):
            mixer.time_state = state
        if ask.form == "text":
            yield from self._pieces(ask.text, None, ask, check)
            return
        if self._last and not (ask.again and ask.text == self._asked):
            self._carry = read(self._model, Tokenizer().encode(self._last), self._carry, check)
        prompt, said = f"User: {clean(ask.text)}\n\nAssistant:", ""
        self._last, self._asked = "", ask.text
        try:
            for piece in until(self._pieces(prompt, self._carry, ask, check)):
                said += piece if isinstance(piece, str) else ""
                yield piece
        finally:
            self._last = f"{prompt} {clean(said)}\n\n" if said.strip() else ""

    def _pieces(
        self, prompt: str, carry: Carry | None, ask: Ask, check: Callable[[], None]
    ) -> Iterator[int | str]:
        ids, decoder = Tokenizer().encode(prompt), StreamDecoder()
        carry = read(self._model, ids[:-1], carry, check)
        how = ask.sampling.model_dump()
        for token in generate(self._model, ids[-1:], carry=carry, **how):
            yield token
            yield decoder.feed(token)
            check()
        yield decoder.finish()


def until(pieces: Iterable[int | str]) -> Iterator[int | str]:
    """The pieces of text up to STOP, holding back what may be its beginning; tokens go through."""
    held = ""
    for piece in pieces:
        if isinstance(piece, int):
            yield piece
            continue
        text, found, _rest = (held + piece).partition(STOP)
        if found:
            yield text
            return
        begun = next((n for n in range(len(STOP) - 1, 0, -1) if text.endswith(STOP[:n])), 0)
        held = text[len(text) - begun :]
        yield text[: len(text) - begun]
    yield held


def tell(talk: Talk, who: Who, ask: Ask, halt: Callable[[], bool], emit: Emit) -> None:
    """Answers by events: pieces of text, and at the end how it ended."""
    began, tokens, halted = time.monotonic(), 0, False
    try:
        for piece in talk.answer(ask, halt):
            if isinstance(piece, int):
                tokens += 1
            elif piece:
                emit(Piece(who=who, text=piece))
    except Halted:
        halted = True
    full = tokens == ask.sampling.length
    emit(Answered(
        who=who, tokens=tokens, seconds=time.monotonic() - began,
        end="halted" if halted else "length" if full else "turn",
    ))  # fmt: skip
