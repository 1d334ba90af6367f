"""What a GPU may refuse: to be used by torch at all, and memory that others have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from engine.contract.errors import UserError, first_line
from engine.contract.i18n import _


class Full(UserError):
    """The GPU has less memory left than what is wanted."""

    cause = "memory"


@contextlib.contextmanager
def memory_told() -> Iterator[None]:
    """For jobs that use a model: out of memory is a `Full`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Full(
            _("The memory of the GPU is full: {error}.", error=first_line(error)),
            _(
                "A run or another program may have the rest of it (nvidia-smi names them): wait until it "
                "ends, pack the weights with --quant nf4, or take a smaller model."
            ),
        ) from error


def why_unused() -> str:
    """Why torch does not use the GPU that is here, as CUDA says it (an old driver, say); "" where there is
    none, where it is used, and where torch is a build for CPUs, which cannot know."""
    # Torch counts devices by the driver's word, and calls them available when CUDA has opened them.
    if torch.cuda.is_available() or not torch.cuda.device_count():
        return ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return ""
