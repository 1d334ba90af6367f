"""Models and states in the form that Ai00 (web-rwkv) reads: safetensors, fp16, under that program's names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.header import read_header
from engine.checkpoints.inspect import inspect_model, inspect_state
from engine.checkpoints.save import whole_file
from engine.checkpoints.stream import read_stream
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.reports import Exported

RENAMED = (("time_faaaa", "time_first"), ("time_maa", "time_mix"))
TURNED = re.compile(r"\.att\.(time_state|time_mix_w[12]|time_decay_w[12]|[wavg][12])$")
"""Those of the new names whose last two dimensions are exchanged there."""


def export(
    source: Path, out: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Exported:
    """Writes the model or the state of a .pth file to `out`, a tensor at a time.

    `progress` is told (tensors done, tensors in all). Raises UserError when `out` exists or cannot be
    written, for a file that is neither, and for a value beyond what fp16 holds.
    """
    if out.suffix != ".st":
        raise UserError(
            _("Ai00 reads files that end in .st, and {out} does not.", out=out.name), _("Name it so.")
        )
    if out.exists():
        raise UserError(_("{out} exists already and was not touched.", out=out), _("Choose another name."))
    shapes = {name: info.shape for name, info in read_header(source).items()}
    state = all(name.endswith(".time_state") for name in shapes)
    if state:
        inspect_state(source)
    else:
        inspect_model(source)
    described, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        new = renamed(name)
        described[new] = {"dtype": "F16", "shape": _turned(new, shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(described).encode()
    head += b" " * (-len(head) % 8)
    with whole_file(out) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for done, (name, tensor) in enumerate(read_stream(source), 1):
            file.write(_halved(name, tensor).view(torch.uint8).numpy().data)
            progress(done, len(shapes))
    return Exported(path=str(out), kind="state" if state else "model", file_bytes=out.stat().st_size)


def renamed(name: str) -> str:
    """What a tensor is called there."""
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name.lower()


def _turned(new: str, shape: tuple[int, ...]) -> list[int]:
    return [*shape[:-2], shape[-1], shape[-2]] if TURNED.search(new) else list(shape)


def _halved(name: str, tensor: Tensor) -> Tensor:
    """The tensor as it is written: flat, fp16."""
    half = (tensor.mT if TURNED.search(renamed(name)) else tensor).to(torch.float16).contiguous()
    if not half.isfinite().all():
        raise UserError(
            _("{name} holds values that fp16 cannot, so Ai00 could not use it.", name=name),
            _("Take an earlier file, or tune with a lower rate."),
        )
    return half.view(-1)
