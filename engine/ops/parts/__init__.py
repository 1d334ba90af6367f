"""The element-wise parts of a layer, between its matrix products and its recurrence.

`Parts` is torch and the definition. On a GPU each of its operations reads and writes whole activations for a
few FLOPs, which takes longer there than the products do; `fused.FusedParts` does the same in one pass each.

B sequences, T tokens, D channels = H heads of size N. Activations are [B, T, D] unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DECAY_LIMIT = -math.exp(-0.5)  # of RWKV-7: log of the strongest decay
FASTEST = 20.0  # the decay exp(-exp(20)) is 0 in every number format; beyond, exp overflows
L2WRAP = 1e-4


def wide(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def shifted(x: Tensor, before: Tensor | None) -> Tensor:
    """Each position's predecessor; `before` [B, D] precedes the first, zeros when None."""
    first = x.new_zeros(x.shape[0], 1, x.shape[2]) if before is None else before.unsqueeze(1)
    return torch.cat([first, x[:, :-1]], 1)


class Weights7(Protocol):
    """What RWKV-7's time mixing has a number of for each channel, [1, 1, D]; the first layer has no v0."""

    w0: nn.Parameter
    a0: nn.Parameter
    k_k: nn.Parameter
    k_a: nn.Parameter


class Inputs7(NamedTuple):
    """For the recurrence of RWKV-7, which names them: [B, T, D], `log_w` in fp32."""

    log_w: Tensor
    k: Tensor
    a: Tensor
    b: Tensor


class Parts:
    """Each as torch computes it, for every device, type and number of derivatives."""

    name = "torch"

    def mix(self, x: Tensor, before: Tensor | None, mixes: Sequence[Tensor]) -> Sequence[Tensor]:
        """x + (its predecessor - x) * mix for each mix [1, 1, D]; `before`: see `shifted`."""
        delta = shifted(x, before) - x
        return [torch.addcmul(x, delta, mix) for mix in mixes]

    def mix_by_data(
        self, x: Tensor, before: Tensor | None, mixes: Sequence[Tensor], more: Tensor
    ) -> Sequence[Tensor]:
        """As `mix`, with `more` [mixes, B, T, D] added to the mixes."""
        delta = shifted(x, before) - x
        return [torch.addcmul(x, delta, mix + data) for mix, data in zip(mixes, more, strict=True)]

    def squared_relu(self, x: Tensor) -> Tensor:
        return F.relu(x).square()

    def blend(self, v: Tensor, first: Tensor, base: Tensor, low: Tensor) -> Tensor:
        """RWKV-7's values: from `v` towards the first layer's by sigmoid(base [1, 1, D] + low)."""
        return torch.lerp(v, first, torch.sigmoid(base + low))

    def inputs7(self, k: Tensor, w: Tensor, a: Tensor, n_head: int, weights: Weights7) -> Inputs7:
        """What RWKV-7's recurrence reads, of its keys and of what the decay's and the learning rate's
        low-rank products gave, all [B, T, D]."""
        log_w = DECAY_LIMIT * torch.sigmoid(weights.w0 + wide(w))
        rate = torch.sigmoid(weights.a0 + wide(a))
        wide_k = wide(k)
        kk = (wide_k * weights.k_k).view(*k.shape[:2], n_head, -1)
        kk = F.normalize(kk, dim=-1).flatten(2)
        key = wide_k * (1 + (rate - 1) * weights.k_a)
        return Inputs7(log_w, key.to(k.dtype), -kk.to(k.dtype), (kk * rate).to(k.dtype))

    def output7(
        self, y: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor, norm: nn.GroupNorm, r_k: Tensor
    ) -> Tensor:
        """The normed outputs of the recurrence y, with the bonus of the present token added, by the gate.
        `r_k` is [H, N]."""
        r, k, v = (wide(z).view(*z.shape[:2], *r_k.shape) for z in (r, k, v))
        bonus = ((r * k * r_k).sum(-1, keepdim=True) * v).flatten(2)
        return (_normed(y, norm) + bonus).to(gate.dtype) * gate

    def decay6(self, base: Tensor, low: Tensor) -> Tensor:
        """RWKV-6's log_w: -exp(base [1, 1, D] + low), fp32."""
        return -torch.exp((wide(base) + wide(low)).clamp(max=FASTEST))

    def output6(self, y: Tensor, gate: Tensor, norm: nn.GroupNorm) -> Tensor:
        """The normed outputs of the recurrence y by silu(gate)."""
        return _normed(y, norm).to(gate.dtype) * F.silu(gate)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of [P, V] and [P]: the sum of the losses, fp32, and its gradient with L2Wrap in the logits' type.

        L2Wrap: the gradient, not the value, also has 1e-4 * the largest logit of each position, there.
        The logits may be written over.
        """
        wanted, rows = (
            logits.gather(1, targets[:, None]).float(),
            torch.arange(len(logits), device=logits.device),
        )
        spread = logits.float()
        highest, where = spread.max(-1, keepdim=True)
        sums = spread.sub_(highest).exp_().sum(-1, keepdim=True)
        total = (sums.log() + highest - wanted).sum()
        gradient = spread.div_(sums)  # softmax, in the memory of the wide logits
        gradient[rows, targets] -= 1
        gradient[rows, where[:, 0]] += L2WRAP * highest[:, 0]
        return total, logits.copy_(gradient)


def _normed(y: Tensor, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm over the heads, in fp32."""
    weight, bias = wide(norm.weight), wide(norm.bias)
    flat = F.group_norm(wide(y).flatten(0, 1), norm.num_groups, weight, bias, norm.eps)
    return flat.view_as(y)


TORCH = Parts()
