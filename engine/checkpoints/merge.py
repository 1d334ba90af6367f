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
from engine.contract.i18n import N_, _
from engine.contract.reports import Merged, ModelInfo

HONOURED = {
    "x052": N_("The package rwkv and Ai00 begin with a merged state."),
    "x060": N_("The package rwkv and Ai00 begin with a merged state."),
    "x070": N_(
        "Ai00 begins with a merged state. The package rwkv (and RWKV Runner with it) does "
        "not read it in an x070 model, which there answers as the base does: give it the "
        "state file instead."
    ),
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
        raise UserError(_("A merge takes a state or an adapter."), _("Give one of --state and --adapter."))
    if out.exists():
        raise UserError(_("{out} exists already and was not touched.", out=out), _("Choose another name."))
    info = inspect_model(base)
    if state is not None:
        changed = _with_state(base, info, state)
        notice = _(HONOURED[info.version])
    else:
        assert adapter is not None
        changed = _with_adapter(base, read_adapter(adapter, alpha, init))
        notice = _("Every program that runs the base runs the merged model.")
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
            _(
                "{state} has {n_layer} layers of {n_head} heads of {head_size}, the model {n_layer2} "
                "of {n_embd} of {head_size2}.",
                state=state,
                n_layer=found.n_layer - found.pre_ffn,
                n_head=found.n_head,
                head_size=found.head_size,
                n_layer2=info.n_layer - info.pre_ffn,
                n_embd=info.n_embd // info.head_size,
                head_size2=info.head_size,
            ),
            _("Use a state that was made for this model."),
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
        what = (
            _("it changes {missing}, which the model has not", missing=missing[0])
            if missing
            else _("it holds no tensors")
        )
        raise UserError(
            _("The adapter matches nothing: {what}.", what=what), _("Use the base model it was trained on.")
        )
    foreign = next((n for n, t in adapter.parts.items() if t.shape != shapes[n]), None)
    if foreign is not None:
        raise UserError(
            _("The adapter's {foreign} does not fit the model.", foreign=foreign),
            _("Use its own base model."),
        )

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
    place, _dot, leaf = name.rpartition(".")
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
            _("The adapter holds values that are no numbers at {name}.", name=name), _("Use an earlier one.")
        ) from error
    merged: Tensor = layer.get_base_layer().weight
    return merged.to(weight.dtype)
