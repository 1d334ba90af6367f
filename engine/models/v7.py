"""RWKV-7 (x070). Parameter names are those of the checkpoints; shapes are whatever the tensors have.

Facts: the RWKV-7 paper and the reference implementations (RWKV-LM, the `rwkv` package).
B sequences, T tokens, D channels = H heads of size N, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.ops.wkv7 import WKV7

LN_EPS = 1e-5
LN_X_EPS = 64e-5
DECAY_LIMIT = -math.exp(-0.5)  # log of the strongest decay


class LayerCarry(NamedTuple):
    """What a layer hands on to the next tokens: its last inputs [B, D] and its state [B, H, N, N]."""

    att: Tensor
    wkv: Tensor
    ffn: Tensor


Carry = tuple[LayerCarry, ...]


class RWKV7(nn.Module):
    """The model; `tensors` is a checkpoint's flat dictionary, used without copying.

    With `grad_cp`, training recomputes each block in the backward pass instead of keeping its activations.
    """

    def __init__(self, tensors: Mapping[str, Tensor], operator: WKV7, *, grad_cp: bool = False) -> None:
        super().__init__()
        self.grad_cp = grad_cp
        self.emb = _embedding(tensors["emb.weight"])
        layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        self.blocks = nn.ModuleList(Block(i, under(tensors, f"blocks.{i}."), operator) for i in range(layers))
        self.ln_out = _layer_norm(under(tensors, "ln_out."))
        self.head = _linear(tensors["head.weight"])

    @property
    def n_layer(self) -> int:
        return len(self.blocks)

    @property
    def n_head(self) -> int:
        return int(self.time_mixers()[0].r_k.shape[0])

    @property
    def head_size(self) -> int:
        return int(self.time_mixers()[0].r_k.shape[1])

    @property
    def n_embd(self) -> int:
        return self.emb.weight.shape[1]

    @property
    def vocab_size(self) -> int:
        return self.emb.weight.shape[0]

    def time_mixers(self) -> list[TimeMix]:
        """The part of each layer that has a state."""
        return [block.att for block in self.blocks]  # type: ignore[misc]

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] -> logits [B, T, V], from the initial state."""
        return self.run(tokens)[0]

    def run(self, tokens: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        """As `forward`, going on from `carry`; also gives the carry after the last token."""
        hidden, carry = self.hidden(tokens, carry)
        return self.head(hidden), carry

    def hidden(self, tokens: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        """As `run`, with [B, T, D] instead of logits: what `head` makes them of."""
        x = self.emb(tokens)
        v_first = None
        carried = []
        recompute = self.grad_cp and self.training and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            inputs = (x, v_first, carry[i] if carry is not None else None)
            x, v_first, layer = (
                checkpoint(block, *inputs, use_reentrant=False) if recompute else block(*inputs)
            )
            carried.append(layer)
        return self.ln_out(x), tuple(carried)


class Block(nn.Module):
    """One layer: time mixing and channel mixing, each behind a LayerNorm and around a residual."""

    def __init__(self, index: int, tensors: Mapping[str, Tensor], operator: WKV7) -> None:
        super().__init__()
        self.ln0 = _layer_norm(under(tensors, "ln0.")) if index == 0 else None
        self.ln1 = _layer_norm(under(tensors, "ln1."))
        self.ln2 = _layer_norm(under(tensors, "ln2."))
        self.att = TimeMix(under(tensors, "att."), operator)
        self.ffn = ChannelMix(under(tensors, "ffn."))

    def forward(
        self, x: Tensor, v_first: Tensor | None, carry: LayerCarry | None
    ) -> tuple[Tensor, Tensor, LayerCarry]:
        """x: [B, T, D]; `v_first`: the first layer's values [B, T, D], None in the first layer itself."""
        if self.ln0 is not None:
            x = self.ln0(x)
        att_in = self.ln1(x)
        mixed, v_first, wkv = self.att(att_in, v_first, carry)
        x = x + mixed
        ffn_in = self.ln2(x)
        x = x + self.ffn(ffn_in, carry)
        return x, v_first, LayerCarry(att_in[:, -1], wkv, ffn_in[:, -1])


class TimeMix(nn.Module):
    """`time_state` [H, N, N], when there is one, is the state at the start of a sequence."""

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

    def __init__(self, tensors: Mapping[str, Tensor], operator: WKV7) -> None:
        super().__init__()
        self.operator = operator
        for name, tensor in tensors.items():
            if "." not in name and name != "time_state":
                self.register_parameter(name, nn.Parameter(tensor))
        self.receptance = _linear(tensors["receptance.weight"])
        self.key = _linear(tensors["key.weight"])
        self.value = _linear(tensors["value.weight"])
        self.output = _linear(tensors["output.weight"])
        self.ln_x = _group_norm(under(tensors, "ln_x."), self.r_k.shape[0])
        state = tensors.get("time_state")
        self.register_parameter("time_state", None if state is None else nn.Parameter(_wide(state)))
        self.time_state: nn.Parameter | None

    def forward(
        self, x: Tensor, v_first: Tensor | None, carry: LayerCarry | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] -> the same, the first layer's values [B, T, D] and the state [B, H, N, N]."""
        delta = _shifted(x, carry.att if carry is not None else None) - x
        xr, xw, xk, xv, xa, xg = (
            torch.addcmul(x, delta, mix)
            for mix in (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        )
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        log_w = DECAY_LIMIT * torch.sigmoid(self.w0 + _wide(torch.tanh(xw @ self.w1) @ self.w2))
        iclr = torch.sigmoid(self.a0 + _wide((xa @ self.a1) @ self.a2))
        gate = torch.sigmoid(xg @ self.g1) @ self.g2
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, torch.sigmoid(self.v0 + (xv @ self.v1) @ self.v2))
        # From here to the output fp32, whatever the weights are.
        r, k, v_wide = _wide(r), _wide(k), _wide(v)
        heads = (*x.shape[:2], *self.r_k.shape)
        kk = F.normalize((k * self.k_k).view(heads), dim=-1)
        k = k * (1 + (iclr - 1) * self.k_a)
        r, log_w, k, v_wide, iclr = (z.view(heads) for z in (r, log_w, k, v_wide, iclr))
        y, state = self.operator(r, log_w, k, v_wide, -kk, kk * iclr, self._start(x, carry))
        y = self._normed(y) + ((r * k * self.r_k).sum(-1, keepdim=True) * v_wide).flatten(2)
        return self.output(y.to(x.dtype) * gate), v_first, state

    def _start(self, x: Tensor, carry: LayerCarry | None) -> Tensor | None:
        if carry is not None:
            return carry.wkv
        if self.time_state is not None:
            return self.time_state.expand(x.shape[0], -1, -1, -1)
        return None

    def _normed(self, y: Tensor) -> Tensor:
        """GroupNorm over the heads: [B, T, H, N] -> [B, T, D]."""
        weight, bias = _wide(self.ln_x.weight), _wide(self.ln_x.bias)
        normed = F.group_norm(
            y.reshape(-1, self.ln_x.num_channels), self.ln_x.num_groups, weight, bias, self.ln_x.eps
        )
        return normed.view(*y.shape[:2], -1)


class ChannelMix(nn.Module):
    """The feed-forward part: squared ReLU between two linears."""

    x_k: nn.Parameter

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.register_parameter("x_k", nn.Parameter(tensors["x_k"]))
        self.key = _linear(tensors["key.weight"])
        self.value = _linear(tensors["value.weight"])

    def forward(self, x: Tensor, carry: LayerCarry | None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        delta = _shifted(x, carry.ffn if carry is not None else None) - x
        return self.value(F.relu(self.key(torch.addcmul(x, delta, self.x_k))).square())  # type: ignore[no-any-return]


def under(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _wide(x: Tensor) -> Tensor:
    """At least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _shifted(x: Tensor, before: Tensor | None) -> Tensor:
    """Each position's predecessor; `before` [B, D] precedes the first, zeros when None."""
    first = x.new_zeros(x.shape[0], 1, x.shape[2]) if before is None else before.unsqueeze(1)
    return torch.cat([first, x[:, :-1]], 1)


def _embedding(weight: Tensor) -> nn.Embedding:
    embedding = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    embedding.weight = nn.Parameter(weight)
    return embedding


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight)
    return linear


def _layer_norm(tensors: Mapping[str, Tensor]) -> nn.LayerNorm:
    norm = nn.LayerNorm(tensors["weight"].shape[0], LN_EPS, device="meta")
    norm.load_state_dict(tensors, assign=True)
    return norm


def _group_norm(tensors: Mapping[str, Tensor], groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, tensors["weight"].shape[0], LN_X_EPS, device="meta")
    norm.load_state_dict(tensors, assign=True)
    return norm
