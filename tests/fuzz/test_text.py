"""Readers of text files against damaged and hostile ones."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzzing import FEW, MANY, fuzz
from tests.fuzz.readers import TEXT


@pytest.mark.parametrize("name", TEXT)
def test_damaged_files_are_told_as_such(name: str) -> None:
    fuzz(TEXT[name], FEW)


@pytest.mark.soak
@pytest.mark.parametrize("name", TEXT)
def test_a_hundred_thousand_damaged_files_are_told_as_such(name: str) -> None:
    fuzz(TEXT[name], MANY)
