"""What this release's engine can do, of all that the settings can say.

A setting outside this table is refused by name before anything starts; a release that learns
a new version, method or format widens the table and nothing else.
"""

from __future__ import annotations

from engine.contract.errors import Problem
from engine.contract.settings import TrainSettings

SUPPORTED: dict[str, tuple[object, ...]] = {
    "data_type": ("binidx", "jsonl", "utf-8", "utf-16le", "numpy", "uint16", "dummy"),
    "my_testing": ("auto", "x052", "x060", "x070"),
    "train_type": ("auto", "none", "state", "infctx"),
    "peft": ("none", "state", "lora", "pissa", "miss"),
    "quant": ("none", "int8", "nf4"),
}

REASONS = {
    ("data_type", "wds_img"): "images are not text: rwkv-tune trains language models only",
}


def unsupported(settings: TrainSettings) -> list[Problem]:
    """A problem for each setting this release's engine cannot honour."""
    problems = []
    for name, allowed in SUPPORTED.items():
        value = getattr(settings, name)
        if value in allowed:
            continue
        reason = REASONS.get((name, value) if isinstance(value, str) else (name, ""))
        choices = ", ".join(_spell(a) for a in allowed)
        said = reason or f"{_spell(value)} is not available in this release"
        problems.append(Problem(name, f"{said}; use {choices}"))
    return problems


def _spell(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return "nothing" if value in ("", {}) else str(value)
