"""The recurrence of RWKV-5 and RWKV-6, and the one calling convention of all its operators.

    y, last = operator(r, log_w, k, v, u, state)

`r, log_w, k, v`: [B, T, H, N], any T >= 1. `log_w` is the natural logarithm of the decay, <= 0 and
finite, however small; RWKV-5's is the same at every step. `u`: [H, N], the bonus of the present step.
`state`: [B, H, N, N], rows are value channels and columns key channels, or None for zeros. With S the
state of one head, in each step t

    y_t = (S + v_t (u * k_t)^T) r_t        S <- S diag(exp(log_w_t)) + v_t k_t^T

`y`: [B, T, H, N]. `last`: the state after the last step, like `state`. All are differentiable.

Types: bf16, fp16 or fp32, and float64 where torch computes; `log_w` and `state` may be wider than the rest
and should be fp32. Sums and the state are kept in at least fp32; `y` has the type of `v` or a wider one,
`last` is at least fp32. Nothing needs to be contiguous.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

WKV6 = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, "Tensor | None"],
    tuple[Tensor, Tensor],
]
