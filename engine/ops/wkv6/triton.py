"""The recurrence on a GPU, in chunks as in `chunked`, which explains how strong decays are kept apart.

Passes go along a sequence, for some rows of a head's state, or over all its chunks at once:

- `_states`, along: the state at each chunk's start. The backward pass makes them again: nothing is kept
  in between, so all layers use the same memory.
- `_outputs`, over chunks.
- `_reverse`, along: the states' gradients. If only the initial state learns from this layer (tuning a
  state, that is so in the first one), this is the whole backward pass.
- `_gradients`, over chunks: everything else, from the states and their gradients.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
# (A kernel's arguments are Triton's; its decorator has no types.)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.ops.chunks import at_start
from engine.ops.tiles import (
    ANY_LENGTH,
    along,
    columns_at,
    contiguous,
    mul,
    options,
    rows_at,
    scratch_dtype,
    square_at,
    start_of,
    tile_at,
)

CHUNK = 16
LEVELS = 4  # scales of 1, 2, 4, 8 steps
WARPS, MANY_WARPS = 4, 8
KERNELS = ("_states", "_outputs", "_reverse", "_gradients")


def wkv6_triton(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv6`; bf16 is multiplied as such, sums and states are fp32."""
    # Triton starts kernels on the present device.
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        y, last = _Triton.apply(*contiguous(r, log_w, k, v, u, at_start(v, state)))  # type: ignore[no-untyped-call]
    return y, last


class _Triton(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*inputs)
        starts, last = _make_states(*inputs)
        y = torch.empty_like(inputs[3])
        grid = (starts.shape[1], starts.shape[0])
        _outputs[grid](*inputs[:5], starts, y, **_sizes(y), num_warps=WARPS)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        r, log_w, k, v, u, state = inputs
        batch, steps, heads, width = v.shape
        sizes, chunks, programs = _sizes(v), triton.cdiv(steps, CHUNK), batch * heads
        dy, dlast = contiguous(dy, dlast)
        dstate = torch.empty_like(state)
        every, bonus = any(ctx.needs_input_grad[:5]), ctx.needs_input_grad[4]
        shape = (programs, chunks, width, width) if every else (1,)
        dends = v.new_empty(shape, dtype=scratch_dtype(v.dtype))
        grid, rows = along(v)
        _reverse[grid](r, log_w, dy, dlast, dstate, dends, **sizes, R=rows, ENDS=every, num_warps=WARPS)
        if not every:
            return (*[None] * 5, dstate)
        starts, _ = _make_states(*inputs)
        grads = [torch.empty_like(x) for x in (r, log_w, k, v)]
        parts = u.new_empty((batch, heads, chunks, width) if bonus else (1,), dtype=torch.float32)
        warps = warps_of("_gradients", v)
        _gradients[(chunks, programs)](
            r, log_w, k, v, u, dy, starts, dends, *grads, parts, **sizes, BONUS=bonus, num_warps=warps
        )  # fmt: skip
        return (*grads, parts.sum((0, 2)).to(u.dtype) if bonus else None, dstate)


