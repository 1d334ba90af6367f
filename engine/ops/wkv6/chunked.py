"""The recurrence in chunks of steps, as matrix products, with its gradient derived by hand.

Inside a chunk the output at t reads the value at j < t with the weight sum_n r_t k_j exp(d_tj), where
d_tj [N] adds up log_w over the steps between them. Decays can be so strong that no common factor of a
chunk is a normal number, so pairs are told apart by scale: at scale h = 2, 4, 8 the steps form blocks
of 2h, and a pair belongs to the one scale at which j lies in the first and t in the second half of a
block. There d_tj is a sum from the middle to t plus one from j to the middle: each step has one factor
exp(sum) <= 1 a scale, and the weights are products of X = (r or k) * factor with itself. At scale 1
nothing lies between. Sums of numbers of one sign lose nothing, whatever their size, and nothing overflows.

All sums are rows of one constant matrix times log_w (`_sums`), which gives their gradient too.
Shapes: G = chunks * B * H matrices at once, chunk-major; L steps a chunk; S scales; N the head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.ops.chunks import at_start, from_chunks, to_chunks
from engine.ops.wkv6.reference import wkv6_reference

CHUNK = 16
SCALES = (2, 4, 8)  # up to CHUNK / 2
SHORTEST = 4  # below this the products cost more than the steps


def wkv6_chunked(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv6`; computes and answers in fp32 (float64 if the inputs are)."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    inputs = [x.to(dtype) for x in (r, log_w, k, v, u, at_start(v, state))]
    if v.shape[1] < SHORTEST:
        return wkv6_reference(*inputs)
    y, last = _Chunked.apply(*inputs)  # type: ignore[no-untyped-call]
    return y, last


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *sequences, u, state = inputs
        batch, steps, heads, width = sequences[0].shape
        r, log_w, k, v = (to_chunks(x, CHUNK) for x in sequences)
        factors = _exp(torch.bmm(_sums(v), log_w)).view(len(v), -1, CHUNK, width)
        x = _scaled(r, k, factors)
        scores = (x @ x.mT).mul_(_pairs(v)).sum(1).addcmul_(r @ k.mT, _neighbours(v))
        scores.diagonal(dim1=1, dim2=2).copy_((r * _bonus(u, r) * k).sum(-1))
        whole = _exp(log_w.sum(1, keepdim=True))
        states = _room(v, state)
        states[0] = state.reshape(-1, width, width)
        torch.bmm(v.mT, k * factors[:, -1], out=_flat(states[1:]))
        _scan(states, whole)
        y = ((r * factors[:, -2]) @ _flat(states[:-1]).mT).baddbmm_(scores, v)
        ctx.save_for_backward(r, k, v, u, factors, scores, whole, states)
        return from_chunks(y, batch, steps, heads), states[-1].view_as(state).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        r, k, v, u, factors, scores, whole, states = ctx.saved_tensors
        batch, steps, heads, width = dy.shape
        dy = to_chunks(dy, CHUNK)
        from_start, to_end = factors[:, -2], factors[:, -1]
        r_start, k_end = r * from_start, k * to_end
        dstates = torch.empty_like(states)
        dstates[-1] = dlast.reshape(-1, width, width)
        torch.bmm(dy.mT, r_start, out=_flat(dstates[:-1]))
        _scan(dstates, whole, reverse=True)
        if not any(ctx.needs_input_grad[:-1]):  # tuning a state, nothing else learns from the first layer
            return (*[None] * 5, dstates[0].view(batch, heads, width, width))
        starts, dends = _flat(states[:-1]), _flat(dstates[1:])

        dv = (k_end @ dends.mT).baddbmm_(scores.mT, dy)
        dr_start, dk_end = dy @ starts, v @ dends
        dscores = (dy @ v.mT).tril_()
        x, pairs = _scaled(r, k, factors), _pairs(v)
        dx = ((dscores + dscores.mT).unsqueeze(1) * (pairs + pairs.mT)) @ x
        dsums = torch.empty_like(factors)
        torch.mul(dx, x, out=dsums[:, :-2])
        torch.mul(dr_start, r_start, out=dsums[:, -2])
        torch.mul(dk_end, k_end, out=dsums[:, -1])
        dlog_w = torch.bmm(_sums(v).mT, dsums.flatten(1, 2))
        dlog_w += (starts * dends).sum(1, keepdim=True).mul_(whole)

        present, near = dscores.diagonal(dim1=1, dim2=2).unsqueeze(-1), dscores * _neighbours(v)
        dr = dr_start.mul_(from_start).baddbmm_(near, k)
        dk = dk_end.mul_(to_end).baddbmm_(near.mT, r)
        for i, half in enumerate(SCALES):
            for grad, second in ((dk, False), (dr, True)):
                parts = (_half(z, half, second) for z in (dx[:, i], factors[:, i]))
                _half(grad, half, second).addcmul_(*parts)
        bonus = present * _bonus(u, r)
        du = None
        if ctx.needs_input_grad[4]:
            du = (present * r * k).sum(1).view(-1, heads, width).sum(0)
        dr.addcmul_(bonus, k)
        dk.addcmul_(bonus, r)
        grads = (from_chunks(g, batch, steps, heads) for g in (dr, dlog_w, dk, dv))
        return (*grads, du, dstates[0].view(batch, heads, width, width))


def _exp(sums: Tensor) -> Tensor:
    """In place; what would be too small for a normal number is 0, because others make products slow."""
    lowest = math.log(torch.finfo(sums.dtype).tiny) + 7
    return F.threshold(sums, lowest, -math.inf, inplace=True).exp_()


def _sums(like: Tensor) -> Tensor:
    """[G, (S + 2) * L, L] of ones and zeros: for each scale, then from the chunk's start to before each
    step, then from after each step to the chunk's end, the steps whose log_w is added up."""
    step = torch.arange(CHUNK, device=like.device)
    t, i = step[:, None], step[None, :]
    sums = []
    for half in SCALES:
        middle = t // (2 * half) * (2 * half) + half
        sums.append(torch.where(t >= middle, (middle <= i) & (i < t), (t < i) & (i < middle)))
    return torch.cat([*sums, i < t, i > t]).to(like.dtype).expand(len(like), -1, -1)


