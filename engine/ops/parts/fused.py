"""The element-wise parts on a GPU, one kernel each, for weights that do not learn; what learns is torch's.

Gradients are those of the activations. What the backward pass needs it computes anew from the inputs.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return"
# (Autograd's functions have no types.)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from engine.ops.parts import DECAY_LIMIT, FASTEST, L2WRAP, Inputs7, Parts, Weights7, kernels
from engine.ops.tiles import contiguous

BLOCK = 1024  # channels that a program works on
VOCABULARY = 4096  # logits
MOST = 6  # mixes
WARPS, VOCABULARY_WARPS = 4, 8
KERNELS = (
    "mix", "mix_back", "squared_relu", "squared_relu_back", "blend", "blend_back", "inputs7", "inputs7_back",
    "output", "output_back", "decay6", "decay6_back", "cross_entropy",
)  # fmt: skip


class FusedParts(Parts):
    """See `Parts`. Results differ from torch's by rounding only, and there are no second derivatives."""

    name = "fused"

    def mix(self, x: Tensor, before: Tensor | None, mixes: Sequence[Tensor]) -> Sequence[Tensor]:
        if _learn(mixes):
            return super().mix(x, before, mixes)
        return _Mix.apply(x, before, torch.cat([mix.flatten() for mix in mixes]), None)

    def mix_by_data(
        self, x: Tensor, before: Tensor | None, mixes: Sequence[Tensor], more: Tensor
    ) -> Sequence[Tensor]:
        if _learn(mixes):
            return super().mix_by_data(x, before, mixes, more)
        return _Mix.apply(x, before, torch.cat([mix.flatten() for mix in mixes]), more)

    def squared_relu(self, x: Tensor) -> Tensor:
        return _SquaredRelu.apply(x)

    def blend(self, v: Tensor, first: Tensor, base: Tensor, low: Tensor) -> Tensor:
        return super().blend(v, first, base, low) if _learn([base]) else _Blend.apply(v, first, base, low)

    def inputs7(self, k: Tensor, w: Tensor, a: Tensor, n_head: int, weights: Weights7) -> Inputs7:
        fixed = weights.w0, weights.a0, weights.k_k, weights.k_a
        if _learn(fixed):
            return super().inputs7(k, w, a, n_head, weights)
        return Inputs7(*_Inputs7.apply(k, w, a, n_head, *fixed))

    def output7(
        self, y: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor, norm: nn.GroupNorm, r_k: Tensor
    ) -> Tensor:
        if _learn([norm.weight, norm.bias, r_k]):
            return super().output7(y, r, k, v, gate, norm, r_k)
        return _Output.apply(norm, r_k, y, gate, r, k, v)

    def decay6(self, base: Tensor, low: Tensor) -> Tensor:
        return super().decay6(base, low) if _learn([base]) else _Decay6.apply(base, low)

    def output6(self, y: Tensor, gate: Tensor, norm: nn.GroupNorm) -> Tensor:
        if _learn([norm.weight, norm.bias]):
            return super().output6(y, gate, norm)
        return _Output.apply(norm, None, y, gate)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(logits), device=logits.device)
        if len(logits):
            with torch.cuda.device_of(logits):
                kernels.cross_entropy[(len(logits),)](
                    logits,
                    targets,
                    losses,
                    V=logits.shape[1],
                    WRAP=L2WRAP,
                    BLOCK=VOCABULARY,
                    num_warps=VOCABULARY_WARPS,
                )
        return losses.sum(), logits


def _learn(weights: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)


def _by_lines(kernel: Any, like: Tensor, *tensors: Tensor, **constants: Any) -> None:
    """Runs a kernel over the rows of [..., D] and blocks of channels."""
    width = like.shape[-1]
    block = min(BLOCK, triton.next_power_of_2(width))
    grid = like.numel() // width, triton.cdiv(width, block)
    with torch.cuda.device_of(like):  # Triton starts kernels on the present device
        kernel[grid](*tensors, D=width, BLOCK=block, num_warps=WARPS, **constants)


