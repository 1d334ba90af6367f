"""RWKV-6 (x060): RWKV-5 with decays and token shifts that depend on the data.

Facts: the RWKV-5/6 paper and the reference implementations (RWKV-LM, the `rwkv` package).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models import base, v5
from engine.models.base import wide


class TimeMix(v5.TimeMix):
    """Each of the five inputs is mixed in its own, data-dependent proportion."""

    time_maa_x: nn.Parameter
    time_maa_w: nn.Parameter
    time_maa_k: nn.Parameter
    time_maa_v: nn.Parameter
    time_maa_r: nn.Parameter
    time_maa_g: nn.Parameter
    time_maa_w1: nn.Parameter
    time_maa_w2: nn.Parameter
    time_decay_w1: nn.Parameter
    time_decay_w2: nn.Parameter

    def mixes(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See RWKV-5's."""
        delta = before - x
        low = torch.tanh(torch.addcmul(x, delta, self.time_maa_x) @ self.time_maa_w1)
        low = low.view(-1, *self.time_maa_w2.shape[:2]).transpose(0, 1)
        by_data = torch.bmm(low, self.time_maa_w2).view(-1, *x.shape)
        fixed = (self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g)
        w, k, v, r, g = (
            torch.addcmul(x, delta, mix + more) for mix, more in zip(fixed, by_data, strict=True)
        )
        decay = wide(self.time_decay) + wide(torch.tanh(w @ self.time_decay_w1) @ self.time_decay_w2)
        return r, k, v, g, self.heads(decay)


class ChannelMix(v5.ChannelMix):
    """RWKV-5's, with the proportions of the predecessors instead of the present."""

    time_maa_k: nn.Parameter
    time_maa_r: nn.Parameter

    def mixes(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """What key and receptance read."""
        delta = before - x
        return torch.addcmul(x, delta, self.time_maa_k), torch.addcmul(x, delta, self.time_maa_r)


class RWKV6(base.RWKV):
    """The model of an x060 checkpoint; its operator is a `WKV6`."""

    time_mix = TimeMix
    channel_mix = ChannelMix
