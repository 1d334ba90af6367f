"""The recurrence by the operators of flash-linear-attention (fla-core, the extra `fla`).

Its states have key channels as rows, ours as columns; its `w` is the logarithm of the decay, as ours.
"""

from __future__ import annotations

from torch import Tensor

from engine.ops.chunks import at_start

LOWER_BOUND = -0.6066  # of log_w in RWKV-7; with it the library computes longer chunks on tensor cores


def wkv7_fla(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv7`."""
    from fla.ops.rwkv7 import chunk_rwkv7

    r, log_w, k, v, a, b, start = (x.contiguous() for x in (r, log_w, k, v, a, b, at_start(v, state).mT))
    y, last = chunk_rwkv7(
        r, log_w, k, v, a, b, scale=1.0, initial_state=start, output_final_state=True, lower_bound=LOWER_BOUND
    )
    return y, last.mT
