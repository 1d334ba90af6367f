"""Mean cross-entropy of a model over a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from engine.contract.reports import EvalReport
from engine.data.dataset import PadDataset, WindowDataset
from engine.models.base import RWKV
from engine.train.group import Group
from engine.train.loss import summed_loss

BATCH_TOKENS = 2048  # padded tokens a batch: bounds the logits at 2048 x V


def measure(
    model: RWKV,
    dataset: PadDataset | WindowDataset,
    *,
    chosen: Sequence[int] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    group: Group | None = None,
) -> EvalReport:
    """The loss (nats) over all target tokens of the examples `chosen` (default: all).

    `progress` is told (examples done, examples in all) at the start and after each batch. The processes of
    a `group` take turns with the batches; each tells its progress as often, and has the report.
    """
    group = group or Group()
    sizes, ctx_len = dataset.sizes, dataset.ctx_len
    chosen = range(len(dataset)) if chosen is None else chosen
    # Neighbours in length share a batch, so that little of it is padding.
    order = sorted(chosen, key=lambda i: int(sizes[i]))
    batches: list[list[int]] = []
    done = 0
    while done < len(order):
        longest = min(int(sizes[order[min(done + 63, len(order) - 1)]]), ctx_len)
        batches.append(order[done : done + max(1, min(64, BATCH_TOKENS // max(longest, 1)))])
        done += len(batches[-1])
    total, count, done = 0.0, 0, 0
    if progress:
        progress(0, len(order))
    for first in range(0, len(batches), group.size):
        turn = batches[first : first + group.size]
        # In a last turn that is too short for all, the rest keep step: parts of a model need all processes.
        tokens, targets = dataset.__getitems__(turn[group.rank % len(turn)])
        loss, learned = summed_loss(model, tokens.to(device), targets.to(device))
        if group.rank < len(turn):
            total, count = total + loss, count + learned
        done += sum(map(len, turn))
        if progress:
            progress(done, len(order))
    total, learned_in_all = group.sum(total, count)
    count = int(learned_in_all)
    mean = total / count if count else math.nan
    return EvalReport(loss=mean, perplexity=math.exp(min(mean, 700)), tokens=count, documents=len(order))


def spread(total: int, count: int) -> list[int]:
    """`count` numbers below `total`, evenly spread; all of them when there are fewer."""
    count = min(count, total)
    return [i * total // count for i in range(count)]
