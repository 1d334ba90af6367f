"""Every part once, forward and backward, on made-up activations: to compare and to time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engine.ops.parts import Parts
from engine.ops.registry import Need

LN_X_EPS = 64e-5
VOCABULARY = 5000  # logits at a position, somewhat more than a program reads at a time


class Trial:
    """Activations [batch, steps, heads * width] of a layer as `need` has them, and weights that are fixed."""

    def __init__(self, need: Need) -> None:
        random = torch.Generator(need.device).manual_seed(0)
        width = need.heads * need.width
        shape = (need.batch, need.steps, width)

        def normal(*size: int) -> Tensor:
            made = torch.randn(*size, generator=random, device=need.device)
            return made.to(need.dtype)

        self.n_head = need.heads
        self.activations = [normal(*shape).requires_grad_() for _ in range(8)]
        self.before = normal(need.batch, width).requires_grad_()
        self.more = normal(5, *shape).requires_grad_()
        self.fixed = [normal(1, 1, width) for _ in range(6)]
        self.norm = normal(2, width)
        self.r_k = normal(need.heads, need.width)
        self.logits = normal(need.batch * min(need.steps, 256), VOCABULARY)
        self.targets = torch.arange(len(self.logits), device=need.device) % VOCABULARY

    def wide(self, dtype: torch.dtype = torch.float32) -> Trial:
        """The same numbers in a wider type."""
        made = object.__new__(Trial)
        for name, value in vars(self).items():
            setattr(made, name, _widened(value, dtype))
        return made

    def results(self, parts: Parts) -> list[Tensor]:
        """What each part makes, then the gradients of all activations."""
        x, r, k, v, gate, w, a, first = self.activations
        fixed = self.fixed
        norm = SimpleNamespace(weight=self.norm[0], bias=self.norm[1], num_groups=self.n_head, eps=LN_X_EPS)
        weights: Any = SimpleNamespace(w0=fixed[0], a0=fixed[1], k_k=fixed[2], k_a=fixed[3])
        made = [
            *parts.mix(x, self.before, fixed),
            *parts.mix(x, None, fixed[:1]),
            *parts.mix_by_data(x, self.before, fixed[:5], self.more),
            parts.squared_relu(k),
            parts.blend(v, first, fixed[4], gate),
            *parts.inputs7(k, w, a, self.n_head, weights),
            parts.output7(x, r, k, v, gate, norm, self.r_k),  # type: ignore[arg-type]
            parts.decay6(fixed[5], w),
            parts.output6(x, gate, norm),  # type: ignore[arg-type]
        ]
        leaves = [*self.activations, self.before, self.more]
        gradients = [torch.linspace(-1, 2, z.numel(), device=z.device).view_as(z).to(z.dtype) for z in made]
        grads = torch.autograd.grad(made, leaves, gradients)
        loss, gradient = parts.cross_entropy(self.logits.clone(), self.targets)
        return [*(z.detach() for z in made), *grads, loss, gradient]


def _widened(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_widened(z, dtype) for z in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(dtype).requires_grad_(value.requires_grad)
    return value
