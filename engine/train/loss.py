"""The training loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.v7 import RWKV7

IGNORED = -100
L2WRAP = 1e-4


def training_loss(model: RWKV7, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the learned targets of a batch [B,T]; targets of -100 are not learned.

    The gradient, not the value, also holds L2Wrap: 1e-4 / (number of learned targets) * the largest
    logit, at each learned position's argmax. It keeps logits from growing without bound.
    A batch without a learned target gives 0.
    """
    learned = targets != IGNORED
    # Only learned positions meet the head: its [positions, V] logits are the largest tensor of a step.
    logits = model.head(model.hidden(tokens)[0][learned]).float()
    count = max(logits.shape[0], 1)
    loss = F.cross_entropy(logits, targets[learned], reduction="sum") / count
    highest = logits.amax(dim=-1)
    wrap = (L2WRAP / count) * (highest.detach() * highest).sum()
    return loss + (wrap - wrap.detach())


@torch.no_grad()
def summed_loss(model: RWKV7, tokens: Tensor, targets: Tensor) -> tuple[float, int]:
    """Summed cross-entropy of the learned targets, and their number."""
    learned = targets != IGNORED
    logits = model.head(model.hidden(tokens)[0][learned]).float()
    total = F.cross_entropy(logits, targets[learned], reduction="sum")
    return float(total), int(learned.sum())
