"""What waits in the host's memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.models import waiting
from engine.models.waiting import Beside, Waiting


def test_batches_of_all_lengths_wait_in_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which a GPU's host keeps, for good, as much as it once had of each size."""
    taken: list[int] = []

    def pinned(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        made = torch.empty(shape, dtype=dtype)
        taken.append(made.nbytes)
        return made

    def copy(self: Any, to: torch.Tensor, of: torch.Tensor, device: torch.device) -> None:
        to.copy_(of)

    monkeypatch.setattr(waiting, "pinned", pinned)
    monkeypatch.setattr(Beside, "copy", copy)
    away = Waiting()
    for length in (7, 64, 3, 33, 64):
        x = torch.randn(2, length, 16).bfloat16()
        assert torch.equal(away._send(x).values, x)
    assert taken == [2 * 7 * 16 * 2, *[2 * 64 * 16 * 2] * 4]
