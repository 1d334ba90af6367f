"""The training loss: cross-entropy with L2Wrap, without ever holding the logits of a whole batch.

The logits [positions, V] of a step are its largest tensor by far (V = 65536). They are made, used and
dropped for a few positions at a time, and their gradient is taken in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from engine.data.dataset import IGNORED
from engine.models.base import RWKV, Carry, add_product, product, product_back
from engine.models.waiting import HostHead
from engine.ops.parts import Parts

# Logits held at a time, at least. On a CPU 16 MiB of them stay near the cores. A GPU wants larger products,
# and where a batch is large an eighth of its logits is still less than what a block works with.
CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 24}
SHARE = {"cpu": 0.0, "cuda": 1 / 8}


def training_loss(model: RWKV, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the learned targets of a batch [B, T]; targets of -100 are not learned.

    The gradient, not the value, also holds L2Wrap: 1e-4 / (number of learned targets) * the largest
    logit, at each learned position's argmax. It keeps logits from growing without bound.
    A batch without a learned target gives 0.
    """
    return chunk_loss(model, tokens, targets, int((targets != IGNORED).sum()), None)[0]


def chunk_loss(
    model: RWKV, tokens: Tensor, targets: Tensor, count: int, carry: Carry | None
) -> tuple[Tensor, Carry]:
    """A chunk's part of the mean over `count` learned targets, and the carry after it."""
    learned = targets != IGNORED
    hidden, carry = model.hidden(tokens, carry)
    total: Tensor = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden[learned], model.head.weight, targets[learned], model.parts,
        *_copies(model, hidden, carry, learned),
    )  # fmt: skip
    if torch.is_grad_enabled() and isinstance(model.head, HostHead):
        model.head.go()
    return total / max(count, 1), carry


@torch.no_grad()
def summed_loss(model: RWKV, tokens: Tensor, targets: Tensor) -> tuple[float, int]:
    """Summed cross-entropy of the learned targets, and their number."""
    learned = targets != IGNORED
    whole, carry = model.hidden(tokens)
    hidden, wanted, total = whole[learned], targets[learned], 0.0
    for part, made, _ in _logits(hidden, model.head.weight, *_copies(model, whole, carry, learned)):
        logits = made.float()
        total += float((logits.logsumexp(-1) - logits.gather(1, wanted[part, None])[:, 0]).sum())
        del made, logits
    return total, int(wanted.shape[0])


def _copies(model: RWKV, hidden: Tensor, carry: Carry, learned: Tensor) -> tuple[Tensor, ...]:
    """Of a copying head, for the P learned positions: scores [P, S], ids [B, S], and which row of those."""
    if carry.copied is None:
        return ()
    scores = model.copy_scores(hidden, carry.copied)[learned]
    return scores, carry.copied.tokens, learned.nonzero()[:, 0]


def _logits(
    hidden: Tensor, weight: Tensor, scores: Tensor | None = None, ids: Tensor | None = None,
    rows: Tensor | None = None,
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:  # fmt: skip
    """Some positions at a time: which, their logits (in fp32 if copying adds to them), and the ids that their
    scores belong to."""
    kind = hidden.device.type
    size = max(1, CHUNK_ELEMENTS[kind] // weight.shape[0], int(SHARE[kind] * len(hidden)))
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        logits, copied = product(hidden[part], weight), None
        if scores is not None and ids is not None and rows is not None:
            copied = ids[rows[part]]
            logits = logits.float().scatter_add_(1, copied, scores[part].float())
        yield part, logits, copied
        del logits, copied  # the next ones need room


class LinearCrossEntropy(Function):
    """hidden [P, D], weight [V, D], targets [P] -> summed cross-entropy of hidden @ weight.T, in fp32.

    Its gradient includes L2Wrap, see `Parts.cross_entropy`. A weight that is frozen costs no gradient.
    `copies`: see `_copies`.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, parts: Parts, *copies: Tensor
    ) -> Tensor:
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if weight.requires_grad else None
        grad_scores = torch.empty_like(copies[0]) if copies else None
        total = torch.zeros((), device=hidden.device)
        for part, logits, copied in _logits(hidden, weight, *copies):
            loss, gradient = parts.cross_entropy(logits, targets[part])
            total += loss
            if grad_scores is not None and copied is not None:
                grad_scores[part] = gradient.gather(1, copied).to(grad_scores.dtype)
            gradient = gradient.to(hidden.dtype)
            grad_hidden[part] = product_back(gradient, weight)
            if grad_weight is not None:
                add_product(grad_weight, gradient, hidden[part])
            del logits, gradient
        ctx.save_for_backward(grad_hidden, grad_weight, grad_scores)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_scores = ctx.saved_tensors
        narrow = None
        if grad_weight is not None:
            # A sum over all positions: narrowed only after the division by their number, or fp16 overflows.
            narrow = torch.empty_like(grad_weight, dtype=ctx.weight_dtype)
            torch.mul(grad_weight, outputs[0], out=narrow)
        copies = () if grad_scores is None else (grad_scores * outputs[0], None, None)
        return grad_hidden * outputs[0], narrow, None, None, *copies
