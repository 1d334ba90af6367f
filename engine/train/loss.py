"""The training loss: cross-entropy with L2Wrap, without ever holding the logits of a whole batch.

The logits [positions, V] of a step are its largest tensor by far (V = 65536). They are made, used and
dropped for a few positions at a time, and their gradient is taken in the same pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from engine.data.dataset import IGNORED
from engine.models.base import RWKV, Carry

L2WRAP = 1e-4
# Logits held at a time. On a CPU 16 MiB of them stay near the cores; a GPU wants larger products.
CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}


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
    total: Tensor = LinearCrossEntropy.apply(hidden[learned], model.head.weight, targets[learned])  # type: ignore[no-untyped-call]
    return total / max(count, 1), carry


@torch.no_grad()
def summed_loss(model: RWKV, tokens: Tensor, targets: Tensor) -> tuple[float, int]:
    """Summed cross-entropy of the learned targets, and their number."""
    learned = targets != IGNORED
    hidden, wanted = model.hidden(tokens)[0][learned], targets[learned]
    total = 0.0
    for h, t in _chunks(hidden, wanted, model.vocab_size):
        logits = (h @ model.head.weight.T).float()
        total += float((logits.logsumexp(-1) - logits.gather(1, t[:, None])[:, 0]).sum())
    return total, int(wanted.shape[0])


def _chunks(hidden: Tensor, targets: Tensor, vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK_ELEMENTS[hidden.device.type] // vocab_size)
    return list(zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True))


class LinearCrossEntropy(Function):
    """hidden [P, D], weight [V, D], targets [P] -> summed cross-entropy of hidden @ weight.T, in fp32.

    Its gradient includes L2Wrap. A weight that is frozen costs no gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if weight.requires_grad else None
        total = torch.zeros((), device=hidden.device)
        done = 0
        for h, t in _chunks(hidden, targets, weight.shape[0]):
            logits = (h @ weight.T).float()
            wanted, rows = logits.gather(1, t[:, None]), torch.arange(len(t), device=t.device)
            highest, where = logits.max(-1, keepdim=True)
            sums = logits.sub_(highest).exp_().sum(-1, keepdim=True)
            total += (sums.log() + highest - wanted).sum()
            gradient = logits.div_(sums)  # softmax, in the memory of the logits
            gradient[rows, t] -= 1
            gradient[rows, where[:, 0]] += L2WRAP * highest[:, 0]
            gradient = gradient.to(weight.dtype)
            grad_hidden[done : done + len(t)] = gradient @ weight
            if grad_weight is not None:
                grad_weight.addmm_(gradient.T.float(), h.float())
            done += len(t)
        ctx.save_for_backward(grad_hidden, *([] if grad_weight is None else [grad_weight]))
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
        grad_hidden, *grad_weight = ctx.saved_tensors
        if not grad_weight:
            return grad_hidden * outputs[0], None, None
        # A sum over all positions: narrowed only after the division by their number, or fp16 overflows.
        narrow = torch.empty_like(grad_weight[0], dtype=ctx.weight_dtype)
        torch.mul(grad_weight[0], outputs[0], out=narrow)
        return grad_hidden * outputs[0], narrow, None
