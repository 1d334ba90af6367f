"""Mean cross-entropy of a model over a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from engine.contract.reports import EvalReport
from engine.data.dataset import PadDataset, WindowDataset, collate
from engine.models.base import RWKV
from engine.train.loss import summed_loss

BATCH_TOKENS = 2048  # padded tokens a batch: bounds the logits at 2048 x V


def measure(
    model: RWKV,
    dataset: PadDataset | WindowDataset,
    *,
    chosen: Sequence[int] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> EvalReport:
    """The loss (nats) over all target tokens of the examples `chosen` (default: all).

    `progress` is told (examples done, examples in all) after each batch.
    """
    sizes, ctx_len = dataset.sizes, dataset.ctx_len
    chosen = range(len(dataset)) if chosen is None else chosen
    # Neighbours in length share a batch, so that little of it is padding.
    order = sorted(chosen, key=lambda i: int(sizes[i]))
    total, count, done = 0.0, 0, 0
    while done < len(order):
        longest = min(int(sizes[order[min(done + 63, len(order) - 1)]]), ctx_len)
        batch = order[done : done + max(1, min(64, BATCH_TOKENS // max(longest, 1)))]
        tokens, targets = collate([dataset[i] for i in batch])
        loss, learned = summed_loss(model, tokens.to(device), targets.to(device))
        total, count, done = total + loss, count + learned, done + len(batch)
        if progress:
            progress(done, len(order))
    mean = total / count if count else math.nan
    return EvalReport(loss=mean, perplexity=math.exp(min(mean, 700)), tokens=count, documents=len(order))


def spread(total: int, count: int) -> list[int]:
    """`count` numbers below `total`, evenly spread; all of them when there are fewer."""
    count = min(count, total)
    return [i * total // count for i in range(count)]
