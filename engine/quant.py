"""Frozen linears in 8 or 4 bits: a product unpacks the weight for a moment. nf4 is bitsandbytes' work, except
for packing on a CPU, where ours gives the same bytes in a tenth of the time; int8 is a few lines of torch:
theirs takes five times as long on a CPU and rounds to fp16 first.

The weight is unpacked in the forward and again in the backward pass, so that neither pass keeps it. That is
our own layer rather than one of bitsandbytes': its int8 layer also rounds the activations, and both of its
layers need a special case for each adapter. Here `weight` is an ordinary matrix to whoever reads it, which
is all that peft asks for, on the CPU and on a GPU alike.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import Function

from engine.packages import broken, require

# The head is left alone: the loss is more sensitive to it than to any layer, and it is one matrix.
LINEARS = r"blocks\.\d+\.(att|ffn|ffnPre)\.(receptance|key|value|gate|output)"
PACKAGE = "bitsandbytes.functional"
NF4_BLOCK = 64  # weights that share a scale
NF4_AT_A_TIME = 1 << 17  # weights that a thread packs at a time: what it computes with stays near its core
# Weights computed with at a time, in fp32. On a CPU they stay near the cores.
AT_A_TIME = {"cpu": 1 << 19, "cuda": 1 << 25}


def is_linear_weight(name: str) -> bool:
    """Whether a checkpoint's tensor is the matrix of one of the layers' linears."""
    return re.fullmatch(LINEARS + r"\.weight", name) is not None


class QuantLinear(nn.Linear):
    """A linear without bias whose weight [out, in] is kept packed; it gives gradients to its input only.

    `kind`: int8 (one scale a row, within 1/254 of the row's largest weight) or nf4 (one scale for 64
    weights). `dtype` is that of the unpacked weight and so of the computation.
    """

    packed: Tensor
    scales: Tensor

    def __init__(self, shape: torch.Size, kind: str, dtype: torch.dtype, device: torch.device) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.out_features, self.in_features = shape
        self.kind = kind
        self.dtype = dtype
        self.register_parameter("bias", None)
        elements = shape.numel()
        if kind == "int8":
            packed = torch.empty(shape, dtype=torch.int8, device=device)
            scales = torch.empty(self.out_features, device=device)
        else:
            packed = torch.empty((elements + 1) // 2, 1, dtype=torch.uint8, device=device)
            scales = torch.empty(-(-elements // NF4_BLOCK), device=device)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)

    def pack(self, weight: Tensor) -> None:
        """Takes the weight's values. The memory for them was taken before: what packing needs for a moment
        is then given back to the system, and does not stay between what is kept."""
        weight = weight.detach().contiguous()
        if self.kind == "int8":
            self._pack_int8(weight)
            return
        bnb = require(PACKAGE)
        try:
            if weight.device.type == "cpu":
                _pack_nf4(weight, bnb.get_4bit_type("nf4", device="cpu"), self.packed, self.scales)
                return
            packed, state = bnb.quantize_4bit(weight, quant_type="nf4", blocksize=NF4_BLOCK)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AttributeError, OSError) as error:  # its own library was not found or is no use
            raise broken(PACKAGE, error) from error
        self.packed.copy_(packed)
        self.scales.copy_(state.absmax)

    def _pack_int8(self, weight: Tensor) -> None:
        parts = list(zip(*map(self._parts, (weight, self.packed, self.scales)), strict=True))
        wide, sizes = (torch.empty(parts[0][0].shape, device=weight.device) for _ in range(2))
        for w, packed, scales in parts:
            x = wide[: len(w)].copy_(w)
            # Several times as fast on a CPU as aminmax or the norm, which are not vectorised.
            largest = torch.abs(x, out=sizes[: len(w)]).amax(1)
            torch.div(largest, 127, out=scales)
            packed.copy_(x.mul_((127 / largest.clamp(min=1e-30))[:, None]).round_())

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """What has a row for each output, some at a time."""
        return torch.split(rows, max(1, AT_A_TIME[rows.device.type] // self.in_features))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The unpacked weight, made anew at each access."""
        if self.kind == "int8":
            wide = torch.empty_like(self.packed, dtype=self.dtype)
            scales = self.scales[:, None]
            for w, packed, scale in zip(*map(self._parts, (wide, self.packed, scales)), strict=True):
                torch.mul(packed, scale, out=w)
            return wide
        import bitsandbytes.functional as bnb

        # As one row: bitsandbytes' CPU kernel begins a new block with each row, its packing does not.
        shape = torch.Size((self.out_features * self.in_features,))
        state = bnb.QuantState(  # type: ignore[no-untyped-call]
            self.scales, shape=shape, dtype=self.dtype, blocksize=NF4_BLOCK, quant_type="nf4"
        )
        return bnb.dequantize_4bit(self.packed, state).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return _Product.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


def _pack_nf4(weight: Tensor, values: Tensor, packed: Tensor, scales: Tensor) -> None:
    """What bitsandbytes' quantize_4bit gives of a weight on a CPU, by all of torch's threads.

    `values`: what the 16 codes mean, ascending. A code is the number of the 15 middles between them that a
    weight exceeds: numpy compares at the speed of the caches, torch ten times as slowly.
    """
    middles = ((values[1:] + values[:-1]) / 2).numpy()[:, None]
    given, codes, largest = weight.view(-1), packed.view(-1).numpy(), scales.numpy()
    if rest := -len(given) % NF4_BLOCK:
        given = nn.functional.pad(given, (0, rest))

    def pack(begin: int) -> None:
        x = _wide(given[begin : begin + NF4_AT_A_TIME]).reshape(-1, NF4_BLOCK)
        blocks = largest[begin // NF4_BLOCK :][: len(x)]
        np.abs(x).max(1, out=blocks)
        x *= (1 / np.maximum(blocks, np.float32(1e-38)))[:, None]
        # Two long calls instead of thirty short ones, for each of which threads would wait for each other.
        code = np.greater(x.reshape(-1), middles).view(np.uint8).sum(0, dtype=np.uint8)
        pair = code.view("<u2")  # the first of two in the low byte; it goes into the high half
        there = codes[begin // 2 :][: len(pair)]
        there[:] = (pair << 4 | pair >> 8)[: len(there)]

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(pack, range(0, len(given), NF4_AT_A_TIME)))


def _wide(values: Tensor) -> NDArray[np.float32]:
    """A copy in fp32; numpy has no bf16, which is fp32's upper half."""
    if values.dtype == torch.bfloat16:
        return (values.view(torch.uint16).numpy().astype(np.uint32) << 16).view(np.float32)
    return values.numpy().astype(np.float32)


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantLinear) -> Tensor:
        ctx.layer = layer
        return x @ layer.weight.T

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        return outputs[0] @ ctx.layer.weight, None


def put_linear(model: nn.Module, name: str, linear: nn.Linear) -> None:
    """Replaces the linear at a dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, linear)
