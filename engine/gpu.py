"""What a GPU may refuse: to be used by torch at all, memory that others have, and memory in pieces."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

import torch

from engine.contract.errors import UserError, first_line
from engine.contract.i18n import _

TRIED = 1 << 23  # elements: more than what the allocator keeps small requests in


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


def join_memory() -> None:
    """Has torch join what is free of the GPU's memory: batches differ in length, and what one has given back
    is else too short for a longer one, though all of it were enough.

    Not where the person has set PYTORCH_ALLOC_CONF, nor where the driver refuses; under WSL it only seems to
    agree.
    """
    told = getattr(torch._C, "_accelerator_getAllocatorSettings", None)
    if told is None or told() or "microsoft" in platform.release().lower():
        return
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    try:
        torch.ones(TRIED, device="cuda").sum().item()
    except RuntimeError:
        torch._C._accelerator_setAllocatorSettings("expandable_segments:False")


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
