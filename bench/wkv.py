"""How fast the operators of the recurrences are here, forward and backward, over a grid of shapes.

    python -m bench.wkv [--recurrence wkv6] [--batch 1 8] [--steps 512 1024] [--heads 12 32] [--dtype bf16]
                        [--rounds 5] [--peers] [--state-only] [--json FILE]

Operators take turns in each round, so that a busy machine slows all of them down alike. `floor` is the time
that reading every input and writing every result once would take at the measured bandwidth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import floor as floors
from bench.peers import PEERS, Peer
from engine.ops import choice, registry
from engine.ops.registry import USABLE, Need

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def operators(need: Need, peers: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Those that work here and compute right, and why the others do not."""
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name in USABLE:
        if reason := registry.why_not(name, need):
            reasons[name] = reason
            continue
        try:
            choice.check(name, need)
            found[name] = registry.function_of(name, need)
        except Exception as error:  # whatever a compiler says: the others are still measured
            reasons[name] = f"{type(error).__name__}: {error}"
    for name, peer in PEERS[need.recurrence].items() if peers else ():
        if reason := peer.why_not(need.device):
            reasons[name] = reason
            continue
        try:
            choice.compare(peer, need)
            found[name] = peer
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}"
    return found, reasons


def as_given(operator: Any, inputs: list[Tensor]) -> tuple[Any, list[Tensor]]:
    """What is timed: a peer without what makes its inputs of ours."""
    if not isinstance(operator, Peer):
        return operator, inputs
    with torch.no_grad():
        prepared = operator.prepare(*inputs)
    leaves = [x.detach().clone() for x in prepared]
    for mine, its in zip(inputs, leaves, strict=True):
        its.requires_grad_(mine.requires_grad)
    return operator.call, leaves


def seconds(operator: Any, inputs: list[Tensor]) -> tuple[float, float]:
    """Of the forward pass alone and of forward and backward together."""
    wanted = [x for x in inputs if x.requires_grad]
    device = inputs[0].device.type
    floors.finish(device)
    begin = time.perf_counter()
    y, last = operator(*inputs)
    floors.finish(device)
    middle = time.perf_counter()
    torch.autograd.grad([y, last], wanted, [torch.ones_like(y), torch.ones_like(last)])
    floors.finish(device)
    return middle - begin, time.perf_counter() - begin


def measure(need: Need, rounds: int, peers: bool, state_only: bool, floor: floors.Floor) -> dict[str, Any]:
    """One shape: medians in ms, and the best."""
    inputs = choice.make_inputs(need)
    if state_only:
        inputs = [x.detach() for x in inputs[:-1]] + inputs[-1:]
    wanted = [x for x in inputs if x.requires_grad]
    found, reasons = operators(need, peers)
    timed = {name: as_given(operator, inputs) for name, operator in found.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, (operator, given) in list(timed.items()):
            try:
                seconds(
                    operator, given
                )  # as in a run, each finds its own in caches and allocator, no other's
                times[name].append(seconds(operator, given))
            except torch.OutOfMemoryError as error:  # the loop over steps keeps a state for each of them
                reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                del timed[name], times[name]
                torch.cuda.empty_cache()
    moved = sum(x.numel() * x.element_size() for x in inputs)
    moved += inputs[3].numel() * inputs[3].element_size()  # y
    both = 2 * moved + sum(x.numel() * x.element_size() for x in wanted)  # again, and the gradients
    return {
        "batch": need.batch, "steps": need.steps, "heads": need.heads, "width": need.width,
        "floor_ms": {"forward": 1e3 * moved / floor.bytes_per_s, "both": 1e3 * both / floor.bytes_per_s},
        "operators": {
            name: {
                "forward_ms": 1e3 * statistics.median(t[0] for t in taken),
                "both_ms": 1e3 * statistics.median(t[1] for t in taken),
                "best_ms": 1e3 * min(t[1] for t in taken),
            }
            for name, taken in times.items()
        },
        "not_measured": reasons,
    }  # fmt: skip


def main() -> None:
    """Measures the grid, prints a table a shape, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recurrence", choices=list(PEERS), default="wkv7")
    for name, value in (("batch", 1), ("steps", 512), ("heads", 12), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=[value])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peers", action="store_true", help="measure other packages, too")
    parser.add_argument(
        "--state-only", action="store_true", help="only the state learns, as in a first layer"
    )
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()

    floor = floors.measure(args.device, DTYPES[args.dtype])
    print(f"{args.recurrence} in {args.dtype} on {floor.name}, torch {torch.__version__}")
    rows = []
    for batch, steps, heads, width in itertools.product(args.batch, args.steps, args.heads, args.width):
        need = Need(args.recurrence, args.device, DTYPES[args.dtype], heads, width, batch, steps)
        row = measure(need, args.rounds, args.peers, args.state_only, floor)
        rows.append(row)
        print(f"\nB {batch}, T {steps}, H {heads}, N {width}   (ms, medians of {args.rounds})")
        print(f"{'':12} {'forward':>10} {'fwd + bwd':>10} {'best':>10}")
        print(f"{'floor':12} {row['floor_ms']['forward']:10.2f} {row['floor_ms']['both']:10.2f}")
        for name, taken in row["operators"].items():
            print(f"{name:12} " + " ".join(f"{value:10.2f}" for value in taken.values()))
        for name, reason in row["not_measured"].items():
            print(f"{name:12} {reason}")
    if args.json:
        facts = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "floor": vars(floor)}
        asked = {name: str(value) for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({**facts, "asked": asked, "shapes": rows}, indent=1))


if __name__ == "__main__":
    main()
