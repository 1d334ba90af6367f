"""RWKV-5.2 (x052), and what RWKV-6 keeps of it.

Facts: the RWKV-5/6 paper and the reference implementations (RWKV-LM, the `rwkv` package).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.models import base
from engine.models.base import LayerCarry
from engine.ops.parts import FASTEST, shifted, wide
from engine.ops.wkv6 import WKV6


class TimeMix(base.TimeMix):
    """The same decay at every step, and an output behind a gate."""

    per_head = "time_faaaa"
    operator: WKV6
    gate: nn.Linear
    time_decay: nn.Parameter
    time_faaaa: nn.Parameter
    time_mix_r: nn.Parameter
    time_mix_k: nn.Parameter
    time_mix_v: nn.Parameter
    time_mix_g: nn.Parameter

    def forward(
        self, x: Tensor, v_first: Tensor | None, carry: LayerCarry | None
    ) -> tuple[Tensor, None, Tensor]:
        """[B, T, D] -> the same, nothing for the other layers and the state [B, H, N, N]."""
        xr, xk, xv, xg, log_w = self.mixes(x, carry.att if carry is not None else None)
        r, k, v, gate = self.receptance(xr), self.key(xk), self.value(xv), self.gate(xg)
        r, k, v = (self.heads(z) for z in (r, k, v))
        y, state = self.operator(r, log_w.expand_as(r), k, v, wide(self.time_faaaa), self.start(x, carry))
        return self.output(self.parts.output6(y.flatten(2), gate, self.ln_x)), None, state

    def mixes(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What receptance, key, value and gate read of `x` and what precedes it, [B, T, D], and the logarithm
        of the decays in fp32 (any shape that expands to [B, T, H, N])."""
        last = shifted(x, before)
        delta = x - last
        r, k, v, g = (
            torch.addcmul(last, delta, mix)
            for mix in (self.time_mix_r, self.time_mix_k, self.time_mix_v, self.time_mix_g)
        )
        return r, k, v, g, -torch.exp(wide(self.time_decay).clamp(max=FASTEST))


class ChannelMix(base.ChannelMix):
    """Squared ReLU between two linears, behind a gate."""

    receptance: nn.Linear
    time_mix_k: nn.Parameter
    time_mix_r: nn.Parameter

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        xk, xr = self.mixes(x, before)
        gate: Tensor = torch.sigmoid(self.receptance(xr))
        return gate * self.value(self.parts.squared_relu(self.key(xk)))  # type: ignore[no-any-return]

    def mixes(self, x: Tensor, before: Tensor | None) -> Sequence[Tensor]:
        """What key and receptance read."""
        last = shifted(x, before)
        delta = x - last
        return [torch.addcmul(last, delta, mix) for mix in (self.time_mix_k, self.time_mix_r)]


class RWKV5(base.RWKV):
    """The model of an x052 checkpoint; its operator is a `WKV6`."""

    time_mix = TimeMix
    channel_mix = ChannelMix
