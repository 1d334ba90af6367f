"""Full tuning: every weight is learned."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from engine.models.base import RWKV
from engine.tuning.base import Tuning
from engine.tuning.parts import keep_wide, names, param_groups, value


class FullTuning(Tuning):
    """Trains and saves the whole model; weights of 16 bits are kept in fp32 while they learn."""

    def attach(self, model: RWKV) -> None:
        keep_wide(model, list(names(model)))

    def param_groups(self, model: RWKV, weight_decay: float) -> list[dict[str, Any]]:
        return param_groups(model, weight_decay)

    def tensors(self, model: RWKV) -> dict[str, Tensor]:
        return {name: value(model, name) for name in names(model)}
