"""Which tokens of documents are learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.data.tokenizer import Tokenizer

MARKER_TOKENS = len("Instruction:")
"""How many tokens behind a cut may still decide about those before it: the rest of a marker."""

OPENING = ("Assistant:", "Response:")
CLOSING = ("User:", "System:", "Instruction:", "Input:")
"""How turns begin whose text is an answer, and those whose text is not."""

_WORDS = tuple(word.encode() for word in OPENING + CLOSING)
_ASSISTANT, _RESPONSE, _USER, _SYSTEM, _INSTRUCTION, _INPUT = range(len(_WORDS))
_LENGTHS = np.array([len(word) for word in _WORDS])
_LINES, _CHAT, _INSTRUCTIONS = range(3)
_COUNTS = np.zeros((3, len(_WORDS)), np.bool_)  # which words separate turns, by what kind a document is
_COUNTS[_LINES, [_ASSISTANT, _USER]] = True
_COUNTS[_CHAT, [_ASSISTANT, _USER, _SYSTEM]] = True
_COUNTS[_INSTRUCTIONS, [_RESPONSE, _INSTRUCTION, _INPUT, _SYSTEM]] = True
_FIRST = _COUNTS[_LINES].copy()
_FIRST[_INSTRUCTION] = True
_ENDS = {word[-3:]: (number, word) for number, word in enumerate(_WORDS)}
_LAST = np.isin(np.arange(256), [end[1] for end in _ENDS])  # what may come before the colon of a word
_COLON, _LF, _CR = b":\n\r"

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Turns(NamedTuple):
    """From which tokens on [m], in rising order, documents end to end are learned or not."""

    places: Ints
    learned: Bools

    def between(self, begin: int, end: int) -> Bools:
        """Which of the tokens from `begin` to before `end` are learned."""
        first, last = np.searchsorted(self.places, (begin, end), "right")
        lengths = np.diff(self.places[first:last], prepend=begin, append=end)
        before = self.learned[first - 1 : first] if first else np.zeros(1, np.bool_)
        mask: Bools = np.repeat(np.concatenate([before, self.learned[first:last]]), lengths)
        return mask


def trained_mask(
    document: NDArray[Any], loss_mask: str, ids: tuple[int, int] | None = None, limit: int | None = None
) -> Bools:
    """True [t] where a token is a target to learn, of the first `limit` tokens of this document.

    `none` and `pad` learn all (padding comes later and is never learned). `qa` learns the tokens
    whose first byte lies behind an `Assistant:` and before the next `User:` or `System:`: the blank
    line before that and the closing token 0 are learned too, or the model would never stop. In
    instructions they are `Response:`, `Instruction:` and `Input:`. Works on bytes because markers and
    tokens need not begin at the same place.
    `se` learns what stands between the tokens `ids`, (start, end): not the start, but the end, for
    the same reason.
    """
    size = len(document[:limit])
    if loss_mask in ("none", "pad"):
        return np.ones(size, np.bool_)
    seen = document[: size + MARKER_TOKENS]
    turns = turns_of(seen, np.array([0, len(seen)]), loss_mask, ids, lambda _: document)
    return turns.between(0, size)


def turns_of(
    tokens: NDArray[Any], starts: Ints, loss_mask: str, ids: tuple[int, int] | None,
    whole: Callable[[int], NDArray[Any]],
) -> Turns:  # fmt: skip
    """The turns of documents that lie end to end, document i in tokens[starts[i] : starts[i + 1]].

    They may be cut; then `whole` gives all tokens of document i, where the rest may decide as well.
    """
    if loss_mask == "se" and ids:
        places, learned, document = _between(tokens, starts, *ids)
    elif loss_mask == "qa":
        places, learned, document = _answers(tokens, starts, whole)
    else:
        raise ValueError(f"loss_mask {loss_mask!r}")
    places = np.maximum(places, starts[document])  # a token without bytes may stand before it
    inside = places < starts[document + 1]
    places = np.concatenate([starts[:-1], places[inside]])  # no document begins with an answer
    learned = np.concatenate([np.zeros(len(starts) - 1, np.bool_), learned[inside]])
    order = np.argsort(places, kind="stable")
    return Turns(places[order], learned[order])


def has_answer(text: str) -> bool:
    """Whether `qa` learns anything of a document."""
    if "\n\nAssistant:" in text and "Instruction:" not in text:
        return True  # as in most, at once
    whole = text.encode("utf-8")
    return bool(_markers(whole, np.array([0, len(whole)]), lambda _: False)[1].any())


def _between(tokens: NDArray[Any], starts: Ints, start: int, end: int) -> tuple[Ints, Bools, Ints]:
    """Where tokens begin to be learned or not, whether, and of which document they are."""
    begins = np.flatnonzero(tokens == start)
    ends = np.flatnonzero((tokens == end) & (tokens != start))
    found = np.concatenate([begins, ends, begins])  # a start behind a start is none either
    document = np.searchsorted(starts, found, "right") - 1
    places = found + 1
    places[len(begins) + len(ends) :] -= 1
    return places, np.arange(len(found)) < len(begins), document


def _answers(
    tokens: NDArray[Any], starts: Ints, whole: Callable[[int], NDArray[Any]]
) -> tuple[Ints, Bools, Ints]:
    """As `_between`."""
    lengths = Tokenizer().lengths_of(tokens)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])

    def apart(document: int) -> bool:
        rest = whole(document)
        if len(rest) <= starts[document + 1] - starts[document]:
            return False
        written = Tokenizer().bytes_of(rest)
        return any(blank + _WORDS[_ASSISTANT] in written for blank in (b"\n\n", b"\n\r\n"))

    places, learned, document = _markers(Tokenizer().bytes_of(tokens), ends[starts], apart)
    return np.searchsorted(ends[:-1], places), learned, document


def _markers(written: bytes, starts: Ints, apart: Callable[[int], bool]) -> tuple[Ints, Bools, Ints]:
    """Where turns begin among the bytes of documents end to end, whether with an answer, and in which.

    Where a blank line comes before an answer, one comes before every turn, and a line within a turn may
    begin with the same words; only documents that never do so (`apart` tells whether the rest of a cut one
    does) are read line by line.
    """
    text = np.frombuffer(written, np.uint8)
    begins, word = _words(written, text)
    document = np.searchsorted(starts, begins, "right") - 1
    inside = begins + _LENGTHS[word] <= starts[document + 1]
    begins, word, document = begins[inside], word[inside], document[inside]
    from_start = begins - starts[document]
    before = [text[begins - back] for back in (1, 2, 3)]
    line = (from_start == 0) | (before[0] == _LF)
    blank = (from_start >= 2) & (before[0] == _LF) & (before[1] == _LF)
    blank |= (from_start >= 3) & (before[0] == _LF) & (before[1] == _CR) & (before[2] == _LF)
    alone = blank | (from_start == 0)

    kinds = np.full(len(starts) - 1, _LINES)
    kinds[document[blank & (word == _ASSISTANT)]] = _CHAT
    firsts = np.flatnonzero(alone & _FIRST[word])
    of, first = np.unique(document[firsts], return_index=True)
    kinds[of[word[firsts[first]] == _INSTRUCTION]] = _INSTRUCTIONS
    for some in set(document[line & (word == _ASSISTANT) & (kinds[document] == _LINES)].tolist()):
        kinds[some] = _CHAT if apart(some) else _LINES

    kind = kinds[document]
    turn = _COUNTS[kind, word] & np.where(kind == _LINES, line, alone)
    answer = (word == _ASSISTANT) | (word == _RESPONSE)
    places = begins + np.where(answer, _LENGTHS[word], 0)
    return places[turn], answer[turn], document[turn]


def _words(written: bytes, text: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Where any of `_WORDS` begins, in rising order, and which; `text` are the same bytes."""
    colons = np.flatnonzero(text == _COLON)
    found = list[tuple[int, int]]()
    for colon in colons[_LAST[text[colons - 1]]].tolist():
        number, word = _ENDS.get(written[colon - 2 : colon + 1], (0, _WORDS[0]))
        if (place := colon + 1 - len(word)) >= 0 and written.startswith(word, place):
            found.append((place, number))
    begins, words = np.array(found, np.int64).reshape(-1, 2).T
    return begins, words
