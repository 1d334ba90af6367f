"""RWKV-5.2 (x052), and what RWKV-6 keeps of it.

Facts: the RWKV-5/6 paper and the reference implementations (RWKV-LM, the `rwkv` package).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models import base
from engine.models.base import LayerCarry, shifted, wide
from engine.ops.wkv6 import WKV6

FASTEST = 20.0  # the decay exp(-exp(20)) is 0 in every number format; beyond, exp overflows


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
        xr, xk, xv, xg, decay = self.mixes(x, shifted(x, carry.att if carry is not None else None))
        r, k, v, gate = self.receptance(xr), self.key(xk), self.value(xv), F.silu(self.gate(xg))
        r, k, v = (self.heads(z) for z in (r, k, v))
        # From here to the output fp32, whatever the weights are.
        log_w = -torch.exp(decay.clamp(max=FASTEST)).expand_as(r)
        y, state = self.operator(r, log_w, k, v, wide(self.time_faaaa), self.start(x, carry))
        return self.output(self.normed(y).to(x.dtype) * gate), None, state

    def mixes(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What receptance, key, value and gate read of `x` and its predecessors [B, T, D], and the decays
        (any shape that expands to [B, T, H, N]) as the logarithm of their negative logarithm."""
        delta = x - before
        r, k, v, g = (
            torch.addcmul(before, delta, mix)
            for mix in (self.time_mix_r, self.time_mix_k, self.time_mix_v, self.time_mix_g)
        )
        return r, k, v, g, wide(self.time_decay)


class ChannelMix(base.ChannelMix):
    """Squared ReLU between two linears, behind a gate."""

    receptance: nn.Linear
    time_mix_k: nn.Parameter
    time_mix_r: nn.Parameter

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        xk, xr = self.mixes(x, shifted(x, before))
        gate: Tensor = torch.sigmoid(self.receptance(xr))
        return gate * self.value(F.relu(self.key(xk)).square())  # type: ignore[no-any-return]

    def mixes(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """What key and receptance read."""
        delta = x - before
        return torch.addcmul(before, delta, self.time_mix_k), torch.addcmul(before, delta, self.time_mix_r)


class RWKV5(base.RWKV):
    """The model of an x052 checkpoint; its operator is a `WKV6`."""

    time_mix = TimeMix
    channel_mix = ChannelMix
