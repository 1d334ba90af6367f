"""The operators of RWKV-5's and RWKV-6's recurrence, against a float64 step loop and each other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.ops.registry import select_for, select_wkv6, select_wkv7
from engine.ops.wkv6 import WKV6
from engine.ops.wkv6.chunked import wkv6_chunked
from engine.ops.wkv6.reference import wkv6_reference

NAMES = ("r", "log_w", "k", "v", "u", "state")
Decay = Callable[[Tensor], Tensor]


def usual(noise: Tensor) -> Tensor:
    return -torch.exp(noise - 1.5)


def make_inputs(batch: int, steps: int, heads: int, width: int, decay: Decay = usual) -> list[Tensor]:
    """Float64 inputs; `decay` makes log_w of normal noise [B, T, H, N]."""
    rng = torch.Generator().manual_seed(steps)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    shape = (batch, steps, heads, width)
    state = normal(batch, heads, width, width)
    return [
        normal(*shape),
        decay(normal(*shape)),
        normal(*shape),
        normal(*shape),
        normal(heads, width),
        state,
    ]


def run(operator: WKV6, inputs: list[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """The outputs, then the gradient of every input, of a loss that weighs all outputs unevenly."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    outputs = operator(*leaves)
    loss = sum((out * torch.linspace(-1, 2, out.numel(), dtype=dtype).view_as(out)).sum() for out in outputs)
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    yield from (out.detach() for out in outputs)
    for leaf in leaves:
        assert leaf.grad is not None
        yield leaf.grad


def relative(found: Tensor, right: Tensor) -> float:
    """Root mean square of the error, relative to the right values'."""
    return float((found.double() - right).norm() / right.norm())


def test_reference_is_the_recurrence() -> None:
    r, log_w, k, v, u, state = make_inputs(2, 5, 3, 4)
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
        ((2, 70, 2, 64), usual),
        ((1, 64, 3, 64), lambda noise: -torch.exp(4 * noise)),  # from none to all within a few steps
        ((1, 130, 2, 16), lambda noise: -torch.exp(8 * noise)),
        ((2, 48, 1, 64), lambda noise: torch.where(noise > 1, -4.8e8, -1e-3).double()),
        ((2, 33, 1, 64), torch.zeros_like),
        ((1, 200, 1, 8), lambda noise: -torch.exp(noise - 9)),
        ((2, 64, 2, 16), lambda noise: torch.full_like(noise, -20.0)),
        ((3, 5, 2, 16), usual),
        ((1, 1, 2, 64), usual),
    ],
)
def test_chunked_in_fp32_equals_the_float64_loop(shape: tuple[int, int, int, int], decay: Decay) -> None:
    inputs = make_inputs(*shape, decay)
    right = run(wkv6_reference, inputs, torch.float64)
    found = run(wkv6_chunked, inputs, torch.float32)
    for name, f, r in zip(("y", "last", *NAMES), found, right, strict=True):
        assert f.dtype == torch.float32
        assert relative(f, r) < 1e-5, name


@pytest.mark.parametrize("decay", [usual, lambda noise: -torch.exp(4 * noise)])
def test_chunked_gradient_is_exact_in_float64(decay: Decay) -> None:
    inputs = make_inputs(2, 45, 2, 16, decay)
    pairs = zip(
        run(wkv6_chunked, inputs, torch.float64), run(wkv6_reference, inputs, torch.float64), strict=True
    )
    assert max(relative(found, right) for found, right in pairs) < 1e-12


@given(cut=st.integers(1, 89), batch=st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_splitting_a_sequence_changes_nothing(cut: int, batch: int) -> None:
    r, log_w, k, v, u, state = make_inputs(batch, 90, 2, 8)

    def part(steps: slice, start: Tensor) -> tuple[Tensor, Tensor]:
        return wkv6_chunked(r[:, steps], log_w[:, steps], k[:, steps], v[:, steps], u, start)

    whole, last = part(slice(None), state)
    first, between = part(slice(cut), state)
    second, end = part(slice(cut, None), between)
    assert torch.allclose(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-9)
    assert torch.allclose(end, last, rtol=1e-9, atol=1e-9)


def test_a_constant_decay_may_be_expanded_and_gets_its_summed_gradient() -> None:
    r, log_w, k, v, u, state = make_inputs(2, 40, 2, 16)
    constant = log_w[0, 0].clone().requires_grad_()
    grads = []
    for operator in (wkv6_chunked, wkv6_reference):
        y, last = operator(r, constant.expand_as(r), k, v, u, state)
        grads.append(torch.autograd.grad(y.square().sum() + last.sum(), constant)[0])
    assert relative(*grads) < 1e-12


def test_no_state_is_a_state_of_zeros_and_bf16_is_computed_in_fp32() -> None:
    inputs = [x.bfloat16() for x in make_inputs(1, 40, 2, 16)]
    r, log_w, k, v, u, state = inputs
    y, last = wkv6_chunked(r, log_w, k, v, u, None)
    assert y.dtype == last.dtype == torch.float32
    r, log_w, k, v, u, state = (x.float() for x in inputs)
    right, _ = wkv6_chunked(r, log_w, k, v, u, torch.zeros_like(state))
    assert torch.equal(y, right)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize("decay", [usual, lambda noise: -torch.exp(3 * noise)])
def test_chunked_is_eight_times_faster_than_the_loop(decay: Decay) -> None:
    inputs = [x.float().requires_grad_() for x in make_inputs(1, 512, 12, 64, decay)]

    def seconds(operator: WKV6) -> float:
        start = time.perf_counter()
        y, last = operator(*inputs)
        (y.sum() + last.sum()).backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start

    seconds(wkv6_chunked)  # the first pass is slower
    # The best of each, in turns and always as many: other processes only ever add to a time.
    slow, fast = math.inf, math.inf
    for _ in range(3):
        slow = min(slow, seconds(wkv6_reference))
        fast = min(fast, *(seconds(wkv6_chunked) for _ in range(3)))
    assert slow / fast > 8


def test_registry_serves_every_version() -> None:
    auto = select_wkv6("auto", "cpu")
    assert (auto.name, auto.function) == ("chunked", wkv6_chunked)
    assert set(auto.reasons) == {"reference", "cuda", "fla", "triton"}
    assert select_wkv6("reference", "cpu").function is wkv6_reference
    for version in ("x052", "x060"):
        assert select_for(version, "auto", "cpu") == auto
    assert select_for("x070", "auto", "cpu") == select_wkv7("auto", "cpu")
