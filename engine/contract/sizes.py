"""Published model sizes and what they need to tune a state.

Sources: the tutorial's table (RWKV-6: ctx 1024, micro_bsz 1, deepspeed_stage_1) and the project
wiki's (RWKV-7: bf16 instead of fp16). GB as published; sizes nobody published are absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quant = Literal["fp16", "int8", "nf4"]
Fit = Literal["fits", "tight", "too big"]  # unsaid
QUANTS: tuple[Quant, ...] = ("fp16", "int8", "nf4")


@dataclass(frozen=True)
class ModelSize:
    """A released size; `vram` maps a version to its published GB per weight format."""

    name: str
    n_layer: int
    n_embd: int
    vram: dict[str, dict[Quant, float]]


def _row(fp16: float, int8: float, nf4: float) -> dict[Quant, float]:
    return {"fp16": fp16, "int8": int8, "nf4": nf4}


SIZES: tuple[ModelSize, ...] = (
    ModelSize("0.1B", 12, 768, {"x070": _row(2.6, 2.4, 2.5)}),
    ModelSize("0.4B", 24, 1024, {"x070": _row(3.1, 2.9, 2.8)}),
    ModelSize("1.5B", 24, 2048, {"x060": _row(5.8, 4.5, 3.9), "x070": _row(5.3, 4.1, 3.7)}),
    ModelSize("3B", 32, 2560, {"x060": _row(8.7, 6.2, 4.9), "x070": _row(8.2, 5.7, 4.7)}),
    ModelSize("7B", 32, 4096, {"x060": _row(17.8, 11.9, 8.5)}),
    ModelSize("14B", 61, 4096, {}),
)


def size_name(n_layer: int, n_embd: int, parameters: int) -> str:
    """The released size of these dimensions, else the number of parameters ("3.4M")."""
    for size in SIZES:
        if (size.n_layer, size.n_embd) == (n_layer, n_embd):
            return size.name
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= scale:
            return f"{parameters / scale:.3g}{unit}"
    return str(parameters)


def fit(needed_gb: float, total_bytes: int) -> Fit:
    """Whether a run of `needed_gb` (published, GB) fits a device: tight is above 90 % of its memory."""
    share = needed_gb * 1e9 / total_bytes
    if share > 1:
        return "too big"  # unsaid
    return "tight" if share > 0.9 else "fits"
