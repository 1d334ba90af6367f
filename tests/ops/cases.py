"""Inputs for the recurrences and how well an operator does with them; shared by the operators' tests."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

NAMES = {
    "wkv6": ("y", "last", "r", "log_w", "k", "v", "u", "state"),
    "wkv7": ("y", "last", "r", "log_w", "k", "v", "a", "b", "state"),
}
STRONGEST = -0.6065  # RWKV-7's log_w
Operator = Callable[..., "tuple[Tensor, Tensor]"]
Decay = Callable[[Tensor], Tensor]

# Of normal noise, log_w: RWKV-6's may be anything that is finite.
DECAYS: dict[str, Decay] = {
    "usual": lambda noise: -torch.exp(noise - 1.5),
    "wild": lambda noise: -torch.exp(4 * noise),  # from none to all within a few steps
    "wilder": lambda noise: -torch.exp(8 * noise),
    "some at once": lambda noise: torch.where(noise > 1, -4.8e8, -1e-3).to(noise.dtype),
    "slow": lambda noise: -torch.exp(noise - 9),
    "none": torch.zeros_like,
    "fast": lambda noise: torch.full_like(noise, -20.0),
}
DECAYS7: dict[str, Decay] = {
    "usual": lambda noise: STRONGEST * torch.sigmoid(3 * noise),
    "strongest": lambda noise: torch.full_like(noise, STRONGEST),
    "slow": lambda noise: torch.full_like(noise, -1e-9),
    "none": torch.zeros_like,
}

# Recurrence, type, shape, options: odd lengths, every head size, the decays of trained models and worse.
KERNEL_CASES: list[tuple[str, str, tuple[int, int, int, int], dict[str, Any]]] = [
    ("wkv7", "float32", (2, 37, 2, 16), {}),
    ("wkv7", "float32", (1, 50, 1, 64), {"decay": "strongest"}),
    ("wkv7", "float32", (1, 33, 1, 32), {"decay": "none", "same_keys": True}),
    ("wkv7", "float32", (1, 1, 1, 16), {"decay": "slow"}),
    ("wkv7", "bfloat16", (1, 70, 1, 64), {}),
    ("wkv7", "float16", (2, 40, 1, 32), {}),
    ("wkv6", "float32", (2, 37, 2, 16), {}),
    ("wkv6", "float32", (1, 20, 1, 64), {"decay": "wild"}),
    ("wkv6", "float32", (1, 33, 1, 32), {"decay": "some at once"}),
    ("wkv6", "float32", (1, 33, 1, 16), {"decay": "fast"}),
    ("wkv6", "float32", (1, 1, 1, 16), {"decay": "none"}),
    ("wkv6", "bfloat16", (1, 40, 1, 64), {"decay": "wild"}),
    ("wkv6", "float16", (2, 20, 1, 32), {}),
]
# Longer than one of its chunks of 64; its kernels are others' to test, how we call them is ours.
FLA_CASES: list[tuple[str, str, tuple[int, int, int, int], dict[str, Any]]] = [
    ("wkv7", "float32", (2, 70, 2, 64), {}),
    ("wkv7", "float16", (1, 70, 1, 64), {"decay": "strongest"}),
    ("wkv6", "float32", (2, 70, 2, 32), {"decay": "some at once"}),
    ("wkv6", "float16", (1, 70, 1, 64), {"decay": "wild"}),
]
LIMITS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 4e-2}


def operator(name: str, recurrence: str) -> Any:
    """An operator's function, also where it is not usable."""
    return getattr(importlib.import_module(f"engine.ops.{recurrence}.{name}"), f"{recurrence}_{name}")


def make6(batch: int, steps: int, heads: int, width: int, decay: str = "usual") -> list[Tensor]:
    """Float64 inputs of wkv6."""
    normal = _normal(steps)
    shape = (batch, steps, heads, width)
    state = normal(batch, heads, width, width)
    r, w, k, v = (normal(*shape) for _ in range(4))
    return [r, DECAYS[decay](w), k, v, normal(heads, width), state]


def make7(
    batch: int, steps: int, heads: int, width: int, decay: str = "usual", *, same_keys: bool = False
) -> list[Tensor]:
    """Float64 inputs of wkv7; `same_keys` makes the triangular system as bad as it gets."""
    normal = _normal(steps)
    shape = (batch, steps, heads, width)
    kk = torch.nn.functional.normalize(normal(*shape), dim=-1)
    if same_keys:
        kk = kk[:, :1].expand(shape).clone()
    log_w = DECAYS7[decay](normal(*shape))
    iclr = torch.ones_like(kk) if same_keys else torch.sigmoid(normal(*shape))
    state = normal(batch, heads, width, width)
    return [normal(*shape), log_w, normal(*shape), normal(*shape), -kk, kk * iclr, state]


def make(recurrence: str, *shape: Any, **options: Any) -> list[Tensor]:
    return (make6 if recurrence == "wkv6" else make7)(*shape, **options)


def _normal(seed: int) -> Callable[..., Tensor]:
    random = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)


def run(operator: Operator, inputs: list[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """The outputs, then the gradient of every input, of a loss that weighs all outputs unevenly."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    outputs = operator(*leaves)
    loss = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
    for out in outputs:
        weights = torch.linspace(-1, 2, out.numel(), dtype=torch.float64, device=out.device)
        loss = loss + (out.double() * weights.view_as(out)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    yield from (out.detach() for out in outputs)
    for leaf in leaves:
        assert leaf.grad is not None
        yield leaf.grad


def relative(found: Tensor, right: Tensor) -> float:
    """Root mean square of the error, relative to the right values'."""
    return float((found.double().cpu() - right.cpu()).norm() / right.cpu().norm())


def errors(
    operator: Operator, reference: Operator, recurrence: str, inputs: list[Tensor], dtype: torch.dtype
) -> dict[str, float]:
    """The relative error of each result, for inputs as they are in `dtype`, against float64."""
    given = [x.to(dtype).double() for x in inputs]
    pairs = zip(run(operator, given, dtype), run(reference, given, torch.float64), strict=True)
    return {name: relative(*pair) for name, pair in zip(NAMES[recurrence], pairs, strict=True)}
