"""Generation: the prompt in passes of a bounded length, then one token at a time with a carried state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.models.base import RWKV, Carry

PASS = 1024  # tokens of a prompt that are read at once
LIKELY = 256  # tokens that mostly hold top_p
FADING = 0.996  # what a word said counts for after each further token


@torch.no_grad()
def generate(
    model: RWKV,
    prompt_ids: Sequence[int],
    *,
    length: int,
    temperature: float = 1.0,
    top_p: float = 0.0,
    presence: float = 0.0,
    frequency: float = 0.0,
    stop_ids: Sequence[int] = (0,),
    seed: int = 0,
    carry: Carry | None = None,
) -> Iterator[int]:
    """Yields at most `length` tokens, ending before the first of `stop_ids`; the prompt goes on from `carry`.

    `top_p` is the share of the probability that is drawn from; 0 always takes the likeliest token.
    `presence` and `frequency` are taken from the logits of tokens generated before, the second for each time.
    The same seed draws the same tokens. Raises UserError for a prompt of no tokens.
    """
    if not prompt_ids:
        raise UserError(_("The prompt is empty."), _("Give at least one character."))
    rng = torch.Generator().manual_seed(seed)
    tokens = list(prompt_ids)
    carry, tokens = read(model, tokens[:-1], carry), tokens[-1:]
    said = torch.zeros(model.vocab_size)
    for _step in range(length):
        hidden, carry = model.hidden(torch.tensor([tokens], device=model.device), carry)
        logits = model.logits(hidden[:, -1:], carry)[0, 0].float().cpu()
        if presence or frequency:
            logits -= presence * (said > 0) + frequency * said
        token = _choose(logits, temperature, top_p, rng)
        if token in stop_ids:
            return
        yield token
        said.mul_(FADING)[token] += 1
        tokens = [token]


@torch.no_grad()
def read(
    model: RWKV, ids: Sequence[int], carry: Carry | None = None, check: Callable[[], None] = lambda: None
) -> Carry | None:
    """The carry after these tokens; `check` is called now and then and may raise."""
    for first in range(0, len(ids), PASS):
        check()
        part = torch.tensor([ids[first : first + PASS]], device=model.device)
        _hidden, carry = model.hidden(part, carry)
    return carry


def _choose(logits: Tensor, temperature: float, top_p: float, rng: torch.Generator) -> int:
    """The likeliest token, or one drawn from the smallest set of tokens that together reach `top_p`."""
    if top_p <= 0 or temperature <= 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / temperature, -1)
    largest, ids = probabilities.topk(min(LIKELY, len(probabilities)))
    if largest.sum() < top_p:
        largest, ids = probabilities.sort(descending=True)  # takes 20 times as long
    largest[largest.cumsum(-1) - largest >= top_p] = 0
    return int(ids[torch.multinomial(largest, 1, generator=rng)])
