"""The recurrence on a GPU, in chunks as in `chunked`, which explains the products and names the tensors.

Passes go along a sequence, for some rows of a head's state, or over all its chunks at once:

- `_inverses`, over chunks: (I - tril(A~ B~^T, -1))^-1, by halves: the inverses of two diagonal blocks
  and the block between them give the inverse of the whole.
- `_forward`, along: the state stays in registers. It writes the outputs, or for the backward pass the
  state at each chunk's start: nothing of that is kept in between, so all layers use the same memory.
- `_reverse`, along: the same for the states' gradients. If only the initial state learns from this layer
  (tuning a state, that is so in the first one), this is the whole backward pass.
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

# Steps of a chunk: at most 32, for e^(0.61 * 32) is a normal number in bf16 and fp32, and e^(0.61 * 64) one
# that leaves little room. Wide operands fit into the registers in shorter chunks and with more warps only.
CHUNK, WIDE_CHUNK = 32, 16
WARPS, WIDE_WARPS = 4, 8
KERNELS = ("_inverses", "_forward", "_reverse", "_gradients")


def wkv7_triton(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `engine.ops.wkv7`; bf16 is multiplied as such, sums and states are fp32."""
    # Triton starts kernels on the present device.
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        y, last = _Triton.apply(*contiguous(r, log_w, k, v, a, b, at_start(v, state)))  # type: ignore[no-untyped-call]
    return y, last


class _Triton(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*inputs)
        y, last = torch.empty_like(inputs[3]), torch.empty_like(inputs[6])
        grid, rows = along(y)
        _forward[grid](
            *inputs, _inverse(*inputs), y, last, y, **_sizes(y), R=rows, OUTPUTS=True,
            num_warps=warps_of("_forward", y),
        )  # fmt: skip
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        r, log_w, _, v, a, b, state = inputs
        batch, steps, heads, width = v.shape
        sizes, (grid, rows), warps = _sizes(v), along(v), warps_of("_forward", v)
        chunks, programs = triton.cdiv(steps, _chunk(v)), batch * heads
        dy, dlast = contiguous(dy, dlast)
        inverse, dstate = _inverse(*inputs), torch.empty_like(state)
        every = any(ctx.needs_input_grad[:6])
        shape = (programs, chunks, width, width) if every else (1,)
        dends = v.new_empty(shape, dtype=scratch_dtype(v.dtype))
        _reverse[grid](
            r, log_w, a, b, inverse, dy, dlast, dstate, dends, **sizes, R=rows, ENDS=every, num_warps=warps
        )  # fmt: skip
        if not every:
            return (*[None] * 6, dstate)
        starts, unused = torch.empty_like(dends), dstate
        _forward[grid](
            *inputs, inverse, unused, unused, starts, **sizes, R=rows, OUTPUTS=False, num_warps=warps
        )  # fmt: skip
        grads = [torch.empty_like(x) for x in inputs[:6]]
        _gradients[(chunks, programs)](
            *inputs[:6], inverse, dy, starts, dends, *grads, **sizes, num_warps=warps_of("_gradients", v)
        )  # fmt: skip
        return (*grads, dstate)


def _sizes(v: Tensor) -> dict[str, Any]:
    return {"T": v.shape[1], "H": v.shape[2], "N": v.shape[3], "L": _chunk(v), **options(v.dtype)}


def _chunk(v: Tensor) -> int:
    return CHUNK if v.dtype == torch.bfloat16 else WIDE_CHUNK


def warps_of(kernel: str, v: Tensor) -> int:
    """With how many warps a kernel is started: with more, less spills out of the registers."""
    if kernel == "_inverses":
        return WARPS
    return WARPS if v.dtype == torch.bfloat16 and kernel != "_gradients" else WIDE_WARPS


def _inverse(*inputs: Tensor) -> Tensor:
    """For each chunk the matrix that solves for the removed values: [B * H, chunks, L, L]."""
    _, log_w, _, v, a, b, _ = inputs
    batch, steps, heads, _ = v.shape
    length = _chunk(v)
    chunks = triton.cdiv(steps, length)
    inverse = v.new_empty(batch * heads, chunks, length, length, dtype=scratch_dtype(v.dtype))
    _inverses[(chunks, batch * heads)](log_w, a, b, inverse, **_sizes(v), num_warps=WARPS)
    return inverse


@triton.jit(do_not_specialize=ANY_LENGTH)
def _inverses(
    log_w, a, b, inverse,
    T, H, N: tl.constexpr, L: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0), tl.program_id(1)
    start, stride = start_of(head, T, H, N)
    at, exists = tile_at(chunk * L, T, stride, L, N)
    w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
    sums = tl.cumsum(w, 0)
    a_in = tl.load(a + start + at, exists, 0.0).to(tl.float32) * tl.exp(sums - w)
    b_in = tl.load(b + start + at, exists, 0.0).to(tl.float32) * tl.exp(-sums)
    scores = mul(a_in, tl.trans(b_in), DOT, PRECISION)
    t = tl.arange(0, L)
    row, column = t[:, None], t[None, :]
    found = tl.where(row == column, 1.0, 0.0)
    for level in tl.static_range(0, 6):
        if (1 << level) < L:
            i, j = row >> level, column >> level
            between = tl.where((i == j + 1) & (i % 2 == 1), scores, 0.0)
            # Not in DOT: errors here would be multiplied by each further level.
            found += mul(mul(found, between, tl.float32, PRECISION), found, tl.float32, PRECISION)
    tl.store(inverse + square_at(head * tl.cdiv(T, L) + chunk, L), found)


