"""A GPU that the driver shows and that torch does not use."""

from __future__ import annotations

import torch

from engine.contract.errors import first_line


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
