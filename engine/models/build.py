"""From files to a model that runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.inspect import inspect_model
from engine.checkpoints.save import load_state_file, load_tensors
from engine.contract.errors import UserError
from engine.models.base import RWKV
from engine.models.v5 import RWKV5
from engine.models.v6 import RWKV6
from engine.models.v7 import RWKV7
from engine.ops.registry import select_for

MODELS: dict[str, type[RWKV]] = {"x052": RWKV5, "x060": RWKV6, "x070": RWKV7}


def load_model(
    path: str | Path,
    state: str | Path | Mapping[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    op: str = "auto",
) -> RWKV:
    """The model of a .pth file, in eval mode; weights in `dtype`, states always in fp32.

    The file is memory-mapped: weights that are already in `dtype` take no memory of their own on the
    CPU. `state` is a state file or its tensors (`blocks.i.att.time_state` [H, N, N]). Raises UserError
    for a file that is no such model and for a foreign state.
    """
    info = inspect_model(path)
    device = torch.device(device)
    tensors = {
        name: t.to(device, torch.float32 if name.endswith("time_state") else dtype)
        for name, t in load_tensors(Path(path)).items()
    }
    model = MODELS[info.version](tensors, select_for(info.version, op, device.type).function).eval()
    if state is not None:
        set_state(model, state if isinstance(state, Mapping) else load_state_file(Path(state)))
    return model


def set_state(model: RWKV, tensors: Mapping[str, Tensor]) -> None:
    """Makes a state file's tensors the model's initial state.

    Raises UserError, naming both shapes, when the state belongs to another model.
    """
    mixers = model.time_mixers()
    shape = (model.n_head, model.head_size, model.head_size)
    wanted: dict[str, tuple[int, ...]] = {f"blocks.{i}.att.time_state": shape for i in range(len(mixers))}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if given != wanted:
        raise UserError(
            f"The state has {_spell(given)}, the model needs {_spell(wanted)}.",
            "Use a state that was made for this model.",
        )
    device = model.emb.weight.device
    for mixer, name in zip(mixers, wanted, strict=True):
        mixer.time_state = torch.nn.Parameter(tensors[name].detach().to(device, torch.float32, copy=True))


def _spell(shapes: dict[str, tuple[int, ...]]) -> str:
    kinds = sorted({"x".join(map(str, shape)) for shape in shapes.values()})
    return f"{len(shapes)} layers of {' and '.join(kinds)}"
