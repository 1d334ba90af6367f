"""Triton kernels in Triton's interpreter, on the CPU: prints how far each case is off, as JSON.

    python -m tests.ops.interpreted triton|fla

A program of its own, because the interpreter must be chosen before Triton is first imported.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import builtins
import functools
import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import autotuner, interpreter

from engine.contract.settings import TrainSettings
from engine.models.build import MODELS
from engine.ops import tiles
from engine.ops.parts import TORCH, fused
from engine.ops.parts.fused import FusedParts
from engine.ops.parts.trial import Trial
from engine.ops.registry import Need, recurrence_of
from engine.train.loss import chunk_loss
from engine.tuning import tuning_for
from engine.tuning.base import trainable
from tests.fakes.weights import random_weights
from tests.ops.cases import FLA_CASES, KERNEL_CASES, errors, make, operator

COUNTING = (
    "rwkv6.chunk",
    "common.chunk_h",
    *(f"generalized_delta_rule.dplr.chunk_h_{x}" for x in ("fwd", "bwd")),
)


def main() -> None:
    """The errors of each case; of ours also what comes of a backward pass that only the state needs."""
    name = sys.argv[1]
    _mend_extremes()
    _mend_products(cut=name != "fla")  # which has its own ideas of how exact fp32 is
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
    told: dict[str, Any] = {"cases": found, "state": state}
    if name == "triton":
        told |= {
            "rounded": _rounded(),
            "nan": _nan(),
            "parts": _parts(),
            "models": {version: _model(version) for version in ("x060", "x070")},
        }
    print(json.dumps(told))


@triton.jit  # type: ignore[untyped-decorator]
def _round(x, out, N: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, N)
    tl.store(out + at, tiles.as_tf32(tl.load(x + at)))


def _rounded() -> list[int]:
    """Bits of numbers as tensor cores are given them: what is rounded up, down, infinite and none."""
    bits = torch.tensor([0x3F801000, 0x3F800FFF, 0x7F800000, 0x7FFFFFFF], dtype=torch.int32)
    out = torch.empty(4)
    _round[(1,)](bits.view(torch.float32), out, N=4)
    return out.view(torch.int32).tolist()


def _nan() -> list[bool]:
    """Whether the fused parts keep what is no number, which ends a run that computes it."""
    fused.BLOCK = 64
    trial, parts = Trial(Need("wkv7", "cpu", torch.float32, 2, 16, 1, 3)), FusedParts()
    x = torch.full((1, 3, 32), float("nan"), requires_grad=True)
    made = [parts.squared_relu(x), parts.decay6(trial.fixed[0], x), parts.mix(x, None, trial.fixed[:1])[0]]
    grads = torch.autograd.grad([z.sum() for z in made[:2]], [x])
    logits = torch.full((2, 50), float("nan"))
    loss, _ = parts.cross_entropy(logits, torch.zeros(2, dtype=torch.int64))
    return [bool(z.isnan().all()) for z in (*made, *grads, loss, logits)]


def _parts() -> list[float]:
    """How far each result of the fused parts is off, for two shapes."""
    fused.BLOCK = 64  # several programs for a row, the last of them not full
    off = []
    for shape in ((2, 7, 3, 32), (1, 1, 5, 16)):
        batch, steps, heads, width = shape
        trial = Trial(Need("wkv7", "cpu", torch.float32, heads, width, batch, steps))
        pairs = zip(trial.results(FusedParts()), trial.wide(torch.float64).results(TORCH), strict=True)
        off.append([float((f - r).norm() / r.norm()) for f, r in pairs])
    return [error for errors in off for error in errors]


def _model(version: str) -> list[float]:
    """How far a model's loss is off in the kernels' hands, and its gradients by the states; in two chunks."""
    tensors = random_weights(2, 48, 16, 100, version)
    recurrence, tokens = recurrence_of(version), torch.arange(10).view(2, 5) * 9
    made = []
    for op, parts in (("triton", FusedParts()), ("chunked", TORCH)):
        model = MODELS[version](tensors, operator(op, recurrence), parts).train()
        tuning = tuning_for(TrainSettings())
        tuning.attach(model)
        learning = trainable(model)
        for parameter in learning:
            parameter.data.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
        loss, carry = chunk_loss(model, tokens[:, :2], tokens[:, 1:3], 10, None)
        more, _ = chunk_loss(model, tokens[:, 2:], tokens[:, 2:], 10, carry)
        total = loss + more
        made.append([total.detach(), *torch.autograd.grad(total, learning)])
    return [float((f - r).norm() / r.norm()) for f, r in zip(*made, strict=True)]


def _state_only(recurrence: str) -> float:
    """How far the state's gradient is off where it is the only one."""
    grads = []
    for name, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        *inputs, state = (x.to(dtype) for x in make(recurrence, 2, 37, 1, 16))
        y, _ = operator(name, recurrence)(*inputs, state.requires_grad_())
        grads.append(torch.autograd.grad(y.square().sum(), state)[0].double())
    return float((grads[0] - grads[1]).norm() / grads[1].norm())


def _mend_products(cut: bool) -> None:
    """The interpreter keeps bf16 as 16-bit integers and would multiply those. With `cut` it takes of fp32
    what a GPU's tensor cores take where they multiply it as tf32."""
    dot = interpreter.InterpreterBuilder.create_dot

    def taken(x: Any, precision: Any) -> Any:
        if x.dtype.scalar == tl.bfloat16:
            return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
        if cut and x.dtype.scalar == tl.float32 and precision.name == "TF32":
            bits = x.data.view(np.uint32) & np.uint32(0xFFFFE000)
            return interpreter.TensorHandle(bits.view(np.float32), tl.float32)
        return x

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, *rest: Any) -> Any:
        return dot(self, taken(a, precision), taken(b, precision), d, precision, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def _mend_extremes() -> None:
    """Of a number and none a GPU takes the number."""
    for name, call in (("create_maxnumf", np.fmax), ("create_minnumf", np.fmin)):
        taken = functools.partialmethod(interpreter.InterpreterBuilder.binary_op, op=call)
        setattr(interpreter.InterpreterBuilder, name, taken)


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
    torch.empty_like = lambda *a, **k: _nans(empty_like(*a, **k))
    Tensor.new_empty = lambda *a, **k: _nans(new_empty(*a, **k))  # type: ignore[method-assign]


def _nans(made: Tensor) -> Tensor:
    return made.fill_(float("nan")) if made.is_floating_point() else made


if __name__ == "__main__":
    main()