@triton.jit(do_not_specialize=ANY_LENGTH)
def _forward(
    r, log_w, k, v, a, b, state, inverse, y, last, starts,
    T, H, N: tl.constexpr, L: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    R: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1) * R
    start, stride = start_of(head, T, H, N)
    t = tl.arange(0, L)
    earlier, present = t[:, None] > t[None, :], t[:, None] >= t[None, :]
    s = tl.load(state + rows_at(head, row, R, N))
    chunks = tl.cdiv(T, L)
    for chunk in range(chunks):
        number = head * chunks + chunk
        if not OUTPUTS:
            tl.store(starts + rows_at(number, row, R, N), s)
        at, exists = tile_at(chunk * L, T, stride, L, N)
        at_rows, _ = columns_at(chunk * L, T, stride, row, L, R)
        w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
        sums, whole = tl.cumsum(w, 0), tl.sum(w, 0)[None, :]
        a_in = tl.load(a + start + at, exists, 0.0).to(tl.float32) * tl.exp(sums - w)
        b_ = tl.load(b + start + at, exists, 0.0).to(tl.float32)
        k_ = tl.load(k + start + at, exists, 0.0).to(tl.float32)
        v_ = tl.load(v + start + at_rows, exists, 0.0)
        k_in = k_ * tl.exp(-sums)
        ak = tl.where(earlier, mul(a_in, tl.trans(k_in), DOT, PRECISION), 0.0)
        x = mul(a_in, tl.trans(s), DOT, PRECISION) + mul(ak, v_, DOT, PRECISION)
        u = mul(tl.load(inverse + square_at(number, L)), x, DOT, PRECISION)
        if OUTPUTS:
            r_in = tl.load(r + start + at, exists, 0.0).to(tl.float32) * tl.exp(sums)
            b_in = b_ * tl.exp(-sums)
            rb = tl.where(present, mul(r_in, tl.trans(b_in), DOT, PRECISION), 0.0)
            rk = tl.where(present, mul(r_in, tl.trans(k_in), DOT, PRECISION), 0.0)
            out = mul(r_in, tl.trans(s), DOT, PRECISION)
            out += mul(rb, u, DOT, PRECISION) + mul(rk, v_, DOT, PRECISION)
            tl.store(y + start + at_rows, out, exists)
        to_end = tl.exp(whole - sums)
        s = s * tl.exp(whole) + mul(tl.trans(u), b_ * to_end, DOT, PRECISION)
        s += mul(tl.trans(v_), k_ * to_end, DOT, PRECISION)
    if OUTPUTS:
        tl.store(last + rows_at(head, row, R, N), s)


@triton.jit(do_not_specialize=ANY_LENGTH)
def _reverse(
    r, log_w, a, b, inverse, dy, dlast, dstate, dends,
    T, H, N: tl.constexpr, L: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    R: tl.constexpr, ENDS: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1) * R
    start, stride = start_of(head, T, H, N)
    t = tl.arange(0, L)
    present = t[:, None] >= t[None, :]
    ds = tl.load(dlast + rows_at(head, row, R, N))
    chunks = tl.cdiv(T, L)
    for i in range(chunks):
        chunk = chunks - 1 - i
        number = head * chunks + chunk
        if ENDS:
            tl.store(dends + rows_at(number, row, R, N), ds)
        at, exists = tile_at(chunk * L, T, stride, L, N)
        at_rows, _ = columns_at(chunk * L, T, stride, row, L, R)
        w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
        sums, whole = tl.cumsum(w, 0), tl.sum(w, 0)[None, :]
        r_in = tl.load(r + start + at, exists, 0.0).to(tl.float32) * tl.exp(sums)
        a_in = tl.load(a + start + at, exists, 0.0).to(tl.float32) * tl.exp(sums - w)
        b_ = tl.load(b + start + at, exists, 0.0).to(tl.float32)
        dy_ = tl.load(dy + start + at_rows, exists, 0.0)
        rb = tl.where(present, mul(r_in, tl.trans(b_ * tl.exp(-sums)), DOT, PRECISION), 0.0)
        du = mul(tl.trans(rb), dy_, DOT, PRECISION)
        du += mul(b_ * tl.exp(whole - sums), tl.trans(ds), DOT, PRECISION)
        dx = mul(tl.trans(tl.load(inverse + square_at(number, L))), du, DOT, PRECISION)
        ds = ds * tl.exp(whole) + mul(tl.trans(dx), a_in, DOT, PRECISION)
        ds += mul(tl.trans(dy_), r_in, DOT, PRECISION)
    tl.store(dstate + rows_at(head, row, R, N), ds)


