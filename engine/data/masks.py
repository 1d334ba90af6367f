"""Which tokens of a document are learned."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.tokenizer import Tokenizer

MARKER_TOKENS = len("Instruction:")
"""How many tokens behind a cut may still decide about those before it: the rest of a marker."""

OPENING = ("Assistant:", "Response:")
CLOSING = ("User:", "System:", "Instruction:", "Input:")
"""How turns begin whose text is an answer, and those whose text is not."""

_APART = rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))"
_FIRST = re.compile(_APART + rb"(?:(Instruction)|User|Assistant):")
_INSTRUCTIONS = re.compile(_APART + rb"(?:(Response)|Instruction|Input|System):")
_CHAT = re.compile(_APART + rb"(?:(Assistant)|User|System):")
_CHAT_LINES = re.compile(rb"^(?:(Assistant)|User):", re.MULTILINE)
_ANSWER_APART = re.compile(rb"\n\r?\nAssistant:")


def trained_mask(
    document: NDArray[Any], loss_mask: str, ids: tuple[int, int] | None = None, limit: int | None = None
) -> NDArray[np.bool_]:
    """True [t] where a token is a target to learn, of the first `limit` tokens of this document.

    `none` and `pad` learn all (padding comes later and is never learned). `qa` learns the tokens
    whose first byte lies behind an `Assistant:` and before the next `User:` or `System:`: the blank
    line before that and the closing token 0 are learned too, or the model would never stop. In
    instructions they are `Response:`, `Instruction:` and `Input:`. Works on bytes because markers and
    tokens need not begin at the same place.
    `se` learns what stands between the tokens `ids`, (start, end): not the start, but the end, for
    the same reason.
    """
    tokens = document[:limit]
    if loss_mask in ("none", "pad"):
        return np.ones(len(tokens), np.bool_)
    if loss_mask == "se" and ids:
        return _between(tokens, *ids)
    if loss_mask != "qa":
        raise ValueError(f"loss_mask {loss_mask!r}")
    seen = document[: len(tokens) + MARKER_TOKENS]
    lengths = Tokenizer().lengths_of(tokens)
    begins = np.cumsum(lengths, dtype=np.int64) - lengths
    text = Tokenizer().bytes_of(seen)
    learned = np.zeros(len(tokens), np.bool_)
    for marker in _markers(text, lambda: Tokenizer().bytes_of(document)).finditer(text):
        place = marker.end() if marker[1] else marker.start()
        learned[np.searchsorted(begins, place) :] = bool(marker[1])
    return learned


def has_answer(text: str) -> bool:
    """Whether `qa` learns anything of a document."""
    whole = text.encode("utf-8")
    return any(marker[1] for marker in _markers(whole, lambda: whole).finditer(whole))


def _markers(text: bytes, whole: Callable[[], bytes]) -> re.Pattern[bytes]:
    """What separates the turns of a document that begins with `text`.

    Where a blank line comes before an answer, one comes before every turn, and a line within a turn may
    begin with the same words; only documents that never do so are read line by line.
    """
    first = _FIRST.search(text)
    if first and first[1]:
        return _INSTRUCTIONS
    if _ANSWER_APART.search(text) or _ANSWER_APART.search(whole()):
        return _CHAT
    return _CHAT_LINES


def _between(tokens: NDArray[Any], start: int, end: int) -> NDArray[np.bool_]:
    """True where the last marker before the token is a start."""
    begins = tokens == start
    marks = np.where(begins | (tokens == end), np.arange(len(tokens)), -1)
    last = np.concatenate([[-1], np.maximum.accumulate(marks)])[: len(tokens)]
    learned: NDArray[np.bool_] = np.append(begins, False)[last] & ~begins
    return learned