def _pairs(like: Tensor) -> Tensor:
    """[S, L, L] of ones and zeros: which (t, j) belong to a scale."""
    return torch.stack([_across(half, like) for half in SCALES])


def _neighbours(like: Tensor) -> Tensor:
    """[L, L]: the pairs of scale 1."""
    return _across(1, like)


def _across(half: int, like: Tensor) -> Tensor:
    """[L, L]: 1 where j lies in the first and t in the second half of a block."""
    t = torch.arange(CHUNK, device=like.device)[:, None] // half
    return ((t == t.T + 1) & (t % 2 == 1)).to(like.dtype)


def _scaled(r: Tensor, k: Tensor, factors: Tensor) -> Tensor:
    """X [G, S, L, N]: in each scale's second halves r, in the first halves k, times their factors."""
    x = torch.empty_like(factors[:, :-2])
    for i, half in enumerate(SCALES):
        for source, second in ((k, False), (r, True)):
            parts = (_half(z, half, second) for z in (source, factors[:, i]))
            torch.mul(*parts, out=_half(x[:, i], half, second))
    return x


def _half(x: Tensor, half: int, second: bool) -> Tensor:
    """The first or the second half of each block of [G, L, N]: a view [G, L / (2 half), half, N]."""
    return x.view(len(x), -1, 2, half, x.shape[-1])[:, :, int(second)]


def _bonus(u: Tensor, like: Tensor) -> Tensor:
    """[H, N] -> [G, 1, N]."""
    return u.repeat(len(like) // len(u), 1).unsqueeze(1)


def _room(x: Tensor, state: Tensor) -> Tensor:
    """For the states at all chunks' ends: [chunks + 1, B * H, N, N]."""
    batch, heads, width, _ = state.shape
    return x.new_empty(len(x) // (batch * heads) + 1, batch * heads, width, width)


def _flat(states: Tensor) -> Tensor:
    """[chunks, B * H, N, N] -> [G, N, N], a view."""
    return states.view(-1, *states.shape[2:])


def _scan(states: Tensor, decays: Tensor, *, reverse: bool = False) -> None:
    """S <- S diag(decay) + addend over all chunks, in place.

    `states` holds the start and, where its result shall go, each chunk's addend; `decays` [G, 1, N].
    In reverse it runs from the last chunk to the first, and entry i still belongs to the start of chunk i.
    """
    decays = decays.view(len(states) - 1, -1, 1, states.shape[-1])
    for i in reversed(range(len(decays))) if reverse else range(len(decays)):
        source, target = (states[i + 1], states[i]) if reverse else (states[i], states[i + 1])
        target.addcmul_(source, decays[i])
