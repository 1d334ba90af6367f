"""binidx: PREFIX.bin holds token ids end to end, PREFIX.idx where each item begins and how long it is.

The index, little-endian without gaps: magic, u64 version, u8 dtype code, u64 items, u64 length of
doc_idx, i32 sizes (tokens), i64 pointers (bytes), i64 doc_idx (0..items). It is the layout that
make_data.py of RWKV-LM writes and the RWKV trainers read.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.check import data_half
from engine.contract.errors import UserError
from engine.contract.files import Staged
from engine.contract.i18n import N_, _

MAGIC = b"MMIDIDX\x00\x00"
DTYPES = {
    code: np.dtype(name) for code, name in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()
}
UINT16 = 8

_HEADER = struct.Struct("<9sQBQQ")
_BLOCK = 1 << 20
_BUFFER = 1 << 16
_AHEAD = 8 << 20
_REMEDY = N_("Convert the source again with `rwkv-tune data convert`.")


def _wrong(said: str) -> UserError:
    return UserError(said, _(_REMEDY))


class BinIdx:
    """Reads a pair through memory maps: opening costs the index, an item costs its pages.

    Raises UserError when a half is missing, either header is foreign, or the halves disagree.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = self.source = prefix
        bin_path, idx_path = data_half(prefix, ".bin"), data_half(prefix, ".idx")
        for path in (idx_path, bin_path):
            if not path.is_file():
                said = N_("There is no file {path}, one half of the data {prefix}.")
                raise _wrong(_(said, path=path, prefix=prefix))
        items = self._read_header(idx_path)
        offset = _HEADER.size
        self.sizes: NDArray[np.int32] = np.memmap(idx_path, "<i4", "r", offset, (items,))
        self._pointers: NDArray[np.int64] = np.memmap(idx_path, "<i8", "r", offset + 4 * items, (items,))
        self.tokens = self._check_items(idx_path)
        found, expected = bin_path.stat().st_size, self.tokens * self.dtype.itemsize
        if found != expected:
            said = N_(
                "{bin_path} has {found} bytes where {name} announces {expected}: one of the two is "
                "truncated or belongs to other data."
            )
            raise _wrong(_(said, bin_path=bin_path, found=found, name=idx_path.name, expected=expected))
        if not self.tokens:
            raise _wrong(_("The data {prefix} holds no tokens.", prefix=prefix))
        self.stream: NDArray[Any] = np.asarray(np.memmap(bin_path, self.dtype, "r"))  # a plain view is quick
        """All tokens, end to end."""

    def _read_header(self, path: Path) -> int:
        """Takes the dtype from it; gives the number of items."""
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
        length = path.stat().st_size
        if header[: len(MAGIC)] != MAGIC:
            raise _wrong(_("{path} is no binidx index: it does not begin with MMIDIDX.", path=path))
        if len(header) < _HEADER.size:
            said = N_("{path} is truncated: {length} bytes do not even hold its header.")
            raise _wrong(_(said, path=path, length=length))
        _magic, version, code, items, documents = _HEADER.unpack(header)
        if version != 1:
            said = N_("{path} has version {version}; only version 1 exists.")
            raise _wrong(_(said, path=path, version=version))
        if code not in DTYPES:
            said = N_("{path} has dtype code {code}, which is no integer type for tokens.")
            raise _wrong(_(said, path=path, code=code))
        self.dtype = DTYPES[code]
        expected = _HEADER.size + 12 * items + 8 * documents
        if length != expected:
            said = N_(
                "{path} has {length} bytes where its {items} items and {documents} marks take {expected}."
            )
            counts = {"items": items, "documents": documents, "expected": expected}
            raise _wrong(_(said, path=path, length=length, **counts))
        if not items:
            raise _wrong(_("The data {prefix} holds no documents.", prefix=self.prefix))
        return int(items)

    def _check_items(self, path: Path) -> int:
        """Items must lie end to end from byte 0; gives the number of tokens."""
        position = 0
        for start in range(0, len(self.sizes), _BLOCK):
            sizes = self.sizes[start : start + _BLOCK].astype(np.int64)
            ends = position + np.cumsum(sizes)
            pointers = (ends - sizes) * self.dtype.itemsize
            wrong = (sizes < 0) | (pointers != self._pointers[start : start + _BLOCK])
            if wrong.any():
                item = start + int(wrong.argmax())
                said = N_(
                    "{path} is damaged: item {item} ({sizes} tokens) points to byte {pointers}, which is "
                    "not where the item before it ends."
                )
                there = {"sizes": self.sizes[item], "pointers": self._pointers[item]}
                raise _wrong(_(said, path=path, item=item, **there))
            position = int(ends[-1])
        return position

    def __len__(self) -> int:
        return len(self.sizes)

    def __reduce__(self) -> tuple[type[BinIdx], tuple[Path]]:
        """Another process opens the files itself instead of receiving their content."""
        return BinIdx, (self.prefix,)

    def item(self, index: int) -> NDArray[Any]:
        """The tokens of one item, a read-only view [size]; IndexError outside 0..len-1."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._pointers[index]) // self.dtype.itemsize
        return self.stream[start : start + int(self.sizes[index])]

    def places(self, indices: NDArray[Any]) -> NDArray[np.int64]:
        """Where these items begin in the stream."""
        return np.asarray(self._pointers[indices]) // self.dtype.itemsize

    def item_at(self, position: int) -> int:
        """The item that the token at `position` of the stream belongs to."""
        pointer = position * self.dtype.itemsize
        return int(np.searchsorted(self._pointers, pointer, side="right")) - 1


@contextlib.contextmanager
def write_pair(prefix: Path) -> Iterator[PairWriter]:
    """A pair that appears, or replaces what is there, when the `with` block ends without an exception."""
    targets = [data_half(prefix, suffix) for suffix in (".bin", ".idx")]
    with Staged(targets) as staged, PairWriter(*staged.parts) as writer:
        yield writer


class PairWriter:
    """Writes the two halves of a uint16 pair in constant memory; they are complete when the block ends."""

    def __init__(self, bin_path: Path, idx_path: Path) -> None:
        self._paths = bin_path, idx_path
        self.items = 0
        self.tokens = 0
        self._sent = 0  # bytes of the .bin that the system has been asked to put on the disk

    def __enter__(self) -> PairWriter:
        self._files = contextlib.ExitStack()
        self._bin = self._files.enter_context(self._paths[0].open("wb", buffering=_BUFFER))
        self._idx = self._files.enter_context(self._paths[1].open("w+b", buffering=_BUFFER))
        self._idx.seek(_HEADER.size)
        return self

    def add(self, tokens: bytes) -> None:
        """Appends one item: its ids as little-endian uint16."""
        self.write(tokens)
        self.end(np.array([len(tokens) // 2]))

    def write(self, tokens: bytes) -> None:
        """Appends ids, little-endian uint16, of items whose sizes `end` is told."""
        self._bin.write(tokens)
        self.tokens += len(tokens) // 2
        if (written := 2 * self.tokens - _BUFFER) >= self._sent + _AHEAD:
            # Says that these pages are not needed soon, upon which the disk begins with them while others
            # are made: fsync, in the end, has little left to wait for.
            os.posix_fadvise(self._bin.fileno(), self._sent, written - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = written

    def end(self, sizes: NDArray[Any]) -> None:
        """The sizes in tokens of the next items."""
        self._idx.write(sizes.astype("<i4").tobytes())
        self.items += len(sizes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._files:
                self._finish()
        else:
            with contextlib.suppress(OSError):  # the buffer of a full disk cannot be flushed
                self._files.close()

    def _finish(self) -> None:
        """Completes the index: the sizes are in it by now, all else follows from them."""
        self._idx.flush()
        for pointers in self._pointers():
            self._idx.write(pointers.tobytes())
        for start in range(0, self.items + 1, _BLOCK):
            self._idx.write(np.arange(start, min(start + _BLOCK, self.items + 1), dtype="<i8").tobytes())
        self._idx.seek(0)
        self._idx.write(_HEADER.pack(MAGIC, 1, UINT16, self.items, self.items + 1))
        for file in (self._bin, self._idx):
            file.flush()
            os.fsync(file.fileno())

    def _pointers(self) -> Iterator[NDArray[np.int64]]:
        position = 0
        for start in range(0, self.items, _BLOCK):
            count = min(_BLOCK, self.items - start)
            raw = os.pread(self._idx.fileno(), 4 * count, _HEADER.size + 4 * start)
            sizes = np.frombuffer(raw, "<i4").astype("<i8") * 2
            ends = position + np.cumsum(sizes)
            yield (ends - sizes).astype("<i8")
            position = int(ends[-1])


def cut_numbers(sizes: NDArray[Any], ctx_len: int) -> tuple[int, int]:
    """How many documents ctx_len cuts and how many tokens they lose: all after the first ctx_len + 1."""
    lost = sizes.astype(np.int64) - (ctx_len + 1)
    lost = lost[lost > 0]
    return len(lost), int(lost.sum())


def magic_prime(tokens: int, ctx_len: int) -> int | None:
    """The largest prime p <= tokens // ctx_len - 1 with p % 3 == 2, which pre-training walks the data by;
    None when there are fewer than three windows of ctx_len."""
    if tokens < 3 * ctx_len:
        return None
    below = tokens // ctx_len - 1
    return next(p for p in range(below, 1, -1) if p % 3 == 2 and _is_prime(p))


def _is_prime(number: int) -> bool:
    return all(number % d for d in range(2, math.isqrt(number) + 1))
