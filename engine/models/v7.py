"""RWKV-7 (x070).

Facts: the RWKV-7 paper and the reference implementations (RWKV-LM, the `rwkv` package).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models import base
from engine.models.base import LayerCarry, shifted, wide
from engine.ops.wkv7 import WKV7

DECAY_LIMIT = -math.exp(-0.5)  # log of the strongest decay


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
        delta = shifted(x, carry.att if carry is not None else None) - x
        xr, xw, xk, xv, xa, xg = (
            torch.addcmul(x, delta, mix)
            for mix in (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        )
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        log_w = DECAY_LIMIT * torch.sigmoid(self.w0 + wide(torch.tanh(xw @ self.w1) @ self.w2))
        iclr = torch.sigmoid(self.a0 + wide((xa @ self.a1) @ self.a2))
        gate = torch.sigmoid(xg @ self.g1) @ self.g2
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, torch.sigmoid(self.v0 + (xv @ self.v1) @ self.v2))
        # The recurrence reads numbers of the weights' type; from here to the output the rest is fp32.
        k = wide(k)
        kk = F.normalize(self.heads(k * self.k_k), dim=-1)
        k = k * (1 + (iclr - 1) * self.k_a)
        r, log_w, k, v, iclr = (self.heads(z) for z in (r, log_w, k, v, iclr))
        key, removed, added = (z.to(x.dtype) for z in (k, -kk, kk * iclr))
        y, state = self.operator(r, log_w, key, v, removed, added, self.start(x, carry))
        y = self.normed(y) + ((r * k * self.r_k).sum(-1, keepdim=True) * v).flatten(2)
        return self.output(y.to(x.dtype) * gate), v_first, state


class ChannelMix(base.ChannelMix):
    """Squared ReLU between two linears."""

    x_k: nn.Parameter

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        delta = shifted(x, before) - x
        return self.value(F.relu(self.key(torch.addcmul(x, delta, self.x_k))).square())  # type: ignore[no-any-return]


class RWKV7(base.RWKV):
    """The model of an x070 checkpoint; its operator is a `WKV7`."""

    time_mix = TimeMix
    channel_mix = ChannelMix
