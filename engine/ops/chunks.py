"""What the operators begin with: the state at the start, and sequences cut into chunks that are computed side
by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_start(v: Tensor, state: Tensor | None) -> Tensor:
    """The state [B, H, N, N] before the first step of v [B, T, H, N], zeros when None, in at least fp32."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    if state is not None:
        return state.to(dtype)
    batch, _, heads, width = v.shape
    return v.new_zeros(batch, heads, width, width, dtype=dtype)


def to_chunks(x: Tensor, length: int) -> Tensor:
    """[B, T, H, N] -> [G, L, N], G = chunks * B * H, chunk-major; zeros fill up the last chunk.

    Where zeros are a logarithm of a decay and a key, they decay nothing and add nothing.
    """
    batch, steps, heads, width = x.shape
    if steps % length:
        x = F.pad(x, (0, 0, 0, 0, 0, -steps % length))
    chunks = x.reshape(batch, -1, length, heads, width).permute(1, 0, 3, 2, 4)
    return chunks.reshape(-1, length, width).contiguous()  # an expanded tensor stays one up to here


def from_chunks(x: Tensor, batch: int, steps: int, heads: int) -> Tensor:
    """[G, L, N] -> [B, T, H, N]."""
    length, width = x.shape[1:]
    chunks = x.reshape(-1, batch, heads, length, width).permute(1, 0, 3, 2, 4)
    return chunks.reshape(batch, -1, heads, width)[:, :steps]
