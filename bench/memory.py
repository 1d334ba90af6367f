"""What tuning a state holds of a GPU's memory at its worst moment, counted where there is none.

    python -m bench.memory [--size 3B 7B] [--version x070] [--quant none int8 nf4] [--ctx 1024] [--batch 1]
                           [--grad-cp 2] [--parts fused] [--top 8] [--json FILE]

A step of the true shapes is taken with tensors that have no values (torch's FakeTensorMode), by the operator
in Triton without its kernels; every tensor that is alive counts, rounded up to the allocator's 512 bytes.
`estimate` is the arithmetic of engine.estimate; neither has CUDA's own context and what an allocator loses.
With `--parts torch` the element-wise parts are not fused; the arithmetic is for that.
`target` is 0.7 of what was published. `--top` shows the largest tensors of the worst moment.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import math
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.step import METHODS, random_model
from engine import quant
from engine.contract.settings import TrainSettings
from engine.contract.sizes import SIZES, Quant
from engine.estimate import state_memory
from engine.models.build import MODELS
from engine.models.waiting import Waiting
from engine.ops.parts import TORCH, fused, kernels
from engine.ops.registry import recurrence_of
from engine.train import loss
from engine.train.infctx import backward_in_chunks
from engine.tuning import tuning_for

aten = torch.ops.aten
BLOCK = 512  # bytes
PARTS = {"torch": TORCH, "fused": fused.FusedParts()}


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are alive, on the GPU and in pinned memory of the host, and makes
    up what depends on values: every target is learned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, tuple[int, str]] = {}
        self.now = self.peak = self.pinned_now = self.pinned = 0
        self.worst: Counter[str] = Counter()

    def add(self, tensor: Tensor, pinned: bool = False) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if pinned:
            self.alive[key] = 0, "the host's"
            self.pinned_now += size
            self.pinned = max(self.pinned, self.pinned_now)
            weakref.finalize(storage, self._gone, key, size)
        if key not in self.alive:
            what = f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape))}"
            self.alive[key] = size, what
            self.now += size
            weakref.finalize(storage, self._gone, key)
            if self.now > self.peak:
                self.peak = self.now
                self.worst = Counter()
                for n, what in self.alive.values():
                    self.worst[what] += n

    def _gone(self, key: int, pinned: int = 0) -> None:
        self.now -= self.alive.pop(key)[0]
        self.pinned_now -= pinned

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return 1
        if func is aten.index.Tensor and args[1][0].dtype == torch.bool:
            made = args[0].flatten(0, args[1][0].ndim - 1).clone()
        else:
            made = func(*args, **(kwargs or {}))
        for x in tree_iter(made):
            if isinstance(x, Tensor):
                self.add(x, pinned=bool((kwargs or {}).get("pin_memory")))
        return made


class _Nothing:
    """A kernel that is started and does nothing."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: None


@contextlib.contextmanager
def like_a_gpu(recurrence: str) -> Iterator[Any]:
    """The Triton operator and the element-wise parts without their kernels, the sizes of what a GPU works
    with at a time, and streams of nothing."""
    module = importlib.import_module(f"engine.ops.{recurrence}.triton")
    with contextlib.ExitStack() as stack:
        for name in module.KERNELS:
            stack.enter_context(mock.patch.object(module, name, _Nothing()))
        for name in fused.KERNELS:
            stack.enter_context(mock.patch.object(kernels, name, _Nothing()))
        for sizes in (loss.CHUNK_ELEMENTS, loss.SHARE, quant.AT_A_TIME):
            stack.enter_context(mock.patch.dict(sizes, {"cpu": sizes["cuda"]}))
        stack.enter_context(mock.patch.object(Waiting, "leaves", lambda x: True))
        stack.enter_context(mock.patch.object(quant, "_pack_nf4", lambda *_: None))  # numpy's work, of values
        for name in ("Stream", "stream", "current_stream"):
            stack.enter_context(mock.patch.object(torch.cuda, name, mock.MagicMock()))
        yield getattr(module, f"{recurrence}_triton")


def count(
    size: str, version: str, kind: str, ctx: int, batch: int, grad_cp: int, parts: str = "fused"
) -> Live:
    """Two steps of one shape; of the second, Adam's moments are there from the start."""
    shape = next(s for s in SIZES if s.name == size)
    tuning = tuning_for(TrainSettings(**METHODS["state"]))
    live = Live()
    with FakeTensorMode(), like_a_gpu(recurrence_of(version)) as operator:
        model = random_model(
            version, shape.n_layer, shape.n_embd, kind, torch.bfloat16, "cpu", operator, PARTS[parts]
        )
        model.grad_cp = grad_cp
        tuning.attach(model)
        if grad_cp == 2:
            with live:
                model.send_head_away()
        model.train()
        host = {p.untyped_storage()._cdata for p in model.emb.parameters()}
        optimizer = torch.optim.Adam(tuning.param_groups(model, 0.0), lr=1e-4, fused=True)
        tokens = torch.zeros(batch, ctx, dtype=torch.int64)
        for x in itertools.chain(model.parameters(), model.buffers()):
            if x.untyped_storage()._cdata not in host:
                live.add(x)
        live.alive |= dict.fromkeys(host, (0, "the host's"))
        with live:
            for _ in range(2):
                backward_in_chunks(model, tokens, tokens, ctx, Tensor.backward)
                optimizer.step()
                optimizer.zero_grad()
    return live


def main() -> None:
    """Counts every combination that was published, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", nargs="+", default=[s.name for s in SIZES if s.vram])
    parser.add_argument("--version", nargs="+", choices=list(MODELS), help="default: those published")
    parser.add_argument(
        "--quant", nargs="+", default=["none", "int8", "nf4"], choices=["none", "int8", "nf4"]
    )
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--grad-cp", type=int, default=1, choices=[0, 1, 2])
    parser.add_argument("--parts", default="fused", choices=list(PARTS))
    parser.add_argument("--top", type=int, default=0, help="how many of the largest tensors to show")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    print(f"ctx {args.ctx}, micro_bsz {args.batch}, grad_cp {args.grad_cp}, parts {args.parts}; GB")
    print("size  version  quant   counted  estimate  target")
    rows = []
    for size in (s for s in SIZES if s.name in args.size):
        for version, kind in itertools.product(args.version or size.vram, args.quant):
            live = count(size.name, version, kind, args.ctx, args.batch, args.grad_cp, args.parts)
            name: Quant = "fp16" if kind == "none" else kind
            need = state_memory(
                version, size.n_layer, size.n_embd, quant=name, ctx_len=args.ctx, micro_bsz=args.batch,
                grad_cp=args.grad_cp,
            )  # fmt: skip
            target = 0.7 * size.vram.get(version, {}).get(name, math.nan)
            rows.append({
                "size": size.name, "version": version, "quant": kind, "counted": live.peak / 1e9,
                "estimate": need.total / 1e9, "target": target,
            })  # fmt: skip
            numbers = f"{live.peak / 1e9:8.2f} {need.total / 1e9:9.2f} {target:7.2f}"
            print(f"{size.name:5} {version:8} {kind:6} {numbers}", flush=True)
            for what, size_of in live.worst.most_common(args.top):
                print(f"{size_of / 1e6:38.1f} MB  {what}")
    if args.json:
        facts = {
            "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "asked": vars(args) | {"json": ""},
        }
        args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
