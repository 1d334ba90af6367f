"""What the training stack can do here: imports what a run would, and reports instead of failing."""

from __future__ import annotations

import importlib
import importlib.metadata
import time

from engine.contract.errors import UserError
from engine.contract.settings import TrainSettings
from engine.packages import require

REQUIRED = ("torch", "pytorch_lightning", "numpy", "pyrwkv_tokenizer")


def diagnose() -> dict[str, object]:
    """`packages`: per package version, seconds to import or the error; `torch`: devices and threads;
    `operators`: per recurrence and operator why it does not work here, "" when it does; `optional`: of
    packages that only some settings need version or what is wrong, with the way without."""
    packages = {name: _try(name) for name in REQUIRED}
    if "error" in packages["torch"]:
        return {"packages": packages, "torch": {}, "operators": {}, "optional": {}}
    return {"packages": packages, "torch": _torch(), "operators": _operators(), "optional": _optional()}


def _try(name: str) -> dict[str, object]:
    began = time.monotonic()
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation may raise anything
        return {"error": f"{type(error).__name__}: {error}"}
    return {"version": importlib.metadata.version(name), "seconds": round(time.monotonic() - began, 2)}


def _torch() -> dict[str, object]:
    import torch

    from engine.gpu import why_unused

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    return {
        "cuda": torch.version.cuda, "gpus": gpus, "unused": why_unused(), "threads": torch.get_num_threads(),
    }  # fmt: skip


def _operators() -> dict[str, dict[str, str]]:
    """For heads of 64 in bf16 on the GPU, where there is one."""
    import torch

    from engine.ops.registry import USABLE, Need, why_not

    device = "cuda" if torch.cuda.is_available() else "cpu"
    needs = {name: Need(name, device, torch.bfloat16, heads=1, width=64) for name in ("wkv6", "wkv7")}
    return {name: {op: why_not(op, need) for op in USABLE} for name, need in needs.items()}


def _optional() -> dict[str, dict[str, str]]:
    import torch

    from engine.train.group import Group
    from engine.train.strategy import spread_for

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sharded = spread_for(TrainSettings(strategy="deepspeed_stage_1"), Group(), device)
    found = {}
    for name, load in (
        ("bitsandbytes", lambda: require("bitsandbytes.functional")),
        ("peft", lambda: require("peft")),
        ("deepspeed", sharded.check),
    ):
        try:
            load()
            found[name] = {"version": importlib.metadata.version(name)}
        except UserError as error:
            found[name] = {"error": error.message, "remedy": error.remedy}
    return found
