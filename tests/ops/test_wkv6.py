"""The operators of RWKV-5's and RWKV-6's recurrence, against a float64 step loop and each other."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.ops.wkv6 import WKV6
from engine.ops.wkv6.chunked import wkv6_chunked
from engine.ops.wkv6.reference import wkv6_reference
from tests.ops.cases import NAMES, make6, relative, run


def test_reference_is_the_recurrence() -> None:
    r, log_w, k, v, u, state = make6(2, 5, 3, 4)
    y, last = wkv6_reference(r, log_w, k, v, u, state)
    for i in range(2):
        for h in range(3):
            s = state[i, h].clone()
            for t in range(5):
                present = torch.outer(v[i, t, h], u[h] * k[i, t, h])
                assert torch.allclose(y[i, t, h], (s + present) @ r[i, t, h])
                s = s @ torch.diag(log_w[i, t, h].exp()) + torch.outer(v[i, t, h], k[i, t, h])
            assert torch.allclose(last[i, h], s)


@pytest.mark.parametrize(
    ("shape", "decay"),
    [
        ((2, 70, 2, 64), "usual"),
        ((1, 64, 3, 64), "wild"),  # from none to all within a few steps
        ((1, 130, 2, 16), "wilder"),
        ((2, 48, 1, 64), "some at once"),
        ((2, 33, 1, 64), "none"),
        ((1, 200, 1, 8), "slow"),
        ((2, 64, 2, 16), "fast"),
        ((3, 5, 2, 16), "usual"),
        ((1, 1, 2, 64), "usual"),
    ],
)
def test_chunked_in_fp32_equals_the_float64_loop(shape: tuple[int, int, int, int], decay: str) -> None:
    inputs = make6(*shape, decay)
    right = run(wkv6_reference, inputs, torch.float64)
    found = run(wkv6_chunked, inputs, torch.float32)
    for name, f, r in zip(NAMES["wkv6"], found, right, strict=True):
        assert f.dtype == torch.float32
        assert relative(f, r) < 1e-5, name


@pytest.mark.parametrize("decay", ["usual", "wild"])
def test_chunked_gradient_is_exact_in_float64(decay: str) -> None:
    inputs = make6(2, 45, 2, 16, decay)
    pairs = zip(
        run(wkv6_chunked, inputs, torch.float64), run(wkv6_reference, inputs, torch.float64), strict=True
    )
    assert max(relative(found, right) for found, right in pairs) < 1e-12


@given(cut=st.integers(1, 89), batch=st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_splitting_a_sequence_changes_nothing(cut: int, batch: int) -> None:
    r, log_w, k, v, u, state = make6(batch, 90, 2, 8)

    def part(steps: slice, start: Tensor) -> tuple[Tensor, Tensor]:
        return wkv6_chunked(r[:, steps], log_w[:, steps], k[:, steps], v[:, steps], u, start)

    whole, last = part(slice(None), state)
    first, between = part(slice(cut), state)
    second, end = part(slice(cut, None), between)
    assert torch.allclose(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-9)
    assert torch.allclose(end, last, rtol=1e-9, atol=1e-9)


def test_a_constant_decay_may_be_expanded_and_gets_its_summed_gradient() -> None:
    r, log_w, k, v, u, state = make6(2, 40, 2, 16)
    constant = log_w[0, 0].clone().requires_grad_()
    grads = []
    for operator in (wkv6_chunked, wkv6_reference):
        y, last = operator(r, constant.expand_as(r), k, v, u, state)
        grads.append(torch.autograd.grad(y.square().sum() + last.sum(), constant)[0])
    assert relative(*grads) < 1e-12


def test_no_state_is_a_state_of_zeros_and_bf16_is_computed_in_fp32() -> None:
    inputs = [x.bfloat16() for x in make6(1, 40, 2, 16)]
    r, log_w, k, v, u, state = inputs
    y, last = wkv6_chunked(r, log_w, k, v, u, None)
    assert y.dtype == last.dtype == torch.float32
    r, log_w, k, v, u, state = (x.float() for x in inputs)
    right, _ = wkv6_chunked(r, log_w, k, v, u, torch.zeros_like(state))
    assert torch.equal(y, right)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("decay", ["usual", "wild"])
def test_chunked_is_five_times_faster_than_the_loop(decay: str) -> None:
    inputs = [x.float().requires_grad_() for x in make6(1, 512, 12, 64, decay)]

    def seconds(operator: WKV6) -> float:
        start = time.process_time()
        y, last = operator(*inputs)
        (y.sum() + last.sum()).backward()  # type: ignore[no-untyped-call]
        return time.process_time() - start

    seconds(wkv6_chunked)  # the first pass is slower
    # The best of each, in turns and always as many: other processes only ever add to a time. `bench.wkv`
    # has all cores, where it is 11 times.
    slow, fast = math.inf, math.inf
    for _ in range(3):
        slow = min(slow, seconds(wkv6_reference))
        fast = min(fast, *(seconds(wkv6_chunked) for _ in range(3)))
    assert slow / fast > 5
