"""Full tuning: every weight is learned."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from engine.models.base import RWKV
from engine.tuning.base import Tuning

# The decays learn at twice the rate, as in the reference training code.
DOUBLE_RATE = (".att.w0",)


class FullTuning(Tuning):
    """Trains and saves the whole model."""

    def attach(self, model: RWKV) -> None:
        model.requires_grad_(True)

    def param_groups(self, model: RWKV, weight_decay: float) -> list[dict[str, Any]]:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in model.named_parameters():
            scale = 2.0 if name.endswith(DOUBLE_RATE) else 1.0
            decay = weight_decay if p.ndim == 2 and name.endswith(".weight") else 0.0
            groups.setdefault((scale, decay), []).append(p)
        return [{"params": ps, "lr_scale": scale, "weight_decay": decay}
                for (scale, decay), ps in groups.items()]  # fmt: skip

    def tensors(self, model: RWKV) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in model.named_parameters()}