def _by_heads(kernel: Any, like: Tensor, n_head: int, *tensors: Tensor, **constants: Any) -> None:
    """Runs a kernel over the rows of [B, T, D] and groups of heads."""
    width = like.shape[-1] // n_head
    heads = min(BLOCK // width, triton.next_power_of_2(n_head))
    grid = like.numel() // like.shape[-1], triton.cdiv(n_head, heads)
    with torch.cuda.device_of(like):
        kernel[grid](*tensors, H=n_head, N=width, HEADS=heads, num_warps=WARPS, **constants)


class _Mix(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, before: Tensor | None, mixes: Tensor, more: Tensor | None
    ) -> tuple[Tensor, ...]:
        x = x.contiguous()
        before, more = (z if z is None else z.contiguous() for z in (before, more))
        count = mixes.numel() // x.shape[-1]
        ctx.constants = {
            "T": x.shape[1], "S": x.numel(), "C": count, "BEFORE": before is not None,
            "MORE": more is not None,
        }  # fmt: skip
        ctx.save_for_backward(before, mixes, more, x if more is not None else None)
        made = [torch.empty_like(x) for _ in range(count)]
        unused = [x] * (MOST - count)
        _by_lines(kernels.mix, x, x, _or(before, x), mixes, _or(more, x), *made, *unused, **ctx.constants)
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        before, mixes, more, x = ctx.saved_tensors
        grads = tuple(contiguous(*grads))
        dx = torch.empty_like(grads[0])
        x = _or(x, dx)
        dbefore, dmore = (z if z is None else torch.empty_like(z) for z in (before, more))
        _by_lines(
            kernels.mix_back, x, *grads, *[x] * (MOST - len(grads)), x, _or(before, x), mixes, _or(more, x),
            dx, _or(dbefore, x), _or(dmore, x), **ctx.constants,
        )  # fmt: skip
        return dx, dbefore, None, dmore


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel wants a tensor also where it uses none."""
    return other if tensor is None else tensor


class _SquaredRelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        _by_lines(kernels.squared_relu, x, x, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        _by_lines(kernels.squared_relu_back, x, x, *contiguous(grad), dx)
        return dx


class _Blend(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        given = contiguous(*inputs)
        ctx.save_for_backward(*given)
        out = torch.empty_like(given[0])
        _by_lines(kernels.blend, out, *given, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dv, dfirst, dlow = (torch.empty_like(grad) for _ in range(3))
        _by_lines(kernels.blend_back, grad, *ctx.saved_tensors, *contiguous(grad), dv, dfirst, dlow)
        return dv, dfirst, None, dlow


class _Decay6(Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, low: Tensor) -> Tensor:
        given = contiguous(base, low)
        ctx.save_for_backward(*given)
        log_w = torch.empty_like(given[1], dtype=torch.float32)
        _by_lines(kernels.decay6, log_w, *given, log_w, FASTEST=FASTEST)
        return log_w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        base, low = ctx.saved_tensors
        dlow = torch.empty_like(low)
        _by_lines(kernels.decay6_back, low, base, low, *contiguous(grad), dlow, FASTEST=FASTEST)
        return None, dlow


class _Inputs7(Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, w: Tensor, a: Tensor, n_head: int, *fixed: Tensor) -> tuple[Tensor, ...]:
        given = contiguous(k, w, a, *fixed)
        ctx.save_for_backward(*given)
        ctx.n_head = n_head
        made = [
            torch.empty_like(given[0], dtype=torch.float32),
            *(torch.empty_like(given[0]) for _ in range(3)),
        ]
        _by_heads(kernels.inputs7, k, n_head, *given, *made, LIMIT=DECAY_LIMIT)
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = ctx.saved_tensors
        made = [torch.empty_like(z) for z in given[:3]]
        _by_heads(
            kernels.inputs7_back, given[0], ctx.n_head, *given, *contiguous(*grads), *made, LIMIT=DECAY_LIMIT
        )
        return (*made, *[None] * 5)


class _Output(Function):
    @staticmethod
    def forward(
        ctx: Any, norm: nn.GroupNorm, r_k: Tensor | None, y: Tensor, gate: Tensor, *bonus: Tensor
    ) -> Tensor:
        """`bonus`: r, k and v of RWKV-7."""
        given = [*contiguous(y, gate, *bonus), norm.weight, norm.bias, _or(r_k, y)]
        ctx.save_for_backward(*given)
        ctx.n_head, ctx.constants = norm.num_groups, {"EPS": norm.eps, "SEVEN": r_k is not None}
        out = torch.empty_like(given[1])
        _by_heads(kernels.output, out, ctx.n_head, *_in_order(given), out, **ctx.constants)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given = _in_order(ctx.saved_tensors)
        y, *bonus, gate = given[:5]
        dy, dgate = torch.empty_like(y), torch.empty_like(gate)
        made = [torch.empty_like(z) for z in bonus] if ctx.constants["SEVEN"] else [y] * 3
        _by_heads(
            kernels.output_back,
            gate,
            ctx.n_head,
            *given,
            *contiguous(grad),
            dy,
            *made,
            dgate,
            **ctx.constants,
        )
        return None, None, dy, dgate, *(made if ctx.constants["SEVEN"] else ())


def _in_order(saved: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """As the kernels take them: y, r, k, v, gate, the norm's weight and bias, r_k."""
    y, gate, *bonus, weight, bias, r_k = saved
    return (y, *(bonus or [y] * 3), gate, weight, bias, r_k)
