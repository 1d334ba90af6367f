"""Which documents a conversion writes: held out by their content, mixed by weight, each repeat anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.data.documents import held_out_count
from engine.data.scratch import Keyed, Rows, Scratch, in_order, shuffled


@dataclass(frozen=True)
class Part:
    """What one source gave: documents `first` to before `last` of the scratch; `tokens` to train on."""

    first: int
    last: int
    tokens: int


class Mix:
    """The documents of all parts. `weights`, when given, are one for each part."""

    def __init__(self, scratch: Scratch, parts: Sequence[Part], weights: Sequence[float], seed: int) -> None:
        self.scratch, self.parts, self.weights, self.seed = scratch, tuple(parts), tuple(weights), seed
        self._limit: np.uint64 | None = None

    def hold_out(self, held_out: float, tell: Callable[[str, int, int], None]) -> None:
        """Sets documents aside, as many and by the same rule as `documents.split` with this seed.

        Raises UserError when a part would have nothing left.
        """
        self.scratch.hash(self.seed.to_bytes(16, "little"), lambda *done: tell(N_("holding out"), *done))
        distinct = sum(int(_firsts(keys).sum()) for keys, _, _ in self._by_hash())
        wanted = held_out_count(held_out, distinct, "--held-out")
        for keys, _begins, _sizes in self._by_hash():
            found = keys[_firsts(keys)]
            if wanted <= len(found):
                self._limit = found[wanted - 1]
                break
            wanted -= len(found)
        left = [sum(int(sizes.sum()) for _, sizes in self._rows(part)) for part in self.parts]
        if not all(left):
            raise UserError(
                _(
                    "--held-out: {held_out:g} leaves nothing of source {index} to train on.",
                    held_out=held_out,
                    index=left.index(0) + 1,
                ),
                _("Lower it, or give more data."),
            )
        self.parts = tuple(Part(p.first, p.last, n) for p, n in zip(self.parts, left, strict=True))

    def held_out(self) -> Iterator[Rows]:
        """One copy of each document held out, in an order that their content decides."""
        assert self._limit is not None
        for keys, begins, sizes in self._by_hash():
            chosen = _firsts(keys) & (keys <= self._limit)
            yield begins[chosen], sizes[chosen]
            if len(keys) and keys[-1] > self._limit:
                return

    def tokens(self, repeats: int) -> int:
        """About how many tokens all repeats have; exactly so without weights."""
        return sum(round(repeats * self._share(index)) for index in range(len(self.parts)))

    def repeat(self, number: int) -> Iterator[Rows]:
        """The documents of repeat `number`, from 0, shuffled together.

        Without weights all of them. With weights all of the first part, and of each other one the
        share of tokens that its weight gives beside that: documents drawn from an endless sequence
        of shuffled passes over the part, each repeat going on where the last one ended.
        """

        def chosen() -> Iterator[Rows]:
            for index, part in enumerate(self.parts):
                share = self._share(index)
                begin, end = round(number * share), round((number + 1) * share)
                yield from self._portion(part, begin, end, (self.seed, index + 1))

        return shuffled(chosen, self._count(), self.seed, number)

    def _share(self, index: int) -> float:
        """Tokens of a part in each repeat."""
        if not self.weights:
            return self.parts[index].tokens
        return self.parts[0].tokens * self.weights[index] / self.weights[0]

    def _count(self) -> int:
        """About how many documents a repeat has."""
        parts = enumerate(self.parts)
        return sum(round((p.last - p.first) * self._share(i) / p.tokens) + 1 for i, p in parts)

    def _portion(self, part: Part, begin: int, end: int, seed: tuple[int, int]) -> Iterator[Rows]:
        """The documents that begin between two tokens of the endless sequence of passes over a part."""
        for number in range(begin // part.tokens, -(-end // part.tokens)):
            position = number * part.tokens
            if begin <= position and position + part.tokens <= end:
                yield from self._rows(part)  # all of the pass: its order does not matter here
                continue
            count = part.last - part.first
            for begins, sizes in shuffled(lambda: self._rows(part), count, *seed, number):
                starts = position + np.cumsum(sizes) - sizes
                position += int(sizes.sum())
                here = (begin <= starts) & (starts < end)
                yield begins[here], sizes[here]

    def _rows(self, part: Part) -> Iterator[Rows]:
        """The documents of a part that are not held out."""
        if self._limit is None:
            yield from self.scratch.rows(part.first, part.last)
            return
        for keys, begins, sizes in self.scratch.hashed(part.first, part.last):
            kept = keys > self._limit
            yield begins[kept], sizes[kept]

    def _by_hash(self) -> Iterator[Keyed]:
        return in_order(self.scratch.hashed, self.scratch.documents)


def _firsts(keys: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where sorted keys differ from the one before. Equal keys never lie in two blocks."""
    return np.concatenate([np.ones(min(1, len(keys)), np.bool_), keys[1:] != keys[:-1]])
