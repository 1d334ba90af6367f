"""Reading and writing whole files of tensors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from engine.checkpoints.inspect import inspect_state
from engine.contract.errors import UserError, first_line
from engine.contract.i18n import _


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a .pth file that is either whole or not there at all, even when the machine stops.

    Raises UserError when it cannot be written; a file of that name is then as it was.
    """
    save_document({name: owned(t.detach().cpu()) for name, t in tensors.items()}, path)


def save_document(document: object, path: Path) -> None:
    """As `save_tensors`, for nested dictionaries and lists of tensors and plain values."""
    with whole_file(path) as file:
        torch.save(document, file)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its place only when the block ends well, and is on the disk by then.

    Raises UserError when it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        # torch closes its archive after a failed write and raises an error of its own on top.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        raise UserError(
            _("Cannot write {path} ({reason}).", path=path, reason=reason),
            _("Free some space or choose another folder."),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def owned(tensor: Tensor) -> Tensor:
    """A view is copied: torch.save would write the whole storage it looks at."""
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.is_contiguous()
    return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file, memory-mapped: nothing is read before it is used. Runs no code.

    Raises UserError when it is damaged.
    """
    try:
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises whatever its reading of a damaged file came upon
        raise UserError(
            _("{path} is damaged ({error}).", path=path, error=first_line(error)),
            _("Download or copy it again."),
        ) from error
    return tensors


def load_state_file(path: Path) -> dict[str, Tensor]:
    """A state file's tensors `blocks.i.att.time_state` [H, N, N]. Raises UserError when it is none."""
    inspect_state(path)
    return load_tensors(path)
