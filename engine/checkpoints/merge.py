"""A base model and what was tuned beside it, made into one model file; a few tensors in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoints.adapter import Adapter, inject, read_adapter
from engine.checkpoints.inspect import inspect_model, inspect_state
from engine.checkpoints.save import load_tensors
from engine.checkpoints.stream import read_stream, write_stream
from engine.contract.errors import UserError
from engine.contract.reports import Merged, ModelInfo

HONOURED = {
    "x052": "The package rwkv and Ai00 begin with a merged state.",
    "x060": "The package rwkv and Ai00 begin with a merged state.",
    "x070": "Ai00 begins with a merged state. The package rwkv (and RWKV Runner with it) does not read it in "
    "an x070 model, which there answers as the base does: give it the state file instead.",
}


def merge(
    base: Path,
    out: Path,
    *,
    state: Path | None = None,
    adapter: Path | None = None,
    alpha: float | None = None,
    init: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Writes base + state or base + adapter to `out`, in the base's number format.

    `alpha` and `init` are what an incumbent's LoRA or PiSSA file does not say, as for `read_adapter`.
    `progress` is told (tensors done, tensors in all). Raises UserError when `out` exists, when nothing is
    given to merge, and when it does not fit the base.
    """
    if (state is None) == (adapter is None):
        raise UserError("A merge takes a state or an adapter.", "Give one of --state and --adapter.")
    if out.exists():
        raise UserError(f"{out} exists already and was not touched.", "Choose another name.")
    info = inspect_model(base)
    if state is not None:
        changed = _with_state(base, info, state)
        notice = HONOURED[info.version]
    else:
        assert adapter is not None
        changed = _with_adapter(base, read_adapter(adapter, alpha, init))
        notice = "Every program that runs the base runs the merged model."
    write_stream(_counted(changed, len(load_tensors(base)), progress), out)
    merged = inspect_model(out)
    return Merged(path=str(out), version=merged.version, file_bytes=merged.file_bytes, notice=notice)


def _counted(
    tensors: Iterator[tuple[str, Tensor]], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, Tensor]]:
    for done, item in enumerate(tensors, 1):
        yield item
        if progress is not None:
            progress(min(done, total), total)


def _with_state(base: Path, info: ModelInfo, state: Path) -> Iterator[tuple[str, Tensor]]:
    found = inspect_state(state)
    if (found.n_layer, found.n_head, found.head_size, found.pre_ffn) != (
        info.n_layer, info.n_embd // info.head_size, info.head_size, info.pre_ffn
    ):  # fmt: skip
        raise UserError(
            f"{state} has {found.n_layer - found.pre_ffn} layers of {found.n_head} heads of "
            f"{found.head_size}, the model {info.n_layer - info.pre_ffn} of "
            f"{info.n_embd // info.head_size} of {info.head_size}.",
            "Use a state that was made for this model.",
        )
    states = load_tensors(state)

    def changed() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in read_stream(base):
            if name not in states:
                yield name, tensor
        yield from states.items()

    return changed()


def _with_adapter(base: Path, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    shapes = {name: t.shape for name, t in load_tensors(base).items()}
    targets = {f"{name}.weight": name for name in adapter.targets()}
    missing = sorted((targets.keys() | adapter.parts.keys()) - shapes.keys())
    if missing or not targets:
        what = f"it changes {missing[0]}, which the model has not" if missing else "it holds no tensors"
        raise UserError(f"The adapter matches nothing: {what}.", "Use the base model it was trained on.")
    foreign = next((n for n, t in adapter.parts.items() if t.shape != shapes[n]), None)
    if foreign is not None:
        raise UserError(f"The adapter's {foreign} does not fit the model.", "Use its own base model.")

    def changed() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in read_stream(base):
            if name in targets:
                yield name, merged_weight(targets[name], tensor, adapter)
            else:
                yield name, adapter.parts.get(name, tensor).to(tensor.dtype)

    return changed()


@torch.no_grad()
def merged_weight(name: str, weight: Tensor, adapter: Adapter) -> Tensor:
    """What peft makes of the weight [out, in] of the linear `name`, computed in fp32."""
    holder = nn.Module()
    place, _, leaf = name.rpartition(".")
    parent = holder
    for step in place.split(".") if place else ():
        parent.add_module(step, nn.Module())
        parent = parent.get_submodule(step)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.float().clone(), requires_grad=False)
    parent.add_module(leaf, linear)
    own = {key: t for key, t in adapter.tensors.items() if key.startswith(f"{name}.")}
    inject(holder, Adapter(adapter.config, own))
    layer: Any = parent.get_submodule(leaf)
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise UserError(
            f"The adapter holds values that are no numbers at {name}.", "Use an earlier one."
        ) from error
    merged: Tensor = layer.get_base_layer().weight
    return merged.to(weight.dtype)
