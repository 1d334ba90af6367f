"""The loss against its plain definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.models import base
from engine.models.base import add_product
from engine.ops.parts import L2WRAP, TORCH
from engine.train import loss as module
from engine.train.loss import LinearCrossEntropy


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and gradients of hidden and weight, as the definition says, in float64."""
    h, w = (t.double().requires_grad_() for t in (hidden, weight))
    logits = h @ w.T
    loss = F.cross_entropy(logits, targets, reduction="sum")
    highest, where = logits.max(-1, keepdim=True)
    wrap = torch.zeros_like(logits).scatter(1, where, L2WRAP * highest)
    torch.autograd.backward([loss, logits], [torch.ones_like(loss), wrap.detach()])
    assert h.grad is not None and w.grad is not None
    return loss.detach(), h.grad, w.grad


@pytest.mark.parametrize("positions", [1, 7, 50])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_value_and_gradients(positions: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_ELEMENTS, "cpu", 8 * 91)  # several chunks, the last one short
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, 16, generator=generator).requires_grad_()
    weight = (scale * torch.randn(91, 16, generator=generator)).requires_grad_()
    targets = torch.randint(91, (positions,), generator=generator)
    total: Tensor = LinearCrossEntropy.apply(hidden, weight, targets, TORCH)  # type: ignore[no-untyped-call]
    (total / 3).backward()  # type: ignore[no-untyped-call]
    expected, grad_hidden, grad_weight = plain(hidden.detach(), weight.detach(), targets)
    assert hidden.grad is not None and weight.grad is not None
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
    for got, want in ((hidden.grad, grad_hidden), (weight.grad, grad_weight)):
        assert (3 * got.double() - want).norm() <= 1e-5 * want.norm()


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements of a tensor that has a column for each token, the weight's own apart."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.shape[-1:] == (91,) and result.shape[0] != 16:
            self.found = max(self.found, result.numel())
        return result


@pytest.mark.parametrize("trained", [True, False])
def test_the_logits_of_a_batch_never_exist(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_ELEMENTS, "cpu", 8 * 91)
    hidden, weight = torch.randn(50, 16).requires_grad_(), torch.randn(91, 16).requires_grad_(trained)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        total: Tensor = LinearCrossEntropy.apply(hidden, weight, torch.randint(91, (50,)), TORCH)  # type: ignore[no-untyped-call]
        total.backward()  # type: ignore[no-untyped-call]
    assert largest.found == 8 * 91


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In which precision products of fp32 are made, and the most elements of what was widened for them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.precisions: set[str] = set()
        self.widened = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.addmm_.default:
            self.precisions.add(torch.get_float32_matmul_precision())
        if func is torch.ops.aten._to_copy.default:
            self.widened = max(self.widened, args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (torch.bfloat16, "high"),
        (torch.float16, "high"),
        (torch.float32, torch.get_float32_matmul_precision()),
    ],
)
def test_a_heads_gradient_is_exact_and_made_in_little_memory(
    dtype: torch.dtype, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is widened in tf32, where tensor cores have it, which for 16 bits is as exact as fp32."""
    monkeypatch.setattr(base, "WIDENED", 300)
    torch.set_float32_matmul_precision("highest")
    gradient, hidden = torch.randn(50, 91).to(dtype), torch.randn(50, 16).to(dtype)
    total = torch.ones(91, 16)
    with Products() as products:
        add_product(total, gradient, hidden)
    assert (total - 1 - gradient.T.float() @ hidden.float()).abs().max() < 1e-5
    assert products.precisions == {precision} and torch.get_float32_matmul_precision() == "highest"
    assert products.widened <= 50 * 16  # all of it would be 50 * 91


def test_sixteen_bits_are_exact_in_tf32() -> None:
    """Which has 10 bits behind the first one, and the exponents of fp32."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        wide = every.view(dtype).float()
        assert not (wide[wide.isfinite()].view(torch.int32) & 0x1FFF).any()


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4)
    total: Tensor = LinearCrossEntropy.apply(hidden, weight, torch.tensor([0, 8, 3]), TORCH)  # type: ignore[no-untyped-call]
    total.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None and weight.grad is None


def test_nothing_to_learn_gives_zero() -> None:
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(9, 4)
    total: Tensor = LinearCrossEntropy.apply(hidden, weight, torch.zeros(0, dtype=torch.long), TORCH)  # type: ignore[no-untyped-call]
    assert total == 0
