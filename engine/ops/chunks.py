"""Sequences cut into chunks that are computed side by side."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
