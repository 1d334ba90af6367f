"""RWKV-6 (x060): RWKV-5 with decays and token shifts that depend on the data.

Facts: the RWKV-5/6 paper and the reference implementations (RWKV-LM, the `rwkv` package).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.models import base, v5


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

    def mixes(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See RWKV-5's."""
        (mixed,) = self.parts.mix(x, before, [self.time_maa_x])
        low = torch.tanh(mixed @ self.time_maa_w1)
        low = low.view(-1, *self.time_maa_w2.shape[:2]).transpose(0, 1)
        by_data = torch.bmm(low, self.time_maa_w2).view(-1, *x.shape)
        fixed = (self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g)
        w, k, v, r, g = self.parts.mix_by_data(x, before, fixed, by_data)
        low_decay = torch.tanh(w @ self.time_decay_w1) @ self.time_decay_w2
        return r, k, v, g, self.heads(self.parts.decay6(self.time_decay, low_decay))


class ChannelMix(v5.ChannelMix):
    """RWKV-5's, with the proportions of the predecessors instead of the present."""

    time_maa_k: nn.Parameter
    time_maa_r: nn.Parameter

    def mixes(self, x: Tensor, before: Tensor | None) -> Sequence[Tensor]:
        """What key and receptance read."""
        return self.parts.mix(x, before, [self.time_maa_k, self.time_maa_r])


class RWKV6(base.RWKV):
    """The model of an x060 checkpoint; its operator is a `WKV6`."""

    time_mix = TimeMix
    channel_mix = ChannelMix
