"""What this device can do at best: bytes and products a second, measured, as the floor beside a time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

SIZES = {"cpu": (1 << 24, 1024), "cuda": (1 << 28, 8192)}  # elements copied, width of the matrices
ROUNDS = 7


@dataclass(frozen=True)
class Floor:
    """`name` of the device; bytes a second of a copy (read and written); products' FLOPs a second."""

    name: str
    bytes_per_s: float
    flops_per_s: float


def measure(device: str, dtype: torch.dtype) -> Floor:
    elements, width = SIZES[device]
    x = torch.ones(elements, device=device)
    y = torch.empty_like(x)
    a = torch.randn(width, width, device=device, dtype=dtype)
    copied = _best(lambda: y.copy_(x), device)
    multiplied = _best(lambda: a @ a, device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Floor(name, 8 * elements / copied, 2 * width**3 / multiplied)


def _best(work, device: str) -> float:  # type: ignore[no-untyped-def]
    times = []
    for _ in range(ROUNDS):
        finish(device)
        begin = time.perf_counter()
        work()
        finish(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
