"""The Triton kernels in Triton's interpreter, on the CPU: prints how far each case is off, as JSON.

A program of its own, because the interpreter must be chosen before Triton is first imported.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from tests.ops.cases import KERNEL_CASES, errors, make, operator


def main() -> None:
    """The errors of each case; then what comes of a backward pass that only the state needs."""
    _mend_bf16()
    _poison()
    found = []
    for recurrence, dtype, shape, options in KERNEL_CASES:
        triton, reference = (operator(name, recurrence) for name in ("triton", "reference"))
        inputs = make(recurrence, *shape, **options)
        found.append(errors(triton, reference, recurrence, inputs, getattr(torch, dtype)))
    print(json.dumps({"cases": found, "state": {name: _state_only(name) for name in ("wkv6", "wkv7")}}))


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


def _poison() -> None:
    """Memory that nothing was written to is NaN, so that nobody can read it unnoticed."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    torch.empty_like = lambda *a, **k: empty_like(*a, **k).fill_(float("nan"))
    Tensor.new_empty = lambda *a, **k: new_empty(*a, **k).fill_(float("nan"))  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
