"""Other people's operators for RWKV-7, as they are called by ours: installed beside us, never required.

    pip install rwkv-ops FlashRWKV2 rwkv-tune[fla]     (fla is one of our own operators)

`bench.wkv` checks every answer before it times anything: an adapter that misreads its package shows as wrong.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIMIT = -0.6065306597126334  # log of RWKV-7's strongest decay


def rwkv_ops(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Its w is log(-log_w); bf16 and whole chunks of 16 only."""
    from rwkv_ops.rwkv7_kernel.torch_triton_kernel import generalized_delta_rule

    r, log_w, k, v, a, b, state = inputs
    half = [x.bfloat16() for x in (r, torch.log(-log_w), k, v, a, b)]
    y, last = generalized_delta_rule(*half, initial_state=state)
    return y, last


def flashrwkv2(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Its decays are logits of RWKV-7's sigmoid; 16-bit sequences packed one after the other."""
    from flashrwkv2.tmix.wkv7 import statetune

    r, log_w, k, v, a, b, state = inputs
    batch, steps = r.shape[:2]
    bounds = torch.arange(batch + 1, device=r.device, dtype=torch.int32)
    packed = [x.half().flatten(0, 1) for x in (r, torch.logit(log_w / LIMIT), k, v, a, b)]
    y, last = statetune.statetune_tmix_wkv7_recurrent_fp32io16(
        state, bounds, bounds[:-1] * steps, bounds[1:] * steps, *packed
    )
    return y.view(*r.shape), last


PEERS: dict[str, dict[str, Callable[..., Any]]] = {
    "wkv6": {},
    "wkv7": {"rwkv_ops": rwkv_ops, "flashrwkv2": flashrwkv2},
}


def why_not(name: str, device: str) -> str:
    """Why a peer cannot be measured here; "" when it may be tried."""
    if importlib.util.find_spec(name) is None:
        return "not installed"
    return "" if device == "cuda" else "needs an NVIDIA GPU"
