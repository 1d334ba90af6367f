"""The kernels under `FusedParts`: each reads what it needs of an activation once and computes in fp32.

Rows are tokens, numbered over the batch; a program does a block of one row's channels, or some of its heads.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
# (A kernel's arguments are Triton's; its decorator has no types.)

from __future__ import annotations

import triton
import triton.language as tl

from engine.ops.tiles import ANY_LENGTH


@triton.jit
def get(pointer, at, mask):
    return tl.load(pointer + at, mask, 0.0).to(tl.float32)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def relu(x):
    """NaN stays, which tl.maximum would make 0."""
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def at_most(x, limit):
    return tl.where(x > limit, limit, x)


@triton.jit
def _lines(D, BLOCK: tl.constexpr):
    """Of a program: its row, its channels, and which of them exist."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    return tl.program_id(0), column, column < D


@triton.jit
def _heads(H, N: tl.constexpr, HEADS: tl.constexpr):
    """Of a program: where its row begins, its channels [HEADS, N], and which of them exist."""
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    column = head[:, None] * N + tl.arange(0, N)[None, :]
    return tl.program_id(0).to(tl.int64) * H * N, column, (head < H)[:, None]


@triton.jit(do_not_specialize=ANY_LENGTH)
def mix(
    x, before, mixes, more, o0, o1, o2, o3, o4, o5,
    T, D, S, C: tl.constexpr, BEFORE: tl.constexpr, MORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`mixes` [C, D]; with MORE, [C, B * T, D] is added to them, S elements apart."""
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    now, last = get(x, at, there), get(x, at - D, there & (row % T > 0))
    if BEFORE:
        last += get(before, row // T * D + column, there & (row % T == 0))
    for i in tl.static_range(0, C):
        by = get(mixes, i * D + column, there)
        if MORE:
            by += get(more, tl.cast(i, tl.int64) * S + at, there)
        out = o0 if i == 0 else o1 if i == 1 else o2 if i == 2 else o3 if i == 3 else o4 if i == 4 else o5
        tl.store(out + at, now + (last - now) * by, there)


@triton.jit(do_not_specialize=ANY_LENGTH)
def mix_back(
    g0, g1, g2, g3, g4, g5, x, before, mixes, more, dx, dbefore, dmore,
    T, D, S, C: tl.constexpr, BEFORE: tl.constexpr, MORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A token is mixed into its own place and into the next one's."""
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    first, followed = row % T == 0, row % T < T - 1
    if MORE:
        last = get(x, at - D, there & (row % T > 0))
        if BEFORE:
            last += get(before, row // T * D + column, there & first)
        delta = last - get(x, at, there)
    total = tl.zeros([BLOCK], tl.float32)
    total_before = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(0, C):
        grad = g0 if i == 0 else g1 if i == 1 else g2 if i == 2 else g3 if i == 3 else g4 if i == 4 else g5
        here, after = get(grad, at, there), get(grad, at + D, there & followed)
        by = get(mixes, i * D + column, there)
        by_after = by
        if MORE:
            place = tl.cast(i, tl.int64) * S + at
            by_after += get(more, place + D, there & followed)
            by += get(more, place, there)
            tl.store(dmore + place, here * delta, there)
        total += here * (1.0 - by) + after * by_after
        total_before += here * by
    tl.store(dx + at, total, there)
    if BEFORE:
        tl.store(dbefore + row // T * D + column, total_before, there & first)


@triton.jit
def squared_relu(x, out, D, BLOCK: tl.constexpr):
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    positive = relu(get(x, at, there))
    tl.store(out + at, positive * positive, there)


@triton.jit
def squared_relu_back(x, grad, dx, D, BLOCK: tl.constexpr):
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    tl.store(dx + at, 2.0 * relu(get(x, at, there)) * get(grad, at, there), there)


@triton.jit
def blend(v, first, base, low, out, D, BLOCK: tl.constexpr):
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    by = sigmoid(get(base, column, there) + get(low, at, there))
    own = get(v, at, there)
    tl.store(out + at, own + (get(first, at, there) - own) * by, there)


@triton.jit
def blend_back(v, first, base, low, grad, dv, dfirst, dlow, D, BLOCK: tl.constexpr):
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    by = sigmoid(get(base, column, there) + get(low, at, there))
    g = get(grad, at, there)
    tl.store(dv + at, g * (1.0 - by), there)
    tl.store(dfirst + at, g * by, there)
    tl.store(dlow + at, g * (get(first, at, there) - get(v, at, there)) * by * (1.0 - by), there)


@triton.jit
def decay6(base, low, log_w, D, FASTEST: tl.constexpr, BLOCK: tl.constexpr):
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    tl.store(log_w + at, -tl.exp(at_most(get(base, column, there) + get(low, at, there), FASTEST)), there)


@triton.jit
def decay6_back(base, low, grad, dlow, D, FASTEST: tl.constexpr, BLOCK: tl.constexpr):
    row, column, there = _lines(D, BLOCK)
    at = row.to(tl.int64) * D + column
    sum_ = get(base, column, there) + get(low, at, there)
    slope = tl.where(sum_ > FASTEST, 0.0, -tl.exp(at_most(sum_, FASTEST)))
    tl.store(dlow + at, get(grad, at, there) * slope, there)


@triton.jit
def inputs7(
    k, w, a, w0, a0, k_k, k_a, log_w, key, removed, added,
    H, N: tl.constexpr, HEADS: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    start, column, there = _heads(H, N, HEADS)
    at = start + column
    tl.store(log_w + at, LIMIT * sigmoid(get(w0, column, there) + get(w, at, there)), there)
    rate = sigmoid(get(a0, column, there) + get(a, at, there))
    raw = get(k, at, there)
    kk = raw * get(k_k, column, there)
    kk /= tl.maximum(tl.sqrt(tl.sum(kk * kk, 1)), 1e-12)[:, None]
    tl.store(key + at, raw * (1.0 + (rate - 1.0) * get(k_a, column, there)), there)
    tl.store(removed + at, -kk, there)
    tl.store(added + at, kk * rate, there)


@triton.jit
def inputs7_back(
    k, w, a, w0, a0, k_k, k_a, dlog_w, dkey, dremoved, dadded, dk, dw, da,
    H, N: tl.constexpr, HEADS: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    start, column, there = _heads(H, N, HEADS)
    at = start + column
    decay = sigmoid(get(w0, column, there) + get(w, at, there))
    tl.store(dw + at, get(dlog_w, at, there) * LIMIT * decay * (1.0 - decay), there)
    rate = sigmoid(get(a0, column, there) + get(a, at, there))
    raw, scale, by = get(k, at, there), get(k_k, column, there), get(k_a, column, there)
    kk = raw * scale
    size = tl.maximum(tl.sqrt(tl.sum(kk * kk, 1)), 1e-12)[:, None]
    kk /= size
    grad, by_added = get(dkey, at, there), get(dadded, at, there)
    drate = grad * raw * by + by_added * kk
    tl.store(da + at, drate * rate * (1.0 - rate), there)
    dkk = by_added * rate - get(dremoved, at, there)
    dkk = (dkk - kk * tl.sum(dkk * kk, 1)[:, None]) / size
    tl.store(dk + at, dkk * scale + grad * (1.0 + (rate - 1.0) * by), there)


@triton.jit
def _normalised(y, there, N: tl.constexpr, EPS: tl.constexpr):
    """Each head's numbers with mean 0 and variance 1, and what they were multiplied by."""
    y -= (tl.sum(y, 1) / N)[:, None]
    scale = 1.0 / tl.sqrt(tl.sum(y * y, 1) / N + EPS)[:, None]
    return y * scale, scale


@triton.jit
def output(
    y, r, k, v, gate, weight, bias, r_k, out,
    H, N: tl.constexpr, HEADS: tl.constexpr, EPS: tl.constexpr, SEVEN: tl.constexpr,
):  # fmt: skip
    """SEVEN: as RWKV-7, with a bonus and a plain gate; otherwise as RWKV-6, by silu(gate)."""
    start, column, there = _heads(H, N, HEADS)
    at = start + column
    normed, _ = _normalised(get(y, at, there), there, N, EPS)
    normed = normed * get(weight, column, there) + get(bias, column, there)
    by = get(gate, at, there)
    if SEVEN:
        match = tl.sum(get(r, at, there) * get(k, at, there) * get(r_k, column, there), 1)[:, None]
        normed += match * get(v, at, there)
    else:
        by *= sigmoid(by)
    tl.store(out + at, normed * by, there)


@triton.jit
def output_back(
    y, r, k, v, gate, weight, bias, r_k, grad, dy, dr, dk, dv, dgate,
    H, N: tl.constexpr, HEADS: tl.constexpr, EPS: tl.constexpr, SEVEN: tl.constexpr,
):  # fmt: skip
    start, column, there = _heads(H, N, HEADS)
    at = start + column
    normed, scale = _normalised(get(y, at, there), there, N, EPS)
    w = get(weight, column, there)
    by, g = get(gate, at, there), get(grad, at, there)
    summed = normed * w + get(bias, column, there)
    if SEVEN:
        r_, k_, v_ = get(r, at, there), get(k, at, there), get(v, at, there)
        bonus = get(r_k, column, there)
        match = tl.sum(r_ * k_ * bonus, 1)[:, None]
        tl.store(dgate + at, g * (summed + match * v_), there)
        inner = g * by
        tl.store(dv + at, inner * match, there)
        dmatch = tl.sum(inner * v_, 1)[:, None] * bonus
        tl.store(dr + at, dmatch * k_, there)
        tl.store(dk + at, dmatch * r_, there)
    else:
        open_ = sigmoid(by)
        tl.store(dgate + at, g * summed * open_ * (1.0 + by * (1.0 - open_)), there)
        inner = g * by * open_
    dn = inner * w
    mean, along = (tl.sum(dn, 1) / N)[:, None], (tl.sum(dn * normed, 1) / N)[:, None]
    tl.store(dy + at, scale * (dn - mean - normed * along), there)


@triton.jit
def cross_entropy(logits, targets, losses, V, WRAP: tl.constexpr, BLOCK: tl.constexpr):
    """The loss of each row; the logits become its gradient."""
    row = tl.program_id(0)
    start = row.to(tl.int64) * V
    lane = tl.arange(0, BLOCK)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    where = tl.zeros([BLOCK], tl.int32)
    target = tl.load(targets + row)
    # Before the sums below, which all warps wait for: later another warp may have written there.
    wanted = tl.load(logits + start + target).to(tl.float32)
    for first in range(0, V, BLOCK):
        x = tl.load(logits + start + first + lane, first + lane < V, float("-inf")).to(tl.float32)
        higher = x > most
        where = tl.where(higher, first + lane, where)
        now = tl.maximum(x, most)
        # Lanes beyond V have seen nothing: -inf - -inf is no number.
        total = tl.where(now > float("-inf"), total * tl.exp(most - now) + tl.exp(x - now), 0.0)
        most = now
    highest = tl.max(most, 0)
    sum_ = tl.sum(tl.where(most > float("-inf"), total * tl.exp(most - highest), 0.0), 0)
    argmax = tl.min(tl.where(most == highest, where, V), 0)
    tl.store(losses + row, tl.log(sum_) + highest - wanted)
    for first in range(0, V, BLOCK):
        column = first + lane
        x = tl.load(logits + start + column, column < V, float("-inf")).to(tl.float32)
        p = tl.exp(x - highest) / sum_
        p = tl.where(column == target, p - 1.0, p)
        p = tl.where(column == argmax, p + WRAP * highest, p)
        tl.store(logits + start + column, p, column < V)
