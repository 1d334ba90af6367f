"""How fast the operators of the recurrences are here, forward and backward.

    python -m bench.wkv [--recurrence wkv6] [--steps 512] [--heads 12] [--batch 1] [--rounds 5] [--json]

Operators take turns in each round, so that a busy machine slows all of them down alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.ops.registry import WKV6_OPERATORS, WKV7_OPERATORS

OPERATORS: dict[str, dict[str, Any]] = {"wkv6": dict(WKV6_OPERATORS), "wkv7": dict(WKV7_OPERATORS)}


def make_inputs(recurrence: str, batch: int, steps: int, heads: int, width: int, device: str) -> list[Tensor]:
    """Random inputs in the ranges a model produces: r, log_w, k, v, then u or a and b, state."""
    torch.manual_seed(0)
    shape = (batch, steps, heads, width)
    if recurrence == "wkv6":
        inputs = [torch.randn(shape), -torch.exp(torch.randn(shape) - 1.5), torch.randn(shape)]
        inputs += [torch.randn(shape), torch.randn(heads, width), torch.randn(batch, heads, width, width)]
        return [x.to(device).requires_grad_() for x in inputs]
    kk = F.normalize(torch.randn(shape), dim=-1)
    log_w = -0.6065 * torch.sigmoid(torch.randn(shape))
    inputs = [torch.randn(shape), log_w, torch.randn(shape), torch.randn(shape), -kk]
    inputs += [kk * torch.sigmoid(torch.randn(shape)), torch.randn(batch, heads, width, width)]
    return [x.to(device).requires_grad_() for x in inputs]


def seconds(operator: Any, inputs: list[Tensor]) -> tuple[float, float]:
    """Of the forward pass alone and of forward and backward together."""
    begin = time.perf_counter()
    y, last = operator(*inputs)
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
    parser.add_argument("--recurrence", choices=list(OPERATORS), default="wkv7")
    for name, value in (("batch", 1), ("steps", 512), ("heads", 12), ("width", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    inputs = make_inputs(args.recurrence, args.batch, args.steps, args.heads, args.width, args.device)
    operators = OPERATORS[args.recurrence]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in operators}
    for turn in range(args.rounds + 1):
        for name, operator in operators.items():
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
    print(f"{args.recurrence} in fp32 on {args.device}")
    print(f"B {args.batch}, T {args.steps}, H {args.heads}, N {args.width}")
    print(f"{'operator':12} {'forward':>10} {'fwd + bwd':>10} {'best':>10}   (ms, medians of {args.rounds})")
    for name, row in medians.items():
        print(f"{name:12} " + " ".join(f"{value:10.1f}" for value in row.values()))
    print(f"chunked is {ratio:.1f} times as fast as reference")


if __name__ == "__main__":
    main()
