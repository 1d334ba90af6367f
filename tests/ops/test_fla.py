"""What is handed to flash-linear-attention and taken from it, against that library's own definitions.

Its kernels need a GPU; its step loops, which define what the kernels compute, do not.
"""

# mypy: disable-error-code="import-not-found"
# (The library is an extra.)

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import errors, make, operator

pytest.importorskip("fla")


def heads_first(*tensors: Tensor) -> list[Tensor]:
    return [x.transpose(1, 2) for x in tensors]


def chunk_rwkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, *, scale: float,
    initial_state: Tensor, output_final_state: bool, lower_bound: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence

    assert w.min() >= lower_bound and output_final_state
    r, w, k, v, a, b = heads_first(r, w, k, v, a, b)
    y, last = dplr_recurrence(r * r.shape[-1] ** 0.5 * scale, k, v, a, b, w, initial_state)
    return y.transpose(1, 2), last


def chunk_rwkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, *, scale: float, initial_state: Tensor,
    output_final_state: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6

    r, k, v, w = heads_first(r, k, v, w)
    y, last = naive_recurrent_rwkv6(r, k, v, w, u, scale, initial_state, output_final_state)
    return y.transpose(1, 2), last


@pytest.mark.parametrize(("recurrence", "defined"), [("wkv7", chunk_rwkv7), ("wkv6", chunk_rwkv6)])
def test_layouts_signs_and_states(recurrence: str, defined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"fla.ops.rwkv{recurrence[-1]}")
    monkeypatch.setattr(module, defined.__name__, defined)
    pair = operator("fla", recurrence), operator("reference", recurrence)
    found = errors(*pair, recurrence, make(recurrence, 2, 9, 3, 16), torch.float32)
    assert all(error < 1e-5 for error in found.values()), found
