"""The recurrence in CUDA C++, step by step in fp32: `csrc/wkv7.cu` tells how.

Exact and undemanding rather than the fastest: it needs nvcc once, and neither Triton nor tensor cores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.ops.chunks import at_start
from engine.ops.native import CHUNK, COLUMNS, FORWARD, REVERSE, Launcher


def wkv7_cuda(
    launch: Launcher, r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `engine.ops.wkv7`; `launch` starts the kernels."""
    r, k, v, a, b = (x.to(launch.dtype) for x in (r, k, v, a, b))
    inputs = (r, log_w.float(), k, v, a, b, at_start(v, state))
    y, last = _Cuda.apply(launch, *(x.contiguous() for x in inputs))  # type: ignore[no-untyped-call]
    return y, last


class _Cuda(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, launch: Launcher, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.launch = launch
        ctx.save_for_backward(*inputs)
        y, last = torch.empty_like(inputs[3]), torch.empty_like(inputs[6])
        launch(FORWARD, y, *inputs, y, last, None, None)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        inputs, launch = ctx.saved_tensors, ctx.launch
        r, log_w, k, v, a, b, state = inputs
        dy, dlast, dstate = dy.contiguous(), dlast.contiguous(), torch.empty_like(state)
        if not any(ctx.needs_input_grad[1:7]):
            launch(REVERSE, v, r, log_w, k, a, b, dy, dlast, dstate, None, None, None)
            return (*[None] * 7, dstate)
        batch, steps, heads, width = v.shape
        starts = state.new_empty(batch * heads, -(-steps // CHUNK), width, width)
        dends, removed = torch.empty_like(starts), torch.empty_like(log_w)
        dremoved = torch.empty_like(removed)
        dr, dlog_w, dk, dv, da, db = (torch.empty_like(x) for x in inputs[:6])
        launch(FORWARD, v, *inputs, None, None, starts, removed)
        launch(REVERSE, v, r, log_w, k, a, b, dy, dlast, dstate, dv, dends, dremoved)
        launch(COLUMNS, v, r, log_w, k, v, a, b, dy, starts, removed, dends, dremoved, dr, dlog_w, dk, da, db)
        return None, dr, dlog_w, dk, dv, da, db, dstate
