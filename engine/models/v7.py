"""RWKV-7 (x070).

Facts: the RWKV-7 paper and the reference implementations (RWKV-LM, the `rwkv` package).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models import base
from engine.models.base import LayerCarry
from engine.ops.wkv7 import WKV7


class TimeMix(base.TimeMix):
    """Also hands the first layer's values to all the others."""

    per_head = "r_k"
    operator: WKV7
    x_r: nn.Parameter
    x_w: nn.Parameter
    x_k: nn.Parameter
    x_v: nn.Parameter
    x_a: nn.Parameter
    x_g: nn.Parameter
    w0: nn.Parameter
    w1: nn.Parameter
    w2: nn.Parameter
    a0: nn.Parameter
    a1: nn.Parameter
    a2: nn.Parameter
    v0: nn.Parameter
    v1: nn.Parameter
    v2: nn.Parameter
    g1: nn.Parameter
    g2: nn.Parameter
    k_k: nn.Parameter
    k_a: nn.Parameter
    r_k: nn.Parameter

    def forward(
        self, x: Tensor, v_first: Tensor | None, carry: LayerCarry | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] -> the same, the first layer's values [B, T, D] and the state [B, H, N, N]."""
        parts, before = self.parts, carry.att if carry is not None else None
        mixes = self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g
        xr, xw, xk, xv, xa, xg = parts.mix(x, before, mixes)
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        del xr, xk  # memory: what follows works with the most
        w, a = torch.tanh(xw @ self.w1) @ self.w2, (xa @ self.a1) @ self.a2
        del xw, xa
        gate = torch.sigmoid(xg @ self.g1) @ self.g2
        if v_first is None:
            v_first = v
        else:
            v = parts.blend(v, v_first, self.v0, (xv @ self.v1) @ self.v2)
        del xv, xg
        log_w, key, removed, added = parts.inputs7(k, w, a, self.n_head, self)
        del k, w, a
        y, state = self.operator(
            self.heads(r), self.heads(log_w), self.heads(key), self.heads(v), self.heads(removed),
            self.heads(added), self.start(x, carry),
        )  # fmt: skip
        return self.output(parts.output7(y.flatten(2), r, key, v, gate, self.ln_x, self.r_k)), v_first, state


class ChannelMix(base.ChannelMix):
    """Squared ReLU between two linears."""

    x_k: nn.Parameter

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        (mixed,) = self.parts.mix(x, before, [self.x_k])
        return self.value(self.parts.squared_relu(self.key(mixed)))  # type: ignore[no-any-return]


class RWKV7(base.RWKV):
    """The model of an x070 checkpoint; its operator is a `WKV7`."""

    time_mix = TimeMix
    channel_mix = ChannelMix
