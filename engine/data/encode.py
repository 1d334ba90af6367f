"""Documents to ids, some at a time, in the order they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.contract.reports import BadLine
from engine.data.rows import Document
from engine.data.tokenizer import END_OF_DOCUMENT, Tokenizer

_BATCH = 256  # documents in one call of the tokenizer, which holds back signals for as long
_PIECE = 1 << 18  # bytes likewise; longer documents are tokenised in pieces of as many characters


class Encoded(NamedTuple):
    """Ids end to end, the sizes of the documents that end among them (each by token 0), bad rows met on
    the way, and the bytes of the source that all this was made of, up to here. Of what a worker did the
    ids are in its lane of the scratch already."""

    read: int
    ids: NDArray[np.uint16]
    sizes: list[int]
    bad: list[BadLine]
    lane: int = 0


def encode(documents: Iterable[tuple[int, Document | BadLine]], threads: bool = True) -> Iterator[Encoded]:
    """`documents` as of `Corpus.documents`; `threads` as in `Tokenizer.encode_documents`."""
    batch, bad, size, read = list[str](), list[BadLine](), 0, 0
    for after, document in documents:
        if isinstance(document, BadLine):
            bad.append(document)
        else:
            _row, text, _rendered, length = document
            if length > _PIECE:
                yield _encoded(read, batch, size, bad, threads)
                batch, bad, size = [], [], 0
                yield from _long(read, after, text)
            else:
                batch.append(text)
                size += length
        read = after
        if len(batch) + len(bad) == _BATCH or size > _PIECE:
            yield _encoded(read, batch, size, bad, threads)
            batch, bad, size = [], [], 0
    yield _encoded(read, batch, size, bad, threads)


def _encoded(read: int, batch: list[str], size: int, bad: list[BadLine], threads: bool) -> Encoded:
    if not batch:
        return Encoded(read, np.zeros(0, np.uint16), [], bad)
    return Encoded(read, *Tokenizer().encode_documents(batch, size, threads), bad)


def ids_of(text: str) -> NDArray[np.uint16]:
    """The ids of one document, its end included; of a long one in two bytes each from the beginning."""
    if len(text) <= _PIECE:
        return np.array([*Tokenizer().encode(text), END_OF_DOCUMENT], np.uint16)
    return np.concatenate([*Tokenizer().encode_long(_pieces(text)), np.array([END_OF_DOCUMENT], np.uint16)])


def size_of(text: str) -> int:
    """How many ids `ids_of` gives."""
    if len(text) <= _PIECE:
        return len(Tokenizer().encode(text)) + 1
    return sum(map(len, Tokenizer().encode_long(_pieces(text)))) + 1


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


def _long(begin: int, end: int, document: str) -> Iterator[Encoded]:
    """One document, piece by piece; it lies between these bytes of the source."""
    size = 0
    for number, ids in enumerate(Tokenizer().encode_long(_pieces(document)), 1):
        size += len(ids)
        share = min(1.0, number * _PIECE / len(document))
        yield Encoded(begin + round((end - begin) * share), ids, [], [])
    yield Encoded(end, np.array([END_OF_DOCUMENT], np.uint16), [size + 1], [])
