"""The recurrence of RWKV-7, and the one calling convention of all its operators.

    y, last = operator(r, log_w, k, v, a, b, state)

`r, log_w, k, v, a, b`: [B, T, H, N], any T >= 1. `log_w` is the natural logarithm of the decay, <= 0;
RWKV-7 keeps it above -exp(-0.5). `state`: [B, H, N, N], rows are value channels and columns key
channels, or None for zeros. With S the state of one head, in each step t

    S <- S diag(exp(log_w_t)) + (S a_t) b_t^T + v_t k_t^T        y_t = S r_t

`y`: [B, T, H, N]. `last`: the state after the last step, like `state`. All are differentiable.

Types: bf16, fp16 or fp32, and float64 where torch computes; `log_w` and `state` may be wider than the rest
and should be fp32. Sums and the state are kept in at least fp32; `y` has the type of `v` or a wider one,
`last` is at least fp32. Nothing needs to be contiguous.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

WKV7 = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "Tensor | None"],
    tuple[Tensor, Tensor],
]
