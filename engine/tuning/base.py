"""What every tuning method does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoints.save import save_tensors
from engine.contract.errors import Diverged
from engine.contract.i18n import _
from engine.models.base import RWKV


class Tuning(ABC):
    """A method of tuning. `attach` comes first; the rest speaks of the attached model."""

    def adjust(self, name: str, weight: Tensor) -> Tensor:
        """What a linear's weight becomes while the model is loaded, before it may be packed."""
        return weight

    @abstractmethod
    def attach(self, model: RWKV) -> None:
        """Freezes what is not trained and adds what is."""

    @abstractmethod
    def param_groups(self, model: RWKV, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups of the trainable parameters; `lr_scale` multiplies the learning rate."""

    @abstractmethod
    def tensors(self, model: RWKV) -> dict[str, Tensor]:
        """What a checkpoint holds, under the keys that other programs expect."""

    def save(self, model: RWKV, path: Path) -> Path:
        """Writes what was trained into `path` (.pth) or beside it, and returns the file to name."""
        tensors = self.tensors(model)
        check_numbers(tensors)
        save_tensors(tensors, path)
        return path


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raises Diverged for values that are no numbers: what was saved before is better than they are."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise Diverged(
                _(
                    "Training has made values that are no numbers (in {name}); they were not saved.",
                    name=name,
                ),
                _("Lower lr_init, or lengthen warmup_steps; files saved before are intact."),
            )


def trainable(model: RWKV) -> list[nn.Parameter]:
    """The parameters that have gradients."""
    return [p for p in model.parameters() if p.requires_grad]
