"""Tokenised documents on disk, and ways through them in memory that does not depend on their number."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

Rows = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Some documents: where each begins in the scratch and how long it is, in tokens."""
Keyed = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]
"""The same with a number for each that they are sorted by."""

_BLOCK = 1 << 18  # documents, or tokens of a long one
_READ = 1 << 13  # documents whose places are worked out at once
_MAPPED = 1 << 25  # tokens, two bytes each, that are read by way of mapped pages
_SORTED = 1 << 19  # documents sorted at once; with their keys and copies some 50 MB


class Scratch:
    """Unnamed files, gone with the process: ids (uint16) end to end, the size of each document, and,
    when asked for, its hash."""

    def __init__(self, folder: Path | None) -> None:
        self._closing = contextlib.ExitStack()
        self._ids, self._sizes, self._hashes = (self._open(folder) for _ in range(3))
        self.documents = self.tokens = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # the buffer of a full disk cannot be flushed, nor need it be
            self._closing.close()

    def _open(self, folder: Path | None) -> IO[bytes]:
        return self._closing.enter_context(tempfile.TemporaryFile(dir=folder, buffering=1 << 20))

    def add(self, ids: NDArray[np.uint16], sizes: Iterable[int]) -> None:
        """Appends ids, and the sizes of the documents that end with them."""
        self._ids.write(ids.astype("<u2", copy=False).tobytes())
        ended = np.fromiter(sizes, "<u4")
        self._sizes.write(ended.tobytes())
        self.tokens += len(ids)
        self.documents += len(ended)

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Rows]:
        """The documents from `first` to before `last`, block by block."""
        self._flush()
        last, position = self.documents if last is None else last, 0
        for start in range(0, last, _BLOCK):
            raw = os.pread(self._sizes.fileno(), 4 * min(_BLOCK, last - start), 4 * start)
            sizes = np.frombuffer(raw, "<u4").astype(np.int64)
            begins = position + np.cumsum(sizes) - sizes
            position = int(begins[-1] + sizes[-1])
            if start + len(sizes) > first:
                skipped = max(first - start, 0)
                yield begins[skipped:], sizes[skipped:]

    def hash(self, key: bytes, tell: Callable[[int, int], None]) -> None:
        """Keeps a hash of each document's ids for `hashed`; `tell` is told (tokens done, in all)."""
        self._flush()
        for begins, sizes in self.rows():
            for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
                digest = content_hasher(key)
                for place in range(begin, begin + size, _BLOCK):
                    count = min(_BLOCK, begin + size - place)
                    digest.update(os.pread(self._ids.fileno(), 2 * count, 2 * place))
                self._hashes.write(digest.digest())
                tell(begin + size, self.tokens)
        self._hashes.flush()

    def hashed(self, first: int = 0, last: int | None = None) -> Iterator[Keyed]:
        """As `rows`, with the hashes."""
        for begins, sizes in self.rows(first, last):
            raw = os.pread(self._hashes.fileno(), 8 * len(sizes), 8 * first)
            first += len(sizes)
            yield np.frombuffer(raw, "<u8").astype(np.uint64), begins, sizes

    def read(self, begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[bytes]:
        """The ids of these documents, joined, in pieces of about 256k tokens.

        One call in C a document (gathering by numpy was measured four times slower): a slice of mapped
        pages, or, since those count as memory, a read where they would be too many.
        """
        self._flush()
        mapped = None
        if 0 < self.tokens <= _MAPPED:
            mapped = mmap.mmap(self._ids.fileno(), 2 * self.tokens, access=mmap.ACCESS_READ)
        for first in range(0, len(sizes), _READ):
            yield from self._pieces(begins[first : first + _READ], sizes[first : first + _READ], mapped)

    def _pieces(
        self, begins: NDArray[np.int64], sizes: NDArray[np.int64], mapped: mmap.mmap | None
    ) -> Iterator[bytes]:
        counts = -(-sizes // _BLOCK)  # long documents are read in several parts
        owner = np.repeat(np.arange(len(sizes)), counts)
        offset = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)) * _BLOCK
        lengths = np.minimum(sizes[owner] - offset, _BLOCK)
        places, piece = begins[owner] + offset, np.cumsum(lengths) // _BLOCK
        for part in np.split(np.arange(len(owner)), np.flatnonzero(np.diff(piece)) + 1):
            starts, bytes_ = 2 * places[part], 2 * lengths[part]
            if mapped is None:
                reads = bytes_.tolist(), starts.tolist()
                yield b"".join(map(os.pread, itertools.repeat(self._ids.fileno()), *reads))
            else:
                slices = map(slice, starts.tolist(), (starts + bytes_).tolist())
                yield b"".join(map(mapped.__getitem__, slices))

    def stream(self) -> NDArray[np.uint16]:
        """All ids as a memory map, which outlives the scratch."""
        self._flush()
        return np.memmap(self._ids, "<u2", "r")

    def _flush(self) -> None:
        self._ids.flush()
        self._sizes.flush()


def content_hasher(key: bytes) -> hashlib.blake2b:
    """Of the ids of a document as little-endian integers; decides which documents are held out."""
    return hashlib.blake2b(digest_size=8, key=key)


def in_order(keyed: Callable[[], Iterator[Keyed]], count: int) -> Iterator[Keyed]:
    """About `count` documents sorted by their keys, which must be spread evenly over all uint64.

    `keyed` must give the same each time: it is gone through once for each half million documents, and
    only those with the next greater keys are kept. Equal keys stay in the order they come in.
    """
    buckets = max(1, -(-count // _SORTED))
    for bucket in range(buckets):
        parts: list[Keyed] = []
        for keys, begins, sizes in keyed():
            here = (keys >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32) == bucket
            parts.append((keys[here], begins[here], sizes[here]))
        if not parts:
            return
        keys, begins, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
        del parts
        order = np.argsort(keys, kind="stable")
        yield keys[order], begins[order], sizes[order]


def shuffled(rows: Callable[[], Iterator[Rows]], count: int, *seed: int) -> Iterator[Rows]:
    """About `count` documents in an order that follows from the seed, on any machine and numpy."""

    def keyed() -> Iterator[Keyed]:
        # Raw bits and not Generator.shuffle: numpy promises the same stream for these only.
        bits = np.random.PCG64(np.random.SeedSequence(seed))
        for begins, sizes in rows():
            yield np.asarray(bits.random_raw(len(sizes))), begins, sizes

    for _, begins, sizes in in_order(keyed, count):
        yield begins, sizes
