"""What the Triton kernels of both recurrences share: tiles of chunks, and how they are multiplied.

A program works on one head of one sequence. `L` steps make a chunk, `N` is the head size; sequences are
[B, T, H, N], contiguous. Steps beyond T are zeros: as logarithms of decays and keys they change nothing.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"
# (A kernel's arguments are Triton's; its decorator has no types.)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ANY_LENGTH = ["T"]  # or Triton compiles again for lengths of 1, and of multiples of 16, when they first come
BUSY = 128  # programs: an H100 has 132 multiprocessors, an A100 108
LEAST_ROWS = 16  # that tensor cores take
WIDE_ROWS = 32  # of a state multiplied in fp32: more do not fit into the registers of any GPU but an H100


def options(dtype: torch.dtype) -> dict[str, Any]:
    """`DOT`: the type in which operands are multiplied (sums are always fp32), `PRECISION`: how fp32 is.

    fp16 has too little range for decayed operands: it is multiplied as tf32, which is as exact (see `mul`).
    """
    if dtype == torch.bfloat16:
        return {"DOT": tl.bfloat16, "PRECISION": "tf32"}
    return {"DOT": tl.float32, "PRECISION": "tf32" if dtype == torch.float16 else "tf32x3"}


def along(v: Tensor) -> tuple[tuple[int, int], int]:
    """The grid of kernels that go along sequences, heads by parts of their states, and the rows of a part.

    Rows, value channels, do not depend on each other. Parts are computed side by side, but each computes
    anew what they share: where heads alone keep a GPU busy, a part is the whole.
    """
    heads, width = v.shape[0] * v.shape[2], v.shape[3]
    rows = width if v.dtype == torch.bfloat16 else min(width, WIDE_ROWS)
    while rows > LEAST_ROWS and heads * (width // rows) < BUSY:
        rows //= 2
    return (heads, width // rows), rows


def scratch_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of what is kept between kernels only to be multiplied."""
    return dtype if dtype == torch.bfloat16 else torch.float32


def contiguous(*tensors: Tensor) -> list[Tensor]:
    return [x.contiguous() for x in tensors]


@triton.jit
def start_of(head, T, H, N: tl.constexpr):
    """Where the first step of head number `head` of all B * H lies, and how far steps are apart."""
    batch = (head // H).to(tl.int64)
    return batch * T * H * N + (head % H) * N, H * N


@triton.jit
def tile_at(first, T, stride, L: tl.constexpr, N: tl.constexpr):
    """Offsets [L, N] of the steps from `first`, and which of them exist."""
    t = first + tl.arange(0, L)
    return t.to(tl.int64)[:, None] * stride + tl.arange(0, N)[None, :], (t < T)[:, None]


@triton.jit
def columns_at(first, T, stride, column, L: tl.constexpr, R: tl.constexpr):
    """As `tile_at`, of R channels from `column`: [L, R]."""
    t = first + tl.arange(0, L)
    return t.to(tl.int64)[:, None] * stride + column + tl.arange(0, R)[None, :], (t < T)[:, None]


@triton.jit
def rows_at(number, row, R: tl.constexpr, N: tl.constexpr):
    """As `square_at`, of R rows from `row`: [R, N]."""
    i, n = row + tl.arange(0, R), tl.arange(0, N)
    return number.to(tl.int64) * N * N + i[:, None] * N + n[None, :]


@triton.jit
def square_at(number, N: tl.constexpr):
    """Offsets [N, N] of the matrix with this number."""
    n = tl.arange(0, N)
    return number.to(tl.int64) * N * N + n[:, None] * N + n[None, :]


@triton.jit
def as_tf32(x):
    """fp32 rounded to tf32. Tensor cores cut off the 13 bits that they do not take: every product would be
    too small, by more than fp16 rounds."""
    rounded = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    # A GPU writes NaN with all bits set, which would become 0.
    return tl.where(x == x, rounded, x)  # noqa: PLR0124


@triton.jit
def mul(left, right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    left, right = left.to(DOT), right.to(DOT)
    if DOT == tl.float32 and PRECISION == "tf32":  # noqa: SIM300
        left, right = as_tf32(left), as_tf32(right)
    return tl.dot(left, right, input_precision=PRECISION)
