"""Documents of token ids, wherever they come from: what batches are cut from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.data.scratch import content_hasher

_TELL = 1 << 14


class Documents(Protocol):
    """Token sequences by number; `sizes` [n] are their lengths and `tokens` is the sum of them.

    They lie in one array, `stream`, each from its place in `places` on.
    """

    @property
    def sizes(self) -> NDArray[Any]: ...

    @property
    def tokens(self) -> int: ...

    def __len__(self) -> int: ...

    @property
    def stream(self) -> NDArray[Any]: ...

    def places(self, indices: NDArray[Any]) -> NDArray[np.int64]: ...

    def item(self, index: int) -> NDArray[Any]: ...


class Stored(Documents, Protocol):
    """Documents that are all there is in `stream`."""

    @property
    def source(self) -> Path: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def item_at(self, position: int) -> int: ...


class TokenArray:
    """Documents in an array, which may be a memory map: document i is stream[starts[i] : starts[i + 1]]."""

    def __init__(self, source: Path, stream: NDArray[Any], starts: NDArray[np.int64]) -> None:
        self.source, self._starts = source, starts
        self.stream = np.asarray(stream)  # a plain view: cutting np.memmap objects takes five times as long
        self.dtype = stream.dtype
        self.sizes: NDArray[np.int64] = np.diff(starts)
        self.tokens = len(stream)

    def __len__(self) -> int:
        return len(self.sizes)

    def item(self, index: int) -> NDArray[Any]:
        """The tokens of one document, a view [size]; IndexError outside 0..len-1."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.stream[self._starts[index] : self._starts[index + 1]]

    def places(self, indices: NDArray[Any]) -> NDArray[np.int64]:
        """Where these documents begin in the stream."""
        places: NDArray[np.int64] = self._starts[indices]
        return places

    def item_at(self, position: int) -> int:
        """The document that the token at `position` of the stream belongs to."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1


class Subset:
    """Some of the documents, numbered anew from 0."""

    def __init__(self, data: Documents, chosen: NDArray[np.int64]) -> None:
        self._data, self._chosen = data, chosen
        self.sizes: NDArray[Any] = data.sizes[chosen]
        self.stream = data.stream
        self.tokens = int(self.sizes.sum(dtype=np.int64))

    def __len__(self) -> int:
        return len(self._chosen)

    def item(self, index: int) -> NDArray[Any]:
        """The tokens of one document, a view [size]; IndexError outside 0..len-1."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._data.item(int(self._chosen[index]))

    def places(self, indices: NDArray[Any]) -> NDArray[np.int64]:
        """Where these documents begin in the stream."""
        return self._data.places(self._chosen[indices])


def split(
    data: Documents, held_out: float, seed: int, progress: Callable[[int, int], None] | None = None
) -> tuple[Subset, Subset]:
    """(documents to train on, documents held out), disjoint in content.

    `held_out` is a share of the distinct documents below 1, else their number, at least one either way.
    Which ones, the content and the seed decide: copies of a document all fall on one side, and of
    those held out one copy is kept, since measuring it twice tells nothing. `progress` is told
    (documents done, in all) now and then and may raise.
    Raises UserError when nothing would be left to train on.
    """
    key = seed.to_bytes(16, "little", signed=False)
    hashes = np.empty(len(data), np.uint64)
    for i in range(len(data)):
        digest = content_hasher(key)
        digest.update(data.item(i).tobytes())
        hashes[i] = int.from_bytes(digest.digest(), "little")
        if progress and i % _TELL == 0:
            progress(i, len(data))
    distinct, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    wanted = held_out_count(held_out, len(distinct), "val_split")
    return Subset(data, np.flatnonzero(group >= wanted)), Subset(data, np.sort(first[:wanted]))


def held_out_count(held_out: float, distinct: int, name: str) -> int:
    """How many of the distinct documents a share below 1, or a number, holds out: those with the least
    hashes. Raises UserError, calling the parameter by its name, when nothing would be left."""
    wanted = max(1, round(held_out * distinct)) if held_out < 1 else int(held_out)
    if wanted >= distinct:
        raise UserError(
            _(
                "{name}: {held_out:g} holds out {wanted} of {distinct} distinct documents and leaves "
                "none to train on.",
                name=name,
                held_out=held_out,
                wanted=wanted,
                distinct=distinct,
            ),
            _("Lower it, or give more data; 0 holds out nothing."),
        )
    return wanted
