"""Inputs for readers: valid files with a few things changed, and noise. The same seed, the same inputs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

NUMBERS = [(1 << 60).to_bytes(8, "little")]
for size in (1, 2, 4, 8):
    limits = 0, 1, (1 << 8 * size - 1) - 1, (1 << 8 * size) - 1
    NUMBERS += [n.to_bytes(size, "little") for n in limits]
LONGEST = 1 << 14  # bytes of an input
TOKEN = re.compile(rb'"[^"]*"|[\w.+-]+|[^\w\s]')  # of a text


def mutants(valid: Sequence[bytes], words: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` inputs made of `valid` ones; `words` are pieces that mean something in their format."""
    draw = random.Random(seed)
    for number in range(count):
        if number % 16 == 0:
            yield draw.randbytes(draw.randrange(200))
            continue
        data = bytearray(draw.choice(valid))
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            _change(data, valid, words, draw)
        yield bytes(data[:LONGEST])


def _change(data: bytearray, valid: Sequence[bytes], words: Sequence[bytes], draw: random.Random) -> None:
    """One change at one place."""
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice((1, 1, 2, 4, 8, 40)))
    kind = draw.randrange(12)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        del data[at:end]
    elif kind == 2:
        data[at:at] = data[at:end] * draw.choice((1, 2, 100))
    elif kind == 3:
        data[at:end] = draw.randbytes(end - at)
    elif kind == 4 and at < len(data):
        data[at] ^= 1 << draw.randrange(8)
    elif kind == 5:
        number = draw.choice(NUMBERS)
        data[at : at + len(number)] = number
    elif kind == 6:
        other = draw.choice(valid)
        begin = draw.randrange(len(other) + 1)
        data[at:end] = other[begin : begin + draw.randrange(1, 60)]
    elif kind in (7, 8):
        data[at : end if kind == 7 else at] = draw.choice(words)
    elif found := TOKEN.search(data, at):  # a whole token of a text for another, or for a word
        data[found.start() : found.end()] = draw.choice((*words, *TOKEN.findall(draw.choice(valid))))
