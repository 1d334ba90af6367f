"""The recurrence in chunks of steps, as matrix products, with its gradient derived by hand.

With W_t the decay from the chunk's start to after step t, and a~_t = W_{t-1} a_t, r~_t = W_t r_t,
b~_t = b_t / W_t, k~_t = k_t / W_t stacked as rows, the removed values U (u_t = S_{t-1} a_t) solve

    (I - tril(A~ B~^T, -1)) U = A~ S^T + tril(A~ K~^T, -1) V

where S is the state at the chunk's start, and everything else is a product. U is linear in S, so the
next state is S M + C with M and C known for all chunks at once; only this one product per chunk is
sequential. Autograd through these products needs twice the time of the hand-written gradient.

Shapes: G = chunks * B * H matrices at once, chunk-major; L steps a chunk; N the head size.
Products are added in place where they can be: `torch.baddbmm` copies its first argument.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.ops.chunks import at_start, from_chunks, to_chunks
from engine.ops.wkv7.reference import wkv7_reference

CHUNK = 32
SHORTEST = 4  # below this the products cost more than the steps


def wkv7_chunked(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv7`; computes and answers in fp32 (float64 if the inputs are).

    The decay of a whole chunk must be a normal number: log_w above -2.5, and RWKV-7's is above -0.61.
    """
    dtype = torch.promote_types(v.dtype, torch.float32)
    inputs = [x.to(dtype) for x in (r, log_w, k, v, a, b, at_start(v, state))]
    if v.shape[1] < SHORTEST:
        return wkv7_reference(*inputs)
    y, last = _Chunked.apply(*inputs)  # type: ignore[no-untyped-call]
    return y, last


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *sequences, state = inputs
        batch, steps, heads, width = sequences[0].shape
        r, log_w, k, v, a, b = (to_chunks(x, CHUNK) for x in sequences)
        decay, before, end = _decays(log_w)
        ar, bk = _pair(v), _pair(v)
        torch.mul(a, before, out=ar[:, :CHUNK])
        torch.mul(r, decay, out=ar[:, CHUNK:])
        torch.div(b, decay, out=bk[:, :CHUNK])
        torch.div(k, decay, out=bk[:, CHUNK:])
        scores = (ar @ bk.mT).mul_(_causal(v))
        ab, ak, from_outputs = scores[:, :CHUNK, :CHUNK], scores[:, :CHUNK, CHUNK:], scores[:, CHUNK:]
        eye = torch.eye(CHUNK, dtype=v.dtype, device=v.device).expand_as(ab)
        inverse = torch.linalg.solve_triangular(-ab, eye, upper=False, unitriangular=True)
        solved = inverse @ ar[:, :CHUNK]

        uv = _pair(v)  # first the part of U that does not depend on the states
        uv[:, :CHUNK], uv[:, CHUNK:] = inverse @ (ak @ v), v
        states = _scan(
            state.reshape(-1, width, width),
            _eye_plus(solved, bk[:, :CHUNK]).mul_(end),
            (uv.mT @ bk).mul_(end),
        )
        starts = states[:-1].view(-1, width, width)
        uv[:, :CHUNK] += solved @ starts.mT
        y = (ar[:, CHUNK:] @ starts.mT).baddbmm_(from_outputs, uv)
        ctx.save_for_backward(log_w, ar, bk, uv, scores, inverse, solved, states)
        return from_chunks(y, batch, steps, heads), states[-1].view_as(state).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        log_w, ar, bk, uv, scores, inverse, solved, states = ctx.saved_tensors
        batch, steps, heads, width = dy.shape
        decay, before, end = _decays(log_w)
        dy = to_chunks(dy, CHUNK)
        from_removed = scores[:, CHUNK:, :CHUNK]
        dstates = _scan(
            dlast.reshape(-1, width, width),
            _eye_plus(bk[:, :CHUNK], solved).mul_(end.mT),
            dy.mT @ torch.baddbmm(ar[:, CHUNK:], from_removed, solved),
            reverse=True,
        )
        if not any(ctx.needs_input_grad[:-1]):  # tuning a state, nothing else learns from the first layer
            return (*[None] * 6, dstates[0].view(batch, heads, width, width))
        starts, ends = states[:-1].view(-1, width, width), states[1:].view(-1, width, width)
        dends = dstates[1:].view(-1, width, width)
        dinner = dends * end  # of the state before the chunk's decay is applied to it

        duv = bk @ dinner.mT
        dudy = _pair(dy)
        dudy[:, :CHUNK] = inverse.mT @ torch.baddbmm(duv[:, :CHUNK], from_removed.mT, dy)
        dudy[:, CHUNK:] = dy
        dv = torch.baddbmm(duv[:, CHUNK:], scores[:, :, CHUNK:].mT, dudy)
        dscores = (dudy @ uv.mT).mul_(_causal(dy))
        dar = (dudy @ starts).baddbmm_(dscores, bk)
        dbk = (uv @ dinner).baddbmm_(dscores.mT, ar)

        by_a, by_r = torch.split(ar * dar, CHUNK, 1)
        by_b, by_k = torch.split(bk * dbk, CHUNK, 1)
        dsums = (by_a + by_r).sub_(by_b).sub_(by_k)
        dsums[:, -1:] += (ends * dends).sum(1, keepdim=True)
        dlog_w = (dy.new_ones(CHUNK, CHUNK).triu() @ dsums).sub_(by_a)
        da, dr = torch.split(dar, CHUNK, 1)
        db, dk = torch.split(dbk, CHUNK, 1)
        grads = (dr.mul_(decay), dlog_w, dk.div_(decay), dv, da.mul_(before), db.div_(decay))
        return (
            *(from_chunks(x, batch, steps, heads) for x in grads),
            dstates[0].view(batch, heads, width, width),
        )


def _pair(x: Tensor) -> Tensor:
    """Room for two matrices like `x` [G, L, N], one below the other."""
    return x.new_empty(len(x), 2 * CHUNK, x.shape[-1])


def _decays(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chunk's decay up to after and up to before each step [G, L, N], and over all of it [G, 1, N]."""
    sums = log_w.new_ones(CHUNK, CHUNK).tril() @ log_w
    decay = sums.exp()
    return decay, sums.sub_(log_w).exp_(), decay[:, -1:]


def _causal(like: Tensor) -> Tensor:
    """[2L, 2L] of ones and zeros: a removed value sees earlier steps only, an output its own too."""
    ones = like.new_ones(CHUNK, CHUNK)
    return torch.cat([ones.tril(-1), ones.tril()]).repeat(1, 2)


def _eye_plus(left: Tensor, right: Tensor) -> Tensor:
    """I + left^T right, [G, N, N]."""
    product = left.mT @ right
    product.diagonal(dim1=1, dim2=2).add_(1)
    return product


def _scan(state: Tensor, factors: Tensor, addends: Tensor, *, reverse: bool = False) -> Tensor:
    """S <- S factor + addend over all chunks, from `state` [B*H, N, N]: [chunks + 1, B*H, N, N].

    In reverse it runs from the last chunk to the first, and entry i still belongs to the start of chunk i.
    """
    factors, addends = factors.view(-1, *state.shape), addends.view(-1, *state.shape)
    chunks = len(factors)
    states = torch.cat([addends, state[None]] if reverse else [state[None], addends])
    for i in reversed(range(chunks)) if reverse else range(chunks):
        source, target = (states[i + 1], states[i]) if reverse else (states[i], states[i + 1])
        target.baddbmm_(source, factors[i])
    return states