@triton.jit(do_not_specialize=ANY_LENGTH)
def _gradients(
    r, log_w, k, v, a, b, inverse, dy, starts, dends, dr, dlog_w, dk, dv, da, db,
    T, H, N: tl.constexpr, L: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0), tl.program_id(1)
    number = head * tl.cdiv(T, L) + chunk
    start, stride = start_of(head, T, H, N)
    at, exists = tile_at(chunk * L, T, stride, L, N)
    t = tl.arange(0, L)
    earlier, present = t[:, None] > t[None, :], t[:, None] >= t[None, :]
    w = tl.load(log_w + start + at, exists, 0.0).to(tl.float32)
    sums, whole = tl.cumsum(w, 0), tl.sum(w, 0)[None, :]
    # Rounded once: what is subtracted for log_w further below then cancels as it should.
    a_in = (tl.load(a + start + at, exists, 0.0).to(tl.float32) * tl.exp(sums - w)).to(DOT)
    r_in = (tl.load(r + start + at, exists, 0.0).to(tl.float32) * tl.exp(sums)).to(DOT)
    b_in = (tl.load(b + start + at, exists, 0.0).to(tl.float32) * tl.exp(-sums)).to(DOT)
    k_in = (tl.load(k + start + at, exists, 0.0).to(tl.float32) * tl.exp(-sums)).to(DOT)
    v_, dy_ = tl.load(v + start + at, exists, 0.0), tl.load(dy + start + at, exists, 0.0)
    s, solve = tl.load(starts + square_at(number, N)), tl.load(inverse + square_at(number, L))
    ds = tl.load(dends + square_at(number, N))
    inner = ds.to(tl.float32) * tl.exp(whole)  # of the state before the chunk's decay is applied to it

    ak = tl.where(earlier, mul(a_in, tl.trans(k_in), DOT, PRECISION), 0.0)
    u = mul(solve, mul(a_in, tl.trans(s), DOT, PRECISION) + mul(ak, v_, DOT, PRECISION), DOT, PRECISION)
    rb = tl.where(present, mul(r_in, tl.trans(b_in), DOT, PRECISION), 0.0)
    du = mul(tl.trans(rb), dy_, DOT, PRECISION) + mul(b_in, tl.trans(inner), DOT, PRECISION)
    dx = mul(tl.trans(solve), du, DOT, PRECISION)
    rk = tl.where(present, mul(r_in, tl.trans(k_in), DOT, PRECISION), 0.0)
    out = mul(tl.trans(rk), dy_, DOT, PRECISION) + mul(tl.trans(ak), dx, DOT, PRECISION)
    out += mul(k_in, tl.trans(inner), DOT, PRECISION)
    tl.store(dv + start + at, out, exists)

    dab = tl.where(earlier, mul(dx, tl.trans(u), DOT, PRECISION), 0.0).to(DOT)
    dak = tl.where(earlier, mul(dx, tl.trans(v_), DOT, PRECISION), 0.0).to(DOT)
    da_in = mul(dab, b_in, DOT, PRECISION) + mul(dak, k_in, DOT, PRECISION) + mul(dx, s, DOT, PRECISION)
    tl.store(da + start + at, da_in * tl.exp(sums - w), exists)
    by_a = da_in * a_in
    drb = tl.where(present, mul(dy_, tl.trans(u), DOT, PRECISION), 0.0).to(DOT)
    drk = tl.where(present, mul(dy_, tl.trans(v_), DOT, PRECISION), 0.0).to(DOT)
    dr_in = mul(drb, b_in, DOT, PRECISION) + mul(drk, k_in, DOT, PRECISION) + mul(dy_, s, DOT, PRECISION)
    tl.store(dr + start + at, dr_in * tl.exp(sums), exists)
    dsums = by_a + dr_in * r_in
    db_in = mul(tl.trans(dab), a_in, DOT, PRECISION) + mul(tl.trans(drb), r_in, DOT, PRECISION)
    db_end = mul(u, inner, DOT, PRECISION)
    tl.store(db + start + at, (db_in + db_end) * tl.exp(-sums), exists)
    dk_in = mul(tl.trans(dak), a_in, DOT, PRECISION) + mul(tl.trans(drk), r_in, DOT, PRECISION)
    dk_end = mul(v_, inner, DOT, PRECISION)
    tl.store(dk + start + at, (dk_in + dk_end) * tl.exp(-sums), exists)
    by_end = db_end * b_in + dk_end * k_in
    dsums -= db_in * b_in + dk_in * k_in + by_end
    dwhole = tl.sum(by_end, 0) + tl.sum(s.to(tl.float32) * inner, 0)
    dw = tl.cumsum(dsums, 0, reverse=True) - by_a + dwhole[None, :]
    tl.store(dlog_w + start + at, dw, exists)
