"""Small models and states whose every tensor matters."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.init import init_model

VERSIONS = ("x052", "x060", "x070")


def random_weights(
    n_layer: int, n_embd: int, head_size: int, vocab_size: int, version: str = "x070"
) -> dict[str, Tensor]:
    """A fresh model with every tensor disturbed, so that none is zero and no two layers are alike."""
    rng = torch.Generator().manual_seed(n_embd)
    tensors = init_model(version, n_layer, n_embd, vocab_size=vocab_size, head_size=head_size)
    for name, tensor in tensors.items():
        scale = 1.0 if name == "emb.weight" else 0.1 if tensor.dim() == 3 or "ln" in name else n_embd**-0.5
        tensor.add_(scale * torch.randn(tensor.shape, generator=rng))
    return tensors


def random_state(n_layer: int, n_head: int, head_size: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(n_head)
    shape = (n_head, head_size, head_size)
    return {f"blocks.{i}.att.time_state": torch.randn(shape, generator=rng) for i in range(n_layer)}
