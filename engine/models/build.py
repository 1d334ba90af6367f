"""From files to a model that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.adapter import Adapter, inject, read_adapter, set_parts
from engine.checkpoints.inspect import inspect_model
from engine.checkpoints.save import load_state_file, load_tensors
from engine.checkpoints.stream import read_stream
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.models.base import RWKV
from engine.models.v5 import RWKV5
from engine.models.v6 import RWKV6
from engine.models.v7 import RWKV7
from engine.ops.choice import choose
from engine.ops.registry import Need, Selected, recurrence_of
from engine.quant import QuantLinear, is_linear_weight, put_linear

MODELS: dict[str, type[RWKV]] = {"x052": RWKV5, "x060": RWKV6, "x070": RWKV7}


def load_model(
    path: str | Path,
    state: str | Path | Mapping[str, Tensor] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    op: str | Selected = "auto",
    *,
    adapter: str | Path | Adapter | None = None,
    quant: str = "none",
    host_emb: bool = False,
    adjust: Callable[[str, Tensor], Tensor] | None = None,
    cache: Path | None = None,
) -> RWKV:
    """The model of a .pth file, in eval mode; weights in `dtype`, states always in fp32.

    The file is memory-mapped: weights that are already in `dtype` take no memory of their own on the
    CPU. `state` is a state file or its tensors (`blocks.i.att.time_state` [H, N, N]), `adapter` an
    adapter's folder or file. `quant` (int8, nf4) packs the layers' linears one by one as they are read, and
    keeps embedding and head as narrow as the file has them; `adjust` may change each linear, by its name,
    before it is packed. With `host_emb` the embedding stays on the CPU, see `HostEmbedding`. `cache` is the
    folder where it is remembered which operators work.
    Raises UserError for a file that is no such model and for a foreign state or adapter.
    """
    info = inspect_model(path)
    device = torch.device(device)
    adjust = adjust or (lambda name, weight: weight)

    def places(name: str) -> torch.device:
        return torch.device("cpu") if host_emb and name == "emb.weight" else device

    linears: dict[str, QuantLinear] = {}
    if quant == "none":
        tensors = _load(Path(path), places, device, dtype, adjust)
    else:
        tensors, linears = _load_packed(Path(path), places, device, dtype, quant, adjust)
    if isinstance(op, str):
        heads = info.n_embd // info.head_size
        op = choose(op, Need(recurrence_of(info.version), device.type, dtype, heads, info.head_size), cache)
    model = MODELS[info.version](tensors, op.function, op.parts).eval()
    for name, linear in linears.items():
        put_linear(model, name, linear)
    if adapter is not None:
        _set_adapter(model, adapter if isinstance(adapter, Adapter) else read_adapter(Path(adapter)))
    if state is not None:
        set_state(model, state if isinstance(state, Mapping) else load_state_file(Path(state)))
    return model


def _load(
    path: Path, places: Callable[[str], torch.device], device: torch.device, dtype: torch.dtype,
    adjust: Callable[[str, Tensor], Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """The tensors as they are computed with, one by one."""
    found = {}
    for name, t in read_stream(path) if device.type == "cuda" else load_tensors(path).items():
        there = t.to(places(name))
        found[name] = (adjust(name, there) if is_linear_weight(name) else there).to(_kept(name, dtype))
    return found


def _kept(name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if name.endswith("time_state") else dtype


@torch.no_grad()
def _load_packed(
    path: Path,
    places: Callable[[str], torch.device],
    device: torch.device,
    dtype: torch.dtype,
    quant: str,
    adjust: Callable[[str, Tensor], Tensor],
) -> tuple[dict[str, Tensor], dict[str, QuantLinear]]:
    """The tensors, without values where a linear of the second dictionary takes their place."""
    tensors: dict[str, Tensor] = {}
    linears: dict[str, QuantLinear] = {}
    for name, t in load_tensors(path).items():  # only shapes: nothing is read yet
        packed = is_linear_weight(name)
        kept = _kept(name, dtype)
        if name in ("emb.weight", "head.weight") and torch.promote_types(t.dtype, dtype) == dtype:
            kept = t.dtype  # widened when used: they are a large part of a small model
        tensors[name] = torch.empty(t.shape, dtype=kept, device="meta" if packed else places(name))
        if packed:
            linears[name.removesuffix(".weight")] = QuantLinear(t.shape, quant, dtype, device)
    for name, t in read_stream(path):
        if is_linear_weight(name):
            linears[name.removesuffix(".weight")].pack(adjust(name, t.to(device)))
        else:
            tensors[name].copy_(t)
    return tensors, linears


def _set_adapter(model: RWKV, adapter: Adapter) -> None:
    model.requires_grad_(False)
    inject(model, adapter)
    set_parts(model, adapter.parts, model.dtype)
    model.requires_grad_(True).eval()


def set_state(model: RWKV, tensors: Mapping[str, Tensor]) -> None:
    """Makes a state file's tensors the model's initial state.

    Raises UserError, naming both shapes, when the state belongs to another model.
    """
    mixers = model.time_mixers()
    shape = (model.n_head, model.head_size, model.head_size)
    layers = range(model.n_layer - len(mixers), model.n_layer)
    wanted: dict[str, tuple[int, ...]] = {f"blocks.{i}.att.time_state": shape for i in layers}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if given != wanted:
        raise UserError(
            _("The state has {given}, the model needs {wanted}.", given=_spell(given), wanted=_spell(wanted)),
            _("Use a state that was made for this model."),
        )
    device = model.device
    for mixer, name in zip(mixers, wanted, strict=True):
        mixer.time_state = torch.nn.Parameter(tensors[name].detach().to(device, torch.float32, copy=True))


def _spell(shapes: dict[str, tuple[int, ...]]) -> str:
    kinds = sorted({"x".join(map(str, shape)) for shape in shapes.values()})
    return _("{n} layers of {kinds}", n=len(shapes), kinds=_(" and ").join(kinds))
