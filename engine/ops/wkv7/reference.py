"""The recurrence step by step: the definition that the other operators are measured by."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.ops.chunks import at_start


def wkv7_reference(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv7`; computes and answers in fp32 (float64 if the inputs are)."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    state = at_start(v, state)
    r, log_w, k, v, a, b = (x.to(dtype) for x in (r, log_w, k, v, a, b))
    outputs = []
    steps = (x.unbind(1) for x in (r, log_w.exp(), k, v, a, b))
    for r_t, w_t, k_t, v_t, a_t, b_t in zip(*steps, strict=True):
        removed = state @ a_t.unsqueeze(-1)
        state = (
            state * w_t.unsqueeze(-2) + removed * b_t.unsqueeze(-2) + v_t.unsqueeze(-1) * k_t.unsqueeze(-2)
        )
        outputs.append((state @ r_t.unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs, 1), state
