"""How fast the operators of RWKV-7's recurrence are here, forward and backward.

    python -m bench.wkv7 [--steps 512] [--heads 12] [--batch 1] [--rounds 5] [--json]

Operators take turns in each round, so that a busy machine slows all of them down alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.ops.registry import WKV7_OPERATORS
from engine.ops.wkv7 import WKV7


def make_inputs(batch: int, steps: int, heads: int, width: int, device: str) -> list[Tensor]:
    """Random inputs in the ranges a model produces: r, log_w, k, v, a, b, state."""
    torch.manual_seed(0)
    shape = (batch, steps, heads, width)
    kk = F.normalize(torch.randn(shape), dim=-1)
    log_w = -0.6065 * torch.sigmoid(torch.randn(shape))
    inputs = [torch.randn(shape), log_w, torch.randn(shape), torch.randn(shape), -kk]
    inputs += [kk * torch.sigmoid(torch.randn(shape)), torch.randn(batch, heads, width, width)]
    return [x.to(device).requires_grad_() for x in inputs]


def seconds(operator: WKV7, inputs: list[Tensor]) -> tuple[float, float]:
    """Of the forward pass alone and of forward and backward together."""
    begin = time.perf_counter()
    r, log_w, k, v, a, b, state = inputs
    y, last = operator(r, log_w, k, v, a, b, state)
    _finish(y)
    middle = time.perf_counter()
    grads = torch.autograd.grad(y.sum() + last.sum(), inputs)
    _finish(grads[0])
    return middle - begin, time.perf_counter() - begin


def _finish(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Measures and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, value in (("batch", 1), ("steps", 512), ("heads", 12), ("width", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    inputs = make_inputs(args.batch, args.steps, args.heads, args.width, args.device)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WKV7_OPERATORS}
    for turn in range(args.rounds + 1):
        for name, operator in WKV7_OPERATORS.items():
            taken = seconds(operator, inputs)
            if turn:  # the first one warms up
                times[name].append(taken)
    medians = {
        name: {
            "forward_ms": 1e3 * statistics.median(t[0] for t in taken),
            "both_ms": 1e3 * statistics.median(t[1] for t in taken),
            "best_ms": 1e3 * min(t[1] for t in taken),
        }
        for name, taken in times.items()
    }
    ratio = medians["reference"]["both_ms"] / medians["chunked"]["both_ms"]
    if args.json:
        facts = {**vars(args), "threads": torch.get_num_threads(), "operators": medians, "ratio": ratio}
        print(json.dumps(facts, indent=2))
        return
    print(f"B {args.batch}, T {args.steps}, H {args.heads}, N {args.width}, fp32 on {args.device}")
    print(f"{'operator':12} {'forward':>10} {'fwd + bwd':>10} {'best':>10}   (ms, medians of {args.rounds})")
    for name, row in medians.items():
        print(f"{name:12} " + " ".join(f"{value:10.1f}" for value in row.values()))
    print(f"chunked is {ratio:.1f} times as fast as reference")


if __name__ == "__main__":
    main()
