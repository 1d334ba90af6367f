"""What every tuning method does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from engine.models.base import RWKV


class Tuning(ABC):
    """A method of tuning. `attach` comes first; the rest speaks of the attached model."""

    @abstractmethod
    def attach(self, model: RWKV) -> None:
        """Freezes what is not trained and adds what is."""

    @abstractmethod
    def param_groups(self, model: RWKV, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups of the trainable parameters; `lr_scale` multiplies the learning rate."""

    @abstractmethod
    def tensors(self, model: RWKV) -> dict[str, Tensor]:
        """What a checkpoint holds, under the keys that other programs expect."""


def trainable(model: RWKV) -> list[nn.Parameter]:
    """The parameters that have gradients."""
    return [p for p in model.parameters() if p.requires_grad]
