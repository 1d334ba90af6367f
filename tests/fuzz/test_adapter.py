"""The reader of an adapter's folder against damaged and hostile ones."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzzing import FEW, MANY, fuzz
from tests.fuzz.readers import ADAPTER

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of each key that it does not know


@pytest.mark.parametrize("name", ADAPTER)
def test_damaged_files_are_told_as_such(name: str) -> None:
    fuzz(ADAPTER[name], FEW)


@pytest.mark.soak
@pytest.mark.parametrize("name", ADAPTER)
def test_a_hundred_thousand_damaged_files_are_told_as_such(name: str) -> None:
    fuzz(ADAPTER[name], MANY)
