"""Which documents are written: held out by content, mixed by weight, in an order that any machine gives."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.data import scratch
from engine.data.binidx import BinIdx
from engine.data.convert import convert
from engine.data.documents import split
from engine.data.scratch import Scratch, shuffled


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def items(prefix: Path) -> list[bytes]:
    data = BinIdx(prefix)
    return [data.item(i).tobytes() for i in range(len(data))]


MINE = [f"User: {i}\n\nAssistant: mine {i * 7919} 🙂" for i in range(60)]
GOLDEN = "d90e97b3b83d67e4a97e6b878f0dec0c3904b71720a2859384f325d440a79ab8"
GENERAL = [f"{'general knowledge ' * (i % 9 + 1)}{i} 知识" for i in range(200)]


def test_the_bytes_of_a_seed_never_change(tmp_path: Path) -> None:
    """Whatever the machine, Python and numpy: a person can rebuild a published set."""
    a, b = jsonl(tmp_path / "a.jsonl", MINE), jsonl(tmp_path / "b.jsonl", GENERAL)
    convert([a, b], tmp_path / "x", repeat=2, seed=42, weights=(2, 1), held_out=0.1)
    found = hashlib.sha256()
    for name in ("x.bin", "x.idx", "x-val.bin", "x-val.idx"):
        found.update((tmp_path / name).read_bytes())
    assert found.hexdigest() == GOLDEN


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 2**70), st.integers(1, 16))
def test_blocks_and_buckets_change_nothing(sizes: list[int], seed: int, block: int) -> None:
    """The order of many documents, sorted bucket by bucket, is that of a single sort."""
    with Scratch(None) as kept, pytest.MonkeyPatch.context() as patch:
        ids = np.arange(sum(sizes), dtype=np.uint16)
        kept.add(ids, sizes)

        def order() -> tuple[list[int], bytes]:
            rows = list(shuffled(kept.rows, len(sizes), seed, 3))
            content = b"".join(piece for begins, lengths in rows for piece in kept.read(begins, lengths))
            return [int(begin) for begins, _ in rows for begin in begins], content

        begins, content = order()
        for name in ("_BLOCK", "_SORTED", "_READ"):
            patch.setattr(scratch, name, block)
        assert order() == (begins, content)
        starts = np.cumsum(sizes) - sizes
        assert sorted(begins) == starts.tolist()
        ends = dict(zip(starts.tolist(), np.cumsum(sizes).tolist(), strict=True))
        assert content == b"".join(ids[begin : ends[begin]].tobytes() for begin in begins)


def test_held_out_documents_are_those_of_val_split(tmp_path: Path) -> None:
    """Copies of a document fall on one side, and only one of those held out is kept."""
    source = jsonl(tmp_path / "a.jsonl", MINE + MINE[::-1] + MINE[:5])
    convert(source, tmp_path / "whole", repeat=1)
    for held_out in (0.1, 0.5, 7.0):
        report = convert(source, tmp_path / "x", repeat=3, held_out=held_out, seed=5, force=True)
        train, held = split(BinIdx(tmp_path / "whole"), held_out, 5)
        assert Counter(items(tmp_path / "x-val")) == Counter(held.item(i).tobytes() for i in range(len(held)))
        wanted = Counter(train.item(i).tobytes() for i in range(len(train)))
        assert Counter(items(tmp_path / "x")) == Counter({item: 3 * n for item, n in wanted.items()})
        assert not set(items(tmp_path / "x")) & set(items(tmp_path / "x-val"))
        assert report.held_out_documents == len(held)


def test_neither_order_nor_repeat_moves_a_document_to_the_other_side(tmp_path: Path) -> None:
    for name, texts, repeat in (("a", MINE, 1), ("b", MINE[::-1], 4)):
        convert(jsonl(tmp_path / f"{name}.jsonl", texts), tmp_path / name, repeat=repeat, held_out=0.2)
    assert items(tmp_path / "a-val") == items(tmp_path / "b-val")


def test_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", MINE[:4])
    with pytest.raises(UserError, match=r"--held-out: 4 holds out 4 of 4 distinct"):
        convert(source, tmp_path / "x", held_out=4)
    others = [jsonl(tmp_path / f"{i}.jsonl", [text]) for i, text in enumerate(MINE[:3])]
    with pytest.raises(UserError, match=r"leaves nothing of source \d"):
        convert(others, tmp_path / "x", held_out=1)
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("weights", [(1, 1), (4, 1), (1, 3), (0.5, 2)])
@pytest.mark.parametrize("swapped", [False, True])
def test_weights_are_shares_of_the_tokens(
    tmp_path: Path, weights: tuple[float, float], swapped: bool
) -> None:
    """All of the first source once a repeat; of the other the share, evenly used over the repeats."""
    first, other = (GENERAL, MINE) if swapped else (MINE, GENERAL)
    sources = [jsonl(tmp_path / "a.jsonl", first), jsonl(tmp_path / "b.jsonl", other)]
    for name, source in zip("ab", sources, strict=True):
        convert(source, tmp_path / name, repeat=1)
    one, two = set(items(tmp_path / "a")), set(items(tmp_path / "b"))
    convert(sources, tmp_path / "x", repeat=5, weights=weights)
    found = items(tmp_path / "x")
    used = Counter(item for item in found if item in two)
    assert Counter(item for item in found if item in one) == Counter(dict.fromkeys(one, 5))
    tokens = [sum(len(item) for item in found if item in side) / 2 for side in (one, two)]
    assert abs(tokens[1] - tokens[0] * weights[1] / weights[0]) < max(map(len, two))
    assert max(used.values()) - min(used[item] for item in two) <= 1
    half = Counter(item in one for item in found[: len(found) // 10])
    assert min(half.values()) > 0 and len(half) == 2, "not shuffled together"


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", MINE)
    for weights in ((1, 2), (0,), (-1,), (float("inf"),), (float("nan"),)):
        with pytest.raises(UserError, match=r"--weights"):
            convert(source, tmp_path / "x", weights=weights)
