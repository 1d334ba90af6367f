"""Triton kernels in Triton's interpreter, on the CPU: prints how far each case is off, as JSON.

    python -m tests.ops.interpreted triton|fla

A program of its own, because the interpreter must be chosen before Triton is first imported.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import autotuner, interpreter

from engine.ops import tiles
from tests.ops.cases import FLA_CASES, KERNEL_CASES, errors, make, operator

COUNTING = (
    "rwkv6.chunk",
    "common.chunk_h",
    *(f"generalized_delta_rule.dplr.chunk_h_{x}" for x in ("fwd", "bwd")),
)


def main() -> None:
    """The errors of each case; of ours also what comes of a backward pass that only the state needs."""
    name = sys.argv[1]
    _mend_bf16()
    if name == "fla":
        _mend_fla()
    _poison()
    found = []
    for i, (recurrence, dtype, shape, options) in enumerate(FLA_CASES if name == "fla" else KERNEL_CASES):
        tiles.BUSY = 1 if i % 2 else 128  # states whole and in parts, by turns
        pair = operator(name, recurrence), operator("reference", recurrence)
        inputs = make(recurrence, *shape, **options)
        found.append(errors(*pair, recurrence, inputs, getattr(torch, dtype)))
    state = {} if name == "fla" else {name: _state_only(name) for name in ("wkv6", "wkv7")}
    print(json.dumps({"cases": found, "state": state}))


def _state_only(recurrence: str) -> float:
    """How far the state's gradient is off where it is the only one."""
    grads = []
    for name, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        *inputs, state = (x.to(dtype) for x in make(recurrence, 2, 37, 1, 16))
        y, _ = operator(name, recurrence)(*inputs, state.requires_grad_())
        grads.append(torch.autograd.grad(y.square().sum(), state)[0].double())
    return float((grads[0] - grads[1]).norm() / grads[1].norm())


def _mend_bf16() -> None:
    """The interpreter keeps bf16 as 16-bit integers and would multiply those."""
    dot = interpreter.InterpreterBuilder.create_dot

    def wide(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, wide(a), wide(b), *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def _mend_fla() -> None:
    """Its kernels have several configurations, of which the interpreter can time none: the first is taken.
    They convert the counters of their loops, which in the interpreter are Python's numbers."""
    autotuner.Autotuner._bench = lambda *_, **__: [0.0] * 3
    for name in COUNTING:
        vars(importlib.import_module(f"fla.ops.{name}"))["range"] = _counted


def _counted(*bounds: Any) -> Iterator[tl.tensor]:
    for i in builtins.range(*(int(getattr(bound, "value", bound)) for bound in bounds)):
        yield tl.tensor(interpreter.TensorHandle(np.array([i], np.int32), tl.int32), tl.int32)


def _poison() -> None:
    """Memory that nothing was written to is NaN, so that nobody can read it unnoticed."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    torch.empty_like = lambda *a, **k: empty_like(*a, **k).fill_(float("nan"))
    Tensor.new_empty = lambda *a, **k: new_empty(*a, **k).fill_(float("nan"))  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
