"""The binidx pair: its exact bytes, and what the reader makes of damaged ones."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.contract.errors import UserError
from engine.data.binidx import BinIdx, cut_numbers, write_pair


def write(prefix: Path, items: list[list[int]]) -> None:
    with write_pair(prefix) as writer:
        for item in items:
            writer.add(np.array(item, "<u2").tobytes())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def index(sizes: list[int], pointers: list[int], *, code: int = 8, version: int = 1) -> bytes:
    n = len(sizes)
    head = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", version, code, n, n + 1)
    return head + struct.pack(f"<{n}i{n}q{n + 1}q", *sizes, *pointers, *range(n + 1))


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    write(tmp_path / "a.b", [[5, 6, 0], [65529, 0], [0]])
    assert (tmp_path / "a.b.bin").read_bytes() == struct.pack("<6H", 5, 6, 0, 65529, 0, 0)
    assert (tmp_path / "a.b.idx").read_bytes() == index([3, 2, 1], [0, 6, 10])
    assert names(tmp_path) == ["a.b.bin", "a.b.idx"]


def test_reading_gives_back_the_items(tmp_path: Path) -> None:
    items = [[i, i + 1, 0][i % 3 :] for i in range(1000)]
    write(tmp_path / "d", items)
    for data in (BinIdx(tmp_path / "d"), pickle.loads(pickle.dumps(BinIdx(tmp_path / "d")))):
        assert [data.item(i).tolist() for i in range(len(data))] == items
        assert data.sizes.tolist() == [len(item) for item in items]
        assert data.tokens == sum(map(len, items))
        assert data.dtype == np.uint16
        owners = [i for i, item in enumerate(items) for _ in item]
        assert [data.item_at(p) for p in range(data.tokens)] == owners
    with pytest.raises(IndexError):
        data.item(1000)
    with pytest.raises(IndexError):
        data.item(-1)


@pytest.mark.parametrize(
    "code, dtype", [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")]
)
def test_other_integer_types_are_read(tmp_path: Path, code: int, dtype: str) -> None:
    tokens = np.array([1, 2, 0, 7, 0], dtype)
    (tmp_path / "d.bin").write_bytes(tokens.tobytes())
    (tmp_path / "d.idx").write_bytes(index([3, 2], [0, 3 * tokens.itemsize], code=code))
    assert BinIdx(tmp_path / "d").item(1).tolist() == [7, 0]


def _rewrite(suffix: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def damage(folder: Path) -> object:
        path = folder / f"d{suffix}"
        return path.write_bytes(change(path.read_bytes()))

    return damage


GOOD = ([3, 2], [0, 6])


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda d: (d / "d.bin").unlink(), "no file"),
        (lambda d: (d / "d.idx").unlink(), "no file"),
        (_rewrite(".idx", lambda b: b"PK" + b[2:]), "MMIDIDX"),
        (_rewrite(".idx", lambda b: b""), "MMIDIDX"),
        (_rewrite(".idx", lambda b: b[:20]), "truncated"),
        (_rewrite(".idx", lambda b: b[:-1]), "bytes where its 2 items"),
        (_rewrite(".idx", lambda b: b + b"\x00"), "bytes where its 2 items"),
        (_rewrite(".idx", lambda b: index(*GOOD, version=2)), "version 2"),
        (_rewrite(".idx", lambda b: index(*GOOD, code=6)), "dtype code 6"),
        (_rewrite(".idx", lambda b: index([3, 2], [0, 8])), "item 1"),
        (_rewrite(".idx", lambda b: index([3, 2], [0, -6])), "item 1"),
        (_rewrite(".idx", lambda b: index([-3, 2], [0, 6])), "item 0"),
        (_rewrite(".idx", lambda b: index([3, 2, 9], [0, 6, 10])), "announces 28"),
        (_rewrite(".idx", lambda b: index([], [])), "no documents"),
        (_rewrite(".bin", lambda b: b[:-2]), "truncated or belongs to other data"),
        (_rewrite(".bin", lambda b: b + b"\x00"), "truncated or belongs to other data"),
    ],
)
def test_a_damaged_pair_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / "d", [[1, 2, 0], [3, 0]])
    damage(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        BinIdx(tmp_path / "d")
    assert str(tmp_path / "d") in caught.value.message
    assert caught.value.remedy


def test_a_pair_of_empty_items_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", [[], []])
    with pytest.raises(UserError, match="no tokens"):
        BinIdx(tmp_path / "d")


def test_an_exception_leaves_the_old_pair(tmp_path: Path) -> None:
    write(tmp_path / "d", [[1, 0]])
    with pytest.raises(KeyboardInterrupt), write_pair(tmp_path / "d") as writer:
        writer.add(b"\x09\x00" * 100)
        raise KeyboardInterrupt
    assert names(tmp_path) == ["d.bin", "d.idx"]
    assert BinIdx(tmp_path / "d").item(0).tolist() == [1, 0]


def test_stale_partial_files_go_and_others_stay(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the kernel's greatest pid
    stale = [f".d.bin.{dead}.part", f".d.idx.{dead}.part"]
    others = [f".d.bin.{os.getppid()}.part", f".e.bin.{dead}.part", ".d.bin.x.part"]
    for name in stale + others:
        (tmp_path / name).touch()
    write(tmp_path / "d", [[1, 0]])
    assert names(tmp_path) == sorted([*others, "d.bin", "d.idx"])


def test_what_ctx_len_cuts() -> None:
    sizes = np.array([1, 10, 11, 12, 100], np.int32)
    assert cut_numbers(sizes, 10) == (2, 1 + 89)
    assert cut_numbers(sizes, 99) == (0, 0)
