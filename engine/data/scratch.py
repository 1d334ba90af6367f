"""Tokenised documents on disk, and ways through them in memory that does not depend on their number."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

Rows = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Some documents: where each begins in the scratch and how long it is, in tokens. The bits from `_LANE` on
tell the lane of a place."""
Keyed = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]
"""The same with a number for each that they are sorted by."""

_BLOCK = 1 << 18  # documents, or tokens of a long one
_READ = 1 << 13  # documents whose places are worked out at once
_MAPPED = 1 << 25  # tokens, two bytes each, that are read by way of mapped pages
_LANE = 48
_PLACE = (1 << _LANE) - 1
_ROW = np.dtype([("begin", "<i8"), ("size", "<u4")])
_SORTED = 1 << 19  # documents sorted at once; with their keys and copies some 50 MB


class Scratch:
    """Unnamed files, gone with the process: ids (uint16) end to end, the place and size of each document,
    and, when asked for, its hash.

    Ids lie in lanes, each a file that one process appends to: lane 0 is that of `add`.
    """

    def __init__(self, folder: Path | None) -> None:
        self._closing, self._folder = contextlib.ExitStack(), folder
        self._lanes = [self._open()]
        self._ends = [0]  # of the last document of each lane
        self._rows, self._hashes = self._open(), self._open()
        self.documents = self.tokens = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # the buffer of a full disk cannot be flushed, nor need it be
            self._closing.close()

    def _open(self) -> IO[bytes]:
        return self._closing.enter_context(tempfile.TemporaryFile(dir=self._folder, buffering=1 << 20))

    def lane(self) -> int:
        """Another lane: for a process that is forked from here on, which alone may `store` in it."""
        self._lanes.append(self._open())
        self._ends.append(0)
        return len(self._lanes) - 1

    def store(self, ids: NDArray[np.uint16], lane: int = 0) -> None:
        """Appends ids to a lane; from another process than `add`, whose turn it then is."""
        self._lanes[lane].write(ids.astype("<u2", copy=False).data)
        if lane:
            self._lanes[lane].flush()

    def add(self, ids: NDArray[np.uint16], sizes: Sequence[int], lane: int = 0) -> None:
        """Appends ids, and the sizes of the documents that end with what the lane has by now."""
        if len(ids):
            self.store(ids, lane)
        rows = np.empty(len(sizes), _ROW)
        rows["size"] = sizes
        ends = self._ends[lane] + np.cumsum(rows["size"], dtype=np.int64)
        rows["begin"] = ends - rows["size"] + (lane << _LANE)
        self._rows.write(rows.tobytes())
        self._ends[lane] += sum(sizes)
        self.tokens += sum(sizes)
        self.documents += len(sizes)

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Rows]:
        """The documents from `first` to before `last`, block by block."""
        self._flush()
        last = self.documents if last is None else last
        for start in range(first, last, _BLOCK):
            count = min(_BLOCK, last - start)
            raw = os.pread(self._rows.fileno(), _ROW.itemsize * count, _ROW.itemsize * start)
            rows = np.frombuffer(raw, _ROW)
            yield rows["begin"].astype(np.int64), rows["size"].astype(np.int64)

    def hash(self, key: bytes, tell: Callable[[int, int], None]) -> None:
        """Keeps a hash of each document's ids for `hashed`; `tell` is told (tokens done, in all)."""
        done = 0
        for begins, sizes in self.rows():
            for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
                digest, file = content_hasher(key), self._lanes[begin >> _LANE].fileno()
                for offset in range(0, size, _BLOCK):
                    place = (begin & _PLACE) + offset
                    digest.update(os.pread(file, 2 * min(_BLOCK, size - offset), 2 * place))
                self._hashes.write(digest.digest())
                done += size
                tell(done, self.tokens)
        self._hashes.flush()

    def hashed(self, first: int = 0, last: int | None = None) -> Iterator[Keyed]:
        """As `rows`, with the hashes."""
        for begins, sizes in self.rows(first, last):
            raw = os.pread(self._hashes.fileno(), 8 * len(sizes), 8 * first)
            first += len(sizes)
            yield np.frombuffer(raw, "<u8").astype(np.uint64), begins, sizes

    def read(self, begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[bytes]:
        """The ids of these documents, joined, in pieces of about 256k tokens.

        One call in C a document (gathering by numpy was measured three times slower): a view of mapped
        pages, or, since those count as memory, a read where they would be too many.
        """
        self._flush()
        views = None
        if self.tokens <= _MAPPED:
            views = [_view(file.fileno(), 2 * end) for file, end in zip(self._lanes, self._ends, strict=True)]
        for first in range(0, len(sizes), _READ):
            yield from self._pieces(begins[first : first + _READ], sizes[first : first + _READ], views)

    def _pieces(
        self, begins: NDArray[np.int64], sizes: NDArray[np.int64], views: list[memoryview] | None
    ) -> Iterator[bytes]:
        counts = -(-sizes // _BLOCK)  # long documents are read in several parts
        owner = np.repeat(np.arange(len(sizes)), counts)
        offset = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)) * _BLOCK
        lengths = 2 * np.minimum(sizes[owner] - offset, _BLOCK)
        lanes, starts = begins[owner] >> _LANE, 2 * ((begins[owner] & _PLACE) + offset)
        files = [file.fileno() for file in self._lanes]
        pieces = np.cumsum(lengths) // (2 * _BLOCK)
        for part in np.split(np.arange(len(owner)), np.flatnonzero(np.diff(pieces)) + 1):
            here, first, size = lanes[part].tolist(), starts[part], lengths[part]
            if views is None:
                yield b"".join(map(os.pread, map(files.__getitem__, here), size.tolist(), first.tolist()))
            else:
                cuts = map(slice, first.tolist(), (first + size).tolist())
                yield b"".join(
                    [view[cut] for view, cut in zip(map(views.__getitem__, here), cuts, strict=True)]
                )

    def stream(self) -> NDArray[np.uint16]:
        """All ids of the one lane as a memory map, which outlives the scratch."""
        self._flush()
        return np.memmap(self._lanes[0], "<u2", "r")

    def _flush(self) -> None:
        self._lanes[0].flush()
        self._rows.flush()


def _view(file: int, size: int) -> memoryview:
    """The mapped bytes of a file; none can be mapped of an empty one."""
    return memoryview(mmap.mmap(file, size, access=mmap.ACCESS_READ) if size else b"")


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
        order = np.argsort(keys)
        if (keys[order[1:]] == keys[order[:-1]]).any():  # else every way of sorting gives the same
            order = np.argsort(keys, kind="stable")  # takes eight times as long
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
