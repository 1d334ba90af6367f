"""Readers of binary files against damaged and hostile ones."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzzing import FEW, MANY, fuzz
from tests.fuzz.readers import BINARY


@pytest.mark.parametrize("name", BINARY)
def test_damaged_files_are_told_as_such(name: str) -> None:
    fuzz(BINARY[name], FEW)


@pytest.mark.soak
@pytest.mark.parametrize("name", BINARY)
def test_a_hundred_thousand_damaged_files_are_told_as_such(name: str) -> None:
    fuzz(BINARY[name], MANY)
