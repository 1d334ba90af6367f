"""The recurrence in CUDA C++, step by step in fp32: `csrc/wkv6.cu` tells how.

Exact and undemanding rather than the fastest: it needs nvcc once, and neither Triton nor tensor cores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.ops.chunks import at_start
from engine.ops.native import CHUNK, COLUMNS, FORWARD, REVERSE, Launcher


def wkv6_cuda(
    launch: Launcher, r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv6`; `launch` starts the kernels."""
    r, k, v = (x.to(launch.dtype) for x in (r, k, v))
    inputs = (r, log_w.float(), k, v, u.float(), at_start(v, state))
    y, last = _Cuda.apply(launch, *(x.contiguous() for x in inputs))  # type: ignore[no-untyped-call]
    return y, last


class _Cuda(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, launch: Launcher, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.launch = launch
        ctx.save_for_backward(*inputs)
        y, last = torch.empty_like(inputs[3]), torch.empty_like(inputs[5])
        launch(FORWARD, y, *inputs, y, last, None)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        inputs, launch = ctx.saved_tensors, ctx.launch
        r, log_w, k, v, u, state = inputs
        dy, dlast, dstate = dy.contiguous(), dlast.contiguous(), torch.empty_like(state)
        if not any(ctx.needs_input_grad[1:6]):
            launch(REVERSE, v, r, log_w, k, u, dy, dlast, dstate, None, None)
            return (*[None] * 6, dstate)
        batch, steps, heads, width = v.shape
        chunks = -(-steps // CHUNK)
        starts = state.new_empty(batch * heads, chunks, width, width)
        dends = torch.empty_like(starts)
        parts = u.new_empty(batch, heads, chunks, width) if ctx.needs_input_grad[5] else None
        dr, dlog_w, dk, dv = (torch.empty_like(x) for x in inputs[:4])
        launch(FORWARD, v, *inputs, None, None, starts)
        launch(REVERSE, v, r, log_w, k, u, dy, dlast, dstate, dv, dends)
        launch(COLUMNS, v, r, log_w, k, v, u, dy, starts, dends, dr, dlog_w, dk, parts)
        return None, dr, dlog_w, dk, dv, parts.sum((0, 2)) if parts is not None else None, dstate
