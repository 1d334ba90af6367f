"""Which part of a step on a CPU is products of matrices, which the recurrence, and which all else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmm_", "aten::baddbmm_"}
PARTS = {
    "_Chunked": "recurrence",
    "LinearCrossEntropy": "head and loss",
}  # autograd functions, and what they are
REST = "element-wise and other"


def shares(step: Callable[[], None], rounds: int) -> dict[str, float]:
    """Of the wall time of operators in the best of the rounds, after one that is not counted.

    Products within the recurrence are the recurrence's; head and loss are nearly all products.
    """
    step()
    found = []
    for _ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            step()
        times: Counter[str] = Counter()
        for event in recorded.events() or ():
            times[_part(event)] += event.self_cpu_time_total
        found.append(times)
    best = min(found, key=lambda times: times.total())
    return {part: taken / best.total() for part, taken in best.most_common()}


def _part(event: Any) -> str:
    above = event
    while above is not None:
        for function, part in PARTS.items():
            if above.name.startswith(function):
                return part
        above = above.cpu_parent
    return "products" if event.name in PRODUCTS else REST
