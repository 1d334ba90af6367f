"""The recurrence by the operators of flash-linear-attention (fla-core, the extra `fla`).

Its states have key channels as rows, ours as columns; its `w` is the logarithm of the decay, as ours.
"""

from __future__ import annotations

from torch import Tensor

from engine.ops.chunks import at_start

# Of log_w: what decays by e^-40 a step is gone in fp32. The library takes differences of sums over a chunk,
# and larger numbers would cost the small ones their digits.
STRONGEST = -40.0


def wkv6_fla(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv6`."""
    from fla.ops.rwkv6 import chunk_rwkv6

    r, log_w, k, v, u, start = (
        x.contiguous() for x in (r, log_w.clamp(min=STRONGEST), k, v, u, at_start(v, state).mT)
    )
    y, last = chunk_rwkv6(r, k, v, log_w, u, scale=1.0, initial_state=start, output_final_state=True)
    return y, last.mT
