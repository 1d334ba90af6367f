"""Generation: the prompt in one pass, then one token at a time with a carried state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.models.base import RWKV


@torch.no_grad()
def generate(
    model: RWKV,
    prompt_ids: Sequence[int],
    *,
    length: int,
    temperature: float = 1.0,
    top_p: float = 0.0,
    stop_ids: Sequence[int] = (0,),
    seed: int = 0,
) -> Iterator[int]:
    """Yields at most `length` tokens, ending before the first of `stop_ids`.

    `top_p` is the share of the probability that is drawn from; 0 always takes the likeliest token.
    The same seed draws the same tokens. Raises UserError for a prompt of no tokens.
    """
    if not prompt_ids:
        raise UserError(_("The prompt is empty."), _("Give at least one character."))
    rng = torch.Generator().manual_seed(seed)
    tokens, carry = list(prompt_ids), None
    for _step in range(length):
        hidden, carry = model.hidden(torch.tensor([tokens], device=model.device), carry)
        logits = model.logits(hidden[:, -1:], carry)[0, 0].float().cpu()
        token = _choose(logits, temperature, top_p, rng)
        if token in stop_ids:
            return
        yield token
        tokens = [token]


def _choose(logits: Tensor, temperature: float, top_p: float, rng: torch.Generator) -> int:
    """The likeliest token, or one drawn from the smallest set of tokens that together reach `top_p`."""
    if top_p <= 0 or temperature <= 0:
        return int(logits.argmax())
    probabilities, ids = torch.softmax(logits / temperature, -1).sort(descending=True)
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    return int(ids[torch.multinomial(probabilities, 1, generator=rng)])
