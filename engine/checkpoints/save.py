"""Reading and writing whole files of tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.inspect import inspect_state
from engine.contract.errors import UserError


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a .pth file that is either whole or not there at all, even when the machine stops.

    Raises UserError when it cannot be written; a file of that name is then as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    # A view would take its whole storage along.
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(own, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise UserError(
            f"Cannot write {path} ({reason}).", "Free some space or choose another folder."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file, memory-mapped: nothing is read before it is used. Runs no code."""
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return tensors


def load_state_file(path: Path) -> dict[str, Tensor]:
    """A state file's tensors `blocks.i.att.time_state` [H, N, N]. Raises UserError when it is none."""
    inspect_state(path)
    return load_tensors(path)
