"""The operators of RWKV-7's recurrence, against a float64 step loop and against each other."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.ops.wkv7 import WKV7
from engine.ops.wkv7.chunked import wkv7_chunked
from engine.ops.wkv7.reference import wkv7_reference
from tests.ops.cases import NAMES, make7, relative, run


def test_reference_is_the_recurrence() -> None:
    r, log_w, k, v, a, b, state = make7(2, 5, 3, 4)
    y, last = wkv7_reference(r, log_w, k, v, a, b, state)
    for i in range(2):
        for h in range(3):
            s = state[i, h].clone()
            for t in range(5):
                removed, w = s @ a[i, t, h], log_w[i, t, h].exp()
                s = s @ torch.diag(w) + torch.outer(removed, b[i, t, h]) + torch.outer(v[i, t, h], k[i, t, h])
                assert torch.allclose(y[i, t, h], s @ r[i, t, h])
            assert torch.allclose(last[i, h], s)


@pytest.mark.parametrize(
    ("shape", "decay", "same_keys"),
    [
        ((2, 70, 2, 64), "usual", False),
        ((1, 64, 3, 64), "strongest", False),
        ((2, 33, 1, 64), "slow", False),
        ((1, 100, 2, 64), "none", True),
        ((3, 5, 2, 16), "usual", False),
        ((1, 1, 2, 64), "usual", False),
        ((1, 130, 1, 8), "usual", False),
    ],
)
def test_chunked_in_fp32_equals_the_float64_loop(
    shape: tuple[int, int, int, int], decay: str, same_keys: bool
) -> None:
    inputs = make7(*shape, decay, same_keys=same_keys)
    right = run(wkv7_reference, inputs, torch.float64)
    found = run(wkv7_chunked, inputs, torch.float32)
    for name, f, r in zip(NAMES["wkv7"], found, right, strict=True):
        assert f.dtype == torch.float32
        assert relative(f, r) < 1e-4, name


def test_chunked_gradient_is_exact_in_float64() -> None:
    inputs = make7(2, 45, 2, 16)
    pairs = zip(
        run(wkv7_chunked, inputs, torch.float64), run(wkv7_reference, inputs, torch.float64), strict=True
    )
    assert max(relative(found, right) for found, right in pairs) < 1e-10


@given(cut=st.integers(1, 89), batch=st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_splitting_a_sequence_changes_nothing(cut: int, batch: int) -> None:
    r, log_w, k, v, a, b, state = make7(batch, 90, 2, 8)

    def part(steps: slice, start: Tensor) -> tuple[Tensor, Tensor]:
        r_, log_w_, k_, v_, a_, b_ = (x[:, steps] for x in (r, log_w, k, v, a, b))
        return wkv7_chunked(r_, log_w_, k_, v_, a_, b_, start)

    whole, last = part(slice(None), state)
    first, between = part(slice(cut), state)
    second, end = part(slice(cut, None), between)
    assert torch.allclose(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-9)
    assert torch.allclose(end, last, rtol=1e-9, atol=1e-9)


def test_no_state_is_a_state_of_zeros_and_bf16_is_computed_in_fp32() -> None:
    inputs = [x.bfloat16() for x in make7(1, 40, 2, 16)]
    r, log_w, k, v, a, b, state = inputs
    y, last = wkv7_chunked(r, log_w, k, v, a, b, None)
    assert y.dtype == last.dtype == torch.float32
    r, log_w, k, v, a, b, state = (x.float() for x in inputs)
    right, _ = wkv7_chunked(r, log_w, k, v, a, b, torch.zeros_like(state))
    assert torch.equal(y, right)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_chunked_is_five_times_faster_than_the_loop() -> None:
    inputs = [x.float().requires_grad_() for x in make7(1, 512, 12, 64)]

    def seconds(operator: WKV7) -> float:
        start = time.process_time()
        y, last = operator(*inputs)
        (y.sum() + last.sum()).backward()  # type: ignore[no-untyped-call]
        return time.process_time() - start

    seconds(wkv7_chunked)  # the first pass is slower
    # The best of each, in turns and always as many: other processes only ever add to a time. `bench.wkv`
    # has all cores, where it is 11 times.
    slow, fast = math.inf, math.inf
    for _ in range(3):
        slow = min(slow, seconds(wkv7_reference))
        fast = min(fast, *(seconds(wkv7_chunked) for _ in range(3)))
    assert slow / fast > 5
