"""What the training stack can do here: imports what a run would, and reports instead of failing."""

from __future__ import annotations

import importlib
import importlib.metadata
import time

REQUIRED = ("torch", "pytorch_lightning", "numpy", "pyrwkv_tokenizer")


def diagnose() -> dict[str, object]:
    """`packages`: per package version, seconds to import or the error; `torch`: devices and threads."""
    packages = {name: _try(name) for name in REQUIRED}
    return {"packages": packages, "torch": _torch() if "error" not in packages["torch"] else {}}


def _try(name: str) -> dict[str, object]:
    began = time.monotonic()
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation may raise anything
        return {"error": f"{type(error).__name__}: {error}"}
    return {"version": importlib.metadata.version(name), "seconds": round(time.monotonic() - began, 2)}


def _torch() -> dict[str, object]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cuda": torch.version.cuda, "gpus": gpus, "threads": torch.get_num_threads()}
