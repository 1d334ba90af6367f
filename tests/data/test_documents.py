"""Documents held out: by content, never on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.data.documents import Documents, TokenArray, split


def data_of(numbers: list[int]) -> TokenArray:
    """A document of two tokens for each number."""
    stream = np.array([[n + 1, 0] for n in numbers], np.uint16).reshape(-1)
    return TokenArray(Path("x"), stream, np.arange(len(numbers) + 1) * 2)


def contents(data: Documents) -> list[int]:
    return [int(data.item(i)[0]) - 1 for i in range(len(data))]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_no_content_is_on_both_sides(numbers: list[int], share: float, seed: int) -> None:
    distinct = len(set(numbers))
    wanted = max(1, round(share * distinct))
    if wanted >= distinct:
        with pytest.raises(UserError, match="distinct documents"):
            split(data_of(numbers), share, seed)
        return
    kept, out = split(data_of(numbers), share, seed)
    assert set(contents(kept)) | set(contents(out)) == set(numbers)
    assert not set(contents(kept)) & set(contents(out))
    assert len(out) == wanted == len(set(contents(out)))
    assert contents(kept) == [n for n in numbers if n not in set(contents(out))]  # copies and order stay
    assert kept.tokens == 2 * len(kept) == kept.sizes.sum()


def test_a_number_of_documents() -> None:
    kept, out = split(data_of([*range(50)] * 3), 7, seed=0)
    assert (len(kept), len(out)) == (129, 7)
    with pytest.raises(IndexError):
        out.item(7)
    with pytest.raises(UserError):
        split(data_of([*range(7)] * 3), 7, seed=0)


def test_the_seed_and_the_content_decide_which() -> None:
    numbers = list(range(200))
    chosen = {tuple(sorted(contents(split(data_of(numbers), 0.1, seed)[1]))) for seed in range(5)}
    assert len(chosen) == 5
    shuffled = np.random.default_rng(0).permutation(numbers).tolist()
    assert sorted(contents(split(data_of(shuffled), 0.1, 3)[1])) in [list(c) for c in chosen]
