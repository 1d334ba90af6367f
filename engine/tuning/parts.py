"""Which parameters learn, how fast, and in which precision."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.models.base import RWKV

# A name is one that `names` gives. `time` are the vectors and low-rank matrices beside the linears.
PARTS = {
    "emb": r"emb\.weight",
    "head": r"head(_[qk])?\.weight",
    "time": r"blocks\.\d+\.(att|ffn|ffnPre)\.(?!time_state$)\w+",
    "ln": r"(blocks\.\d+\.(ln\d|att\.ln_x)|ln_out)\.(weight|bias)",
}
RATES = {"time_decay": 2.0, "w0": 2.0, "time_first": 3.0, "time_faaaa": 3.0}


def names(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters by the names of its checkpoint, also where `keep_wide` renamed them."""
    return {_plain(name): p for name, p in model.named_parameters()}


def _plain(name: str) -> str:
    return re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", name)


def train_parts(model: RWKV, parts: Iterable[str]) -> None:
    """Makes the named parts (`PARTS`) trainable, in at least fp32."""
    wanted = "|".join(f"({PARTS[part]})" for part in parts)
    if wanted:
        keep_wide(model, [name for name in names(model) if re.fullmatch(wanted, name)])


def keep_wide(model: RWKV, chosen: Iterable[str]) -> None:
    """Makes parameters trainable and keeps those of 16 bits in fp32, for steps of a small rate would
    vanish in theirs. The model goes on computing with what they are in its own type."""
    for name in chosen:
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        parameter = getattr(module, leaf)
        if parametrize.is_parametrized(module, leaf):
            continue
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter = nn.Parameter(parameter.detach().float())
            setattr(module, leaf, parameter)
            if model.dtype in (torch.bfloat16, torch.float16):
                parametrize.register_parametrization(module, leaf, _Narrow(model.dtype), unsafe=True)
                parameter = module.parametrizations[leaf].original  # type: ignore[union-attr, index]
        parameter.requires_grad_(True)


class _Narrow(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, wide: Tensor) -> Tensor:
        return wide.to(self.dtype)

    def right_inverse(self, given: Tensor) -> Tensor:
        return given


def value(model: nn.Module, name: str) -> Tensor:
    """What the model computes with under a checkpoint's name."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if parametrize.is_parametrized(module, leaf):
        # Not by its call: to the hooks of DeepSpeed that is a step, in which all processes must take part.
        kept: Any = module.parametrizations[leaf]  # type: ignore[index]
        narrow: Tensor = kept[0].forward(kept.original.detach())
        return narrow
    found: Tensor = getattr(module, leaf).detach()
    return found


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of what is trainable: `RATES`, and decay for the matrices of linears only."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in names(model).items():
        if p.requires_grad:
            scale = RATES.get(name.rpartition(".")[2], 1.0)
            decay = weight_decay if p.ndim == 2 and is_matrix(name) else 0.0
            groups.setdefault((scale, decay), []).append(p)
    return [{"params": ps, "lr_scale": scale, "weight_decay": decay} for (scale, decay), ps in groups.items()]


def is_matrix(name: str) -> bool:
    """Whether a 2-D parameter of this name is a linear's or an adapter's."""
    return name.endswith(".weight") or ".miss_block." in name
