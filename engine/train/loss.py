"""The training loss."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
L2WRAP = 1e-4


class LanguageModel(Protocol):
    """What training and evaluation need of a model."""

    def hidden(self, tokens: Tensor) -> Tensor: ...
    def logits(self, hidden: Tensor) -> Tensor: ...


def training_loss(model: LanguageModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the learned targets of a batch [B,T]; targets of -100 are not learned.

    The gradient, not the value, also holds L2Wrap: 1e-4 / (number of learned targets) * the largest
    logit, at each learned position's argmax. It keeps logits from growing without bound.
    A batch without a learned target gives 0.
    """
    learned = targets != IGNORED
    # Only learned positions meet the head: its [positions, V] logits are the largest tensor of a step.
    logits = model.logits(model.hidden(tokens)[learned]).float()
    count = max(logits.shape[0], 1)
    loss = F.cross_entropy(logits, targets[learned], reduction="sum") / count
    highest = logits.amax(dim=-1)
    wrap = (L2WRAP / count) * (highest.detach() * highest).sum()
    return loss + (wrap - wrap.detach())


@torch.no_grad()
def summed_loss(model: LanguageModel, tokens: Tensor, targets: Tensor) -> tuple[float, int]:
    """Summed cross-entropy of the learned targets, and their number."""
    learned = targets != IGNORED
    logits = model.logits(model.hidden(tokens)[learned]).float()
    total = F.cross_entropy(logits, targets[learned], reduction="sum")
    return float(total), int(learned.sum())
