"""Which tokens of a document are learned."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.tokenizer import Tokenizer

MARKER_TOKENS = len("User:")
"""How many tokens behind a cut may still decide about those before it: the rest of a marker."""

_QUESTION_OR_ANSWER = re.compile(rb"^(?:(Assistant)|User):", re.MULTILINE)


def trained_mask(
    tokens: NDArray[Any], loss_mask: str, ids: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """True [t] where a token of this document is a target to learn.

    `none` and `pad` learn all (padding comes later and is never learned). `qa` learns the tokens
    whose first byte lies behind an `Assistant:` and before the next `User:`, both at the start of
    a line: the blank line before `User:` and the closing token 0 are learned too, or the model
    would never stop. Works on bytes because markers and tokens need not begin at the same place.
    `se` learns what stands between the tokens `ids`, (start, end): not the start, but the end, for
    the same reason.
    """
    if loss_mask in ("none", "pad"):
        return np.ones(len(tokens), np.bool_)
    if loss_mask == "se" and ids:
        return _between(tokens, *ids)
    if loss_mask != "qa":
        raise ValueError(f"loss_mask {loss_mask!r}")
    pieces = list(map(Tokenizer().token_bytes, tokens.tolist()))
    ends = np.cumsum(list(map(len, pieces)), dtype=np.int64)
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(tokens)]
    learned = np.zeros(len(tokens), np.bool_)
    for marker in _QUESTION_OR_ANSWER.finditer(b"".join(pieces)):
        if marker[1]:
            learned |= begins >= marker.end()
        else:
            learned &= begins < marker.start()
    return learned


def _between(tokens: NDArray[Any], start: int, end: int) -> NDArray[np.bool_]:
    """True where the last marker before the token is a start."""
    begins = tokens == start
    marks = np.where(begins | (tokens == end), np.arange(len(tokens)), -1)
    last = np.concatenate([[-1], np.maximum.accumulate(marks)])[: len(tokens)]
    learned: NDArray[np.bool_] = np.append(begins, False)[last] & ~begins
    return learned