def _make_states(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The state at each chunk's start [B * H, chunks, N, N] and the last one."""
    _, log_w, k, v, _, state = inputs
    batch, steps, heads, width = v.shape
    programs, chunks = batch * heads, triton.cdiv(steps, CHUNK)
    starts = v.new_empty(programs, chunks, width, width, dtype=scratch_dtype(v.dtype))
    last = torch.empty_like(state)
    grid, rows = along(v)
    _states[grid](log_w, k, v, state, starts, last, **_sizes(v), R=rows, num_warps=WARPS)
    return starts, last


def _sizes(v: Tensor) -> dict[str, Any]:
    shape = {"T": v.shape[1], "H": v.shape[2], "N": v.shape[3]}
    return {**shape, "L": CHUNK, "LEVELS": LEVELS, **options(v.dtype)}


def warps_of(kernel: str, v: Tensor) -> int:
    """With how many warps a kernel is started: with more, nothing of `_gradients` spills in bf16."""
    return MANY_WARPS if kernel == "_gradients" else WARPS


@triton.jit
def _between(level: tl.constexpr, L: tl.constexpr):
    """[L, L]: for step t (rows) the steps i from the middle of its block to t, or from t to the middle."""
    t, i = tl.arange(0, L)[:, None], tl.arange(0, L)[None, :]
    middle = ((t >> (level + 1)) << (level + 1)) + (1 << level)
    return tl.where(t >= middle, (middle <= i) & (i < t), (t < i) & (i < middle)).to(tl.float32)


@triton.jit
def _pairs(level: tl.constexpr, L: tl.constexpr):
    """[L, L]: whether j (columns) lies in the first and t in the second half of a block."""
    t, j = tl.arange(0, L)[:, None] >> level, tl.arange(0, L)[None, :] >> level
    return (t == j + 1) & (t % 2 == 1)


@triton.jit
def _add_up(steps, w):
    """[L, L] of ones and zeros times [L, N], as exact as fp32 whatever the inputs are."""
    return tl.dot(steps, w, input_precision="tf32x3")


@triton.jit
def _scaled(r_, k_, w, level: tl.constexpr, L: tl.constexpr):
    """In the second halves of a scale's blocks r, in the first k, decayed to the middle; and the decays."""
    second = ((tl.arange(0, L) >> level) % 2 == 1)[:, None]
    factor = tl.exp(_add_up(_between(level, L), w))
    return tl.where(second, r_, k_) * factor, factor, second


@triton.jit
def _scores(r_, k_, w, u_, L: tl.constexpr, LEVELS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """[L, L]: with which weight each output (rows) reads each value of its chunk."""
    t = tl.arange(0, L)
    found = tl.where(t[:, None] == t[None, :], tl.sum(r_ * u_ * k_, 1)[:, None], 0.0)
    for level in tl.static_range(0, LEVELS):
        x, _, _ = _scaled(r_, k_, w, level, L)
        found += tl.where(_pairs(level, L), mul(x, tl.trans(x), DOT, PRECISION), 0.0)
    return found


@triton.jit(do_not_specialize=ANY_LENGTH)
def _states(
    log_w, k, v, state, starts, last,
    T, H, N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1) * R
    start, stride = start_of(head, T, H, N)
    t = tl.arange(0, L)
    after = (t[None, :] > t[:, None]).to(tl.float32)
    s = tl.load(state + rows_at(head, row, R, N))
    chunks = tl.cdiv(T, L)
    for chunk in range(chunks):
        tl.store(starts + rows_at(head * chunks + chunk, row, R, N), s)
        at, exists = tile_at(chunk * L, T, stride, L, N)
        at_rows, _ = columns_at(chunk * L, T, stride, row, L, R)
        w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
        k_end = tl.load(k + start + at, exists, 0.0).to(tl.float32) * tl.exp(_add_up(after, w))
        v_ = tl.load(v + start + at_rows, exists, 0.0)
        s = s * tl.exp(tl.sum(w, 0))[None, :] + mul(tl.trans(v_), k_end, DOT, PRECISION)
    tl.store(last + rows_at(head, row, R, N), s)


@triton.jit(do_not_specialize=ANY_LENGTH)
def _outputs(
    r, log_w, k, v, u, starts, y,
    T, H, N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0), tl.program_id(1)
    start, stride = start_of(head, T, H, N)
    at, exists = tile_at(chunk * L, T, stride, L, N)
    t = tl.arange(0, L)
    before = (t[None, :] < t[:, None]).to(tl.float32)
    u_ = tl.load(u + (head % H) * N + tl.arange(0, N)).to(tl.float32)[None, :]
    w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
    r_ = tl.load(r + start + at, exists, 0.0).to(tl.float32)
    k_ = tl.load(k + start + at, exists, 0.0).to(tl.float32)
    v_ = tl.load(v + start + at, exists, 0.0)
    s = tl.load(starts + square_at(head * tl.cdiv(T, L) + chunk, N))
    scores = _scores(r_, k_, w, u_, L, LEVELS, DOT, PRECISION)
    r_start = r_ * tl.exp(_add_up(before, w))
    out = mul(r_start, tl.trans(s), DOT, PRECISION) + mul(scores, v_, DOT, PRECISION)
    tl.store(y + start + at, out, exists)


@triton.jit(do_not_specialize=ANY_LENGTH)
def _reverse(
    r, log_w, dy, dlast, dstate, dends,
    T, H, N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr, R: tl.constexpr, ENDS: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1) * R
    start, stride = start_of(head, T, H, N)
    t = tl.arange(0, L)
    before = (t[None, :] < t[:, None]).to(tl.float32)
    ds = tl.load(dlast + rows_at(head, row, R, N))
    chunks = tl.cdiv(T, L)
    for i in range(chunks):
        chunk = chunks - 1 - i
        if ENDS:
            tl.store(dends + rows_at(head * chunks + chunk, row, R, N), ds)
        at, exists = tile_at(chunk * L, T, stride, L, N)
        at_rows, _ = columns_at(chunk * L, T, stride, row, L, R)
        w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
        r_start = tl.load(r + start + at, exists, 0.0).to(tl.float32) * tl.exp(_add_up(before, w))
        dy_ = tl.load(dy + start + at_rows, exists, 0.0)
        ds = ds * tl.exp(tl.sum(w, 0))[None, :] + mul(tl.trans(dy_), r_start, DOT, PRECISION)
    tl.store(dstate + rows_at(head, row, R, N), ds)


@triton.jit(do_not_specialize=ANY_LENGTH)
def _gradients(
    r, log_w, k, v, u, dy, starts, dends, dr, dlog_w, dk, dv, parts,
    T, H, N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr, BONUS: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0), tl.program_id(1)
    number = head * tl.cdiv(T, L) + chunk
    start, stride = start_of(head, T, H, N)
    at, exists = tile_at(chunk * L, T, stride, L, N)
    t, n = tl.arange(0, L), tl.arange(0, N)
    before, after = (t[None, :] < t[:, None]).to(tl.float32), (t[None, :] > t[:, None]).to(tl.float32)
    u_ = tl.load(u + (head % H) * N + n).to(tl.float32)[None, :]
    w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
    r_ = tl.load(r + start + at, exists, 0.0).to(tl.float32)
    k_ = tl.load(k + start + at, exists, 0.0).to(tl.float32)
    v_, dy_ = tl.load(v + start + at, exists, 0.0), tl.load(dy + start + at, exists, 0.0)
    s, ds = tl.load(starts + square_at(number, N)), tl.load(dends + square_at(number, N))

    to_end = tl.exp(_add_up(after, w))
    scores = _scores(r_, k_, w, u_, L, LEVELS, DOT, PRECISION)
    out = mul(tl.trans(scores), dy_, DOT, PRECISION) + mul(k_ * to_end, tl.trans(ds), DOT, PRECISION)
    tl.store(dv + start + at, out, exists)

    from_start = tl.exp(_add_up(before, w))
    dr_, dk_ = mul(dy_, s, DOT, PRECISION) * from_start, mul(v_, ds, DOT, PRECISION) * to_end
    # `after` and `before` are each other's transposed.
    dw = _add_up(after, dr_ * r_) + _add_up(before, dk_ * k_)
    dw += tl.sum(s.to(tl.float32) * ds.to(tl.float32), 0)[None, :] * tl.exp(tl.sum(w, 0))[None, :]
    dscores = mul(dy_, tl.trans(v_), DOT, PRECISION)
    for level in tl.static_range(0, LEVELS):
        x, factor, second = _scaled(r_, k_, w, level, L)
        x = x.to(DOT)  # rounded once: what is subtracted for log_w then cancels as it should
        d = tl.where(_pairs(level, L), dscores, 0.0)
        dx = mul(d + tl.trans(d), x, DOT, PRECISION)
        dw += _add_up(tl.trans(_between(level, L)), dx * x)
        dr_ += tl.where(second, dx * factor, 0.0)
        dk_ += tl.where(second, 0.0, dx * factor)
    present = tl.sum(dy_.to(tl.float32) * v_.to(tl.float32), 1)[:, None]
    tl.store(dr + start + at, dr_ + present * u_ * k_, exists)
    tl.store(dk + start + at, dk_ + present * u_ * r_, exists)
    tl.store(dlog_w + start + at, dw, exists)
    if BONUS:
        tl.store(parts + number * N + n, tl.sum(present * r_ * k_, 0))
