"""Training over contexts longer than what fits: chunk by chunk, the model's carry handed on.

Nothing is differentiated across a chunk's border, so one chunk's activations are all that is held at
a time. A time_state, the start of the first chunk, has its gradient from the first chunk alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.data.dataset import IGNORED
from engine.models.base import RWKV, Carry
from engine.train.loss import chunk_loss

Forward = Callable[[RWKV, Tensor, Tensor, int, Carry | None], tuple[Tensor, Carry]]


def backward_in_chunks(
    model: RWKV, tokens: Tensor, targets: Tensor, chunk_ctx: int, backward: Callable[[Tensor], None],
    learned: int | None = None, forward: Forward = chunk_loss,
) -> Tensor:  # fmt: skip
    """The mean loss of a batch [B, T] over its learned targets; calls `backward` with each chunk's part.

    The parts add up to the mean, so a chunk without a learned target adds nothing. With chunk_ctx >= T
    there is one part, and it is `training_loss`. A batch that is part of a larger one says how many
    targets are `learned` in that. `forward` is `chunk_loss` or does it somewhere else.
    """
    learned = int((targets != IGNORED).sum()) if learned is None else learned
    total, carry, end = torch.zeros((), device=tokens.device), None, 0
    for t, y in zip(torch.split(tokens, chunk_ctx, 1), torch.split(targets, chunk_ctx, 1), strict=True):
        loss, ended = forward(model, t, y, learned, carry)
        end += t.shape[1]
        carry = ended.detach() if end < tokens.shape[1] else None  # nobody needs the last one
        del ended
        if loss.requires_grad:  # tuning a state, only the first chunk depends on it
            backward(loss)
        total += loss.detach()
        del loss  # or it would hold this chunk's graph while the next one grows
    return total
