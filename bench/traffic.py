"""What a step of state tuning moves through a GPU's memory between its matrix products, counted without one.

    python -m bench.traffic [--size 1.5B] [--version x070] [--batch 8] [--ctx 1024] [--grad-cp 0 1]
                            [--bandwidth 3.35] [--flops 700] [--json FILE]

A step of the true shapes is taken with tensors that have no values. Every element-wise operation reads its
operands and writes its result once, and so does a fused kernel; what caches save is not counted. `floor` is
that at the device's bandwidth (TB/s), `products` the FLOPs of the products at the speed that it reaches
(TFLOP/s). The recurrence's own kernels are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.memory import like_a_gpu
from bench.step import METHODS, random_model
from engine.contract.settings import TrainSettings
from engine.contract.sizes import SIZES
from engine.models.build import MODELS
from engine.ops.parts import TORCH, Parts, fused, kernels
from engine.ops.registry import recurrence_of
from engine.train.loss import training_loss
from engine.tuning import tuning_for

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.addmm_.default}
FREE = {aten.empty_like.default, aten.empty.memory_format, aten.new_empty.default, aten.detach.default}


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes and kernels of what is no product, and FLOPs of what is one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.kernels = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return 1
        if func is aten.index.Tensor and args[1][0].dtype == torch.bool:  # every target is learned
            made = args[0].flatten(0, args[1][0].ndim - 1).clone()
        else:
            made = func(*args, **(kwargs or {}))
        read = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_iter(made) if isinstance(x, Tensor)]
        if func in PRODUCTS:
            left, right = read[-2:]
            self.flops += 2 * left.numel() * right.shape[-1]
        elif func.namespace == "aten" and func not in FREE and not _views(func, read, written):
            self.add(*read, *written)
        return made

    def add(self, *tensors: Tensor, times: int = 1) -> None:
        """One kernel that reads or writes each of these once, or so many times."""
        self.kernels += 1
        self.bytes += times * sum(_bytes(x) for x in {id(x): x for x in tensors}.values())


def _views(func: Any, read: list[Tensor], written: list[Tensor]) -> bool:
    there = {x.untyped_storage()._cdata for x in read}
    return not func._schema.is_mutable and all(x.untyped_storage()._cdata in there for x in written)


def _bytes(x: Tensor) -> int:
    """What lies in memory: an expanded dimension once."""
    size = x.element_size()
    for length, stride in zip(x.shape, x.stride(), strict=True):
        size *= length if stride else 1
    return size


class _Counted:
    """A kernel that is started and only counted. Logits are read twice and written over."""

    def __init__(self, traffic: Traffic, name: str) -> None:
        self.traffic, self.times = traffic, 3 if name == "cross_entropy" else 1

    def __getitem__(self, grid: Any) -> Any:
        return lambda *tensors, **constants: self.traffic.add(*tensors, times=self.times)


@contextlib.contextmanager
def counted_kernels(traffic: Traffic) -> Iterator[None]:
    """The fused parts without their kernels."""
    with contextlib.ExitStack() as stack:
        for name in fused.KERNELS:
            stack.enter_context(mock.patch.object(kernels, name, _Counted(traffic, name)))
        yield


def count(size: str, version: str, batch: int, ctx: int, grad_cp: bool, parts: Parts) -> Traffic:
    """A forward and a backward pass of one shape."""
    shape = next(s for s in SIZES if s.name == size)
    tuning = tuning_for(TrainSettings(**METHODS["state"]))
    traffic = Traffic()
    with FakeTensorMode(), like_a_gpu(recurrence_of(version)) as operator, counted_kernels(traffic):
        model = random_model(
            version, shape.n_layer, shape.n_embd, "none", torch.bfloat16, "cpu", operator, parts
        )
        model.grad_cp = grad_cp
        tuning.attach(model)
        model.train()
        tokens = torch.zeros(batch, ctx, dtype=torch.int64)
        with traffic:
            training_loss(model, tokens, tokens).backward()  # type: ignore[no-untyped-call]
    return traffic


def main() -> None:
    """Counts every combination, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", nargs="+", default=["1.5B"], choices=[s.name for s in SIZES])
    parser.add_argument("--version", nargs="+", default=["x070"], choices=list(MODELS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--grad-cp", type=int, nargs="+", default=[0, 1], choices=[0, 1])
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s; an H100's by default")
    parser.add_argument("--flops", type=float, default=700, help="TFLOP/s that products reach")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    rows = []
    print("size  version  grad_cp  parts   kernels        GB   floor, ms  products, ms")
    for size, version, grad_cp in itertools.product(args.size, args.version, args.grad_cp):
        for parts in (TORCH, fused.FusedParts()):
            found = count(size, version, args.batch, args.ctx, bool(grad_cp), parts)
            row = {
                "size": size, "version": version, "grad_cp": grad_cp, "parts": parts.name,
                "kernels": found.kernels, "gb": found.bytes / 1e9,
                "floor_ms": found.bytes / args.bandwidth / 1e9, "products_ms": found.flops / args.flops / 1e9,
            }  # fmt: skip
            rows.append(row)
            print(
                f"{size:5} {version:8} {grad_cp:7}  {parts.name:6} {found.kernels:8} {row['gb']:9.1f} "
                f"{row['floor_ms']:11.1f} {row['products_ms']:13.1f}", flush=True,
            )  # fmt: skip
    if args.json:
        asked = vars(args) | {"json": ""}
        facts = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "asked": asked}
        args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
