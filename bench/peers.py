"""Other people's operators, as they are called by ours: installed beside us, never required.

    pip install rwkv-ops FlashRWKV2
    pip install rwkv-fla        in an environment without fla-core: both packages are called `fla`

flash-linear-attention itself is one of our own operators (the extra `fla`). A peer is given its inputs in its
own convention: what makes them of ours is not timed. `bench.wkv` checks every answer before it times
anything: an adapter that misreads its package shows as wrong.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LIMIT = -0.6065306597126334  # log of RWKV-7's strongest decay

Answer = tuple[Tensor, Tensor]


def _as_they_are(*inputs: Tensor) -> tuple[Tensor, ...]:
    return inputs


@dataclass(frozen=True)
class Peer:
    """A package on PyPI: `call` computes y and the last state, all [..., value, key], of what `prepare` makes
    of an operator's inputs."""

    package: str
    call: Callable[..., Answer]
    prepare: Callable[..., tuple[Tensor, ...]] = _as_they_are

    def __call__(self, *inputs: Tensor) -> Answer:
        """As an operator of ours."""
        return self.call(*self.prepare(*inputs))

    def why_not(self, device: str) -> str:
        """Why it cannot be measured here; "" when it may be tried."""
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"
        return "" if device == "cuda" else "needs an NVIDIA GPU"


def _bf16(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.bfloat16().contiguous() for x in tensors)


def _rwkv_ops_inputs(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, ...]:
    """Its w is log(-log_w)."""
    return (*_bf16(r, torch.log(-log_w), k, v, a, b), state)


def _rwkv_ops(*inputs: Tensor) -> Answer:
    """Head size 64 and whole chunks of 16 only."""
    os.environ |= {"KERAS_BACKEND": "torch", "KERNEL_TYPE": "triton"}  # or it compiles CUDA when imported
    from rwkv_ops.rwkv7_kernel.torch_triton_kernel import generalized_delta_rule

    *sequences, state = inputs
    y, last = generalized_delta_rule(*sequences, initial_state=state)
    return y, last


def _flashrwkv2_inputs(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, ...]:
    """Its decays are logits of RWKV-7's sigmoid, its states have key channels as rows."""
    return (*_bf16(r, torch.logit(log_w / LIMIT), k, v, a, b), state.mT.contiguous())


def _flashrwkv2(*inputs: Tensor) -> Answer:
    """Head size 64 and more; sequences lie one behind the other."""
    from flashrwkv2.tmix.wkv7 import statetune

    *sequences, state = inputs
    batch, steps = sequences[0].shape[:2]
    bounds, known = _flashrwkv2_bounds(batch, steps, state.device)
    y, last = statetune.statetune_tmix_wkv7_recurrent_fp32io16(
        state, *bounds, *(x.flatten(0, 1) for x in sequences), prepared_metadata=known
    )
    return y.view_as(sequences[0]), last.mT


@functools.cache
def _flashrwkv2_bounds(batch: int, steps: int, device: torch.device) -> tuple[tuple[Tensor, ...], Any]:
    """Where sequences and their one chunk begin and end: as tensors, and checked, which the GPU waits for."""
    from flashrwkv2.tmix.wkv7 import statetune

    chunks = torch.arange(batch + 1, device=device, dtype=torch.int32)
    bounds = (chunks, chunks[:-1] * steps, chunks[1:] * steps)
    return bounds, statetune.prepare_tmix_wkv7_statetune_metadata(*bounds, total_tokens=batch * steps)


def _rwkv_fla7(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor) -> Answer:
    from fla.ops.rwkv7 import chunk_rwkv7

    y, last = chunk_rwkv7(
        r=r, k=k, v=v, a=a, b=b, log_w=log_w, scale=1.0, initial_state=state, output_final_state=True
    )
    return y, last.mT


def _rwkv_fla6(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor) -> Answer:
    from fla.ops.rwkv6 import chunk_rwkv6

    y, last = chunk_rwkv6(r, k, v, log_w, u, scale=1.0, initial_state=state, output_final_state=True)
    return y, last.mT


def _rwkv_fla_inputs(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Its states have key channels as rows."""
    return (*inputs[:-1], inputs[-1].mT.contiguous())


PEERS: dict[str, dict[str, Peer]] = {
    "wkv6": {"rwkv_fla": Peer("rwkv-fla", _rwkv_fla6, _rwkv_fla_inputs)},
    "wkv7": {
        "rwkv_fla": Peer("rwkv-fla", _rwkv_fla7, _rwkv_fla_inputs),
        "rwkv_ops": Peer("rwkv-ops", _rwkv_ops, _rwkv_ops_inputs),
        "flashrwkv2": Peer("FlashRWKV2", _flashrwkv2, _flashrwkv2_inputs),
    },
}
