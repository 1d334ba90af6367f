"""State tuning: the weights stay as they are, the initial state of every layer is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.models.base import RWKV
from engine.tuning.base import Tuning, trainable


class StateTuning(Tuning):
    """Trains `blocks.{i}.att.time_state` [H, N, N] in fp32, starting from zero or from a loaded state."""

    def attach(self, model: RWKV) -> None:
        model.requires_grad_(False)
        for att in model.time_mixers():
            if att.time_state is None:
                shape = (model.n_head, model.head_size, model.head_size)
                att.time_state = nn.Parameter(torch.zeros(shape, device=model.device))
            att.time_state.requires_grad_(True)

    def param_groups(self, model: RWKV, weight_decay: float) -> list[dict[str, Any]]:
        return [{"params": trainable(model), "lr_scale": 1.0, "weight_decay": 0.0}]

    def tensors(self, model: RWKV) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in model.named_parameters() if name.endswith(".time_state")}
