"""What the versions of RWKV share: embedding, blocks, norms, and the states that go from token to token.

Parameter names are those of the checkpoints; shapes are whatever the tensors have. B sequences,
T tokens, D channels = H heads of size N, V tokens in the vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.models.waiting import HostHead, Waiting
from engine.ops.parts import TORCH, Parts, wide

LN_EPS = 1e-5
LN_X_EPS = 64e-5
WIDENED = 1 << 23  # elements of a narrow matrix that are widened at a time


class LayerCarry(NamedTuple):
    """What a layer hands on to the next tokens: its last inputs [B, D] and its state [B, H, N, N], which
    is empty in a first layer without time mixing."""

    att: Tensor
    wkv: Tensor
    ffn: Tensor


class Copied(NamedTuple):
    """What a copying head may copy: all tokens so far, their keys [B, S, Q] and ids [B, S]."""

    keys: Tensor
    tokens: Tensor


class Carry(NamedTuple):
    """What the model hands on to the next tokens. Only what a copying head needs grows with them."""

    layers: tuple[LayerCarry, ...]
    copied: Copied | None = None

    def detach(self) -> Carry:
        """The same without its history."""
        copied = self.copied and Copied(self.copied.keys.detach(), self.copied.tokens)
        return Carry(tuple(LayerCarry(*(t.detach() for t in layer)) for layer in self.layers), copied)


class TimeMix(nn.Module):
    """The part of a layer that has a state; its subclasses are the versions.

    `time_state` [H, N, N], when there is one, is the state at the start of a sequence.
    """

    per_head: str  # the name of a tensor [H, N]
    receptance: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear

    def __init__(self, tensors: Mapping[str, Tensor], operator: Any, parts: Parts) -> None:
        super().__init__()
        self.operator = operator
        self.parts = parts
        for name, tensor in tensors.items():
            if "." not in name and name != "time_state":
                self.register_parameter(name, nn.Parameter(tensor))
            elif name.endswith(".weight") and name != "ln_x.weight":
                self.add_module(name.removesuffix(".weight"), linear(tensor))
        self.n_head, self.head_size = tensors[self.per_head].shape
        self.ln_x = _group_norm(under(tensors, "ln_x."), self.n_head)
        state = tensors.get("time_state")
        self.register_parameter("time_state", None if state is None else nn.Parameter(wide(state)))
        self.time_state: nn.Parameter | None

    @abstractmethod
    def forward(
        self, x: Tensor, v_first: Tensor | None, carry: LayerCarry | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """[B, T, D] -> the same, what the first layer hands to the others and the state [B, H, N, N]."""

    def heads(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, H, N]."""
        return x.view(*x.shape[:2], self.n_head, self.head_size)

    def start(self, x: Tensor, carry: LayerCarry | None) -> Tensor | None:
        """The state [B, H, N, N] before the first token; None is zeros."""
        if carry is not None:
            return carry.wkv
        if self.time_state is not None:
            return self.time_state.expand(x.shape[0], -1, -1, -1)
        return None


class ChannelMix(nn.Module):
    """The feed-forward part of a layer; its subclasses are the versions."""

    key: nn.Linear
    value: nn.Linear

    def __init__(self, tensors: Mapping[str, Tensor], parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        for name, tensor in tensors.items():
            if "." not in name:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.add_module(name.removesuffix(".weight"), linear(tensor))

    @abstractmethod
    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D]; `before` [B, D] precedes the first position, zeros when None."""


class RWKV(nn.Module):
    """The model; `tensors` is a checkpoint's flat dictionary, used without copying, `operator` computes the
    version's recurrence and `parts` what is element-wise.

    With `grad_cp` 1, training recomputes each block in the backward pass instead of keeping its activations;
    with 2, on a GPU, each half of a block by itself, whose input meanwhile waits in the host's memory.

    Two things that RWKV-LM can train from random weights, a file has or has not: a first layer with a
    second feed-forward part in the place of its time mixing (`ffnPre`), and a copying head (`head_q`,
    `head_k`), which adds to a token's logit for each place where it stood before.
    """

    time_mix: type[TimeMix]
    channel_mix: type[ChannelMix]

    def __init__(
        self, tensors: Mapping[str, Tensor], operator: Any, parts: Parts = TORCH, *, grad_cp: int = 0
    ) -> None:
        super().__init__()
        self.grad_cp = grad_cp
        self.parts = parts
        self.waiting = Waiting()
        self.dtype = tensors["ln_out.weight"].dtype  # of the computation; emb and head may be narrower
        self.emb = _embedding(tensors["emb.weight"], tensors["ln_out.weight"].device)
        layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        blocks = (under(tensors, f"blocks.{i}.") for i in range(layers))
        self.blocks = nn.ModuleList(self._block(block, operator) for block in blocks)
        self.ln_out = _layer_norm(under(tensors, "ln_out."))
        self.head = linear(tensors["head.weight"])
        copying = "head_q.weight" in tensors
        self.head_q = linear(tensors["head_q.weight"]) if copying else None
        self.head_k = linear(tensors["head_k.weight"]) if copying else None

    def _block(self, tensors: Mapping[str, Tensor], operator: Any) -> Block:
        att, pre = under(tensors, "att."), under(tensors, "ffnPre.")
        first = self.channel_mix(pre, self.parts) if pre else self.time_mix(att, operator, self.parts)
        return Block(tensors, first, self.channel_mix(under(tensors, "ffn."), self.parts))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.blocks.parameters()).device

    @property
    def n_layer(self) -> int:
        return len(self.blocks)

    @property
    def n_head(self) -> int:
        return self.time_mixers()[0].n_head

    @property
    def head_size(self) -> int:
        return self.time_mixers()[0].head_size

    @property
    def n_embd(self) -> int:
        return self.emb.embedding_dim

    @property
    def vocab_size(self) -> int:
        return self.emb.num_embeddings

    def send_head_away(self) -> None:
        """Once nothing moves it any more; see `HostHead`."""
        if Waiting.leaves(self.head.weight):
            self.head = HostHead(self.head.weight)

    def time_mixers(self) -> list[TimeMix]:
        """The part of each layer that has a state: of all, or of all but the first."""
        return [block.att for block in self.blocks if block.att is not None]  # type: ignore[misc]

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] -> logits [B, T, V], from the initial state."""
        return self.run(tokens)[0]

    def run(self, tokens: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        """As `forward`, going on from `carry`; also gives the carry after the last token."""
        hidden, carry = self.hidden(tokens, carry)
        return self.logits(hidden, carry), carry

    def logits(self, hidden: Tensor, carry: Carry) -> Tensor:
        """[B, T, D] -> [B, T, V], of the last T tokens that `carry` has seen."""
        logits = product(hidden, self.head.weight)
        if carry.copied is None:
            return logits
        scores = self.copy_scores(hidden, carry.copied)
        ids = carry.copied.tokens[:, None].expand(scores.shape)
        return logits.scatter_add(2, ids, scores.to(logits.dtype))

    def copy_scores(self, hidden: Tensor, copied: Copied) -> Tensor:
        """What the last T tokens [B, T, D] get for each of all S: [B, T, S], 0 for those to come."""
        assert self.head_q is not None
        scores: Tensor = self.head_q(hidden) @ copied.keys.mT / copied.keys.shape[2]
        return scores.tril(scores.shape[2] - scores.shape[1])

    def hidden(self, tokens: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        """As `run`, with [B, T, D] instead of logits: what `logits` makes them of."""
        x = self.emb(tokens).to(self.dtype)
        v_first = None
        carried = []
        recompute = self.grad_cp and self.training and torch.is_grad_enabled()
        away = recompute and self.grad_cp == 2 and Waiting.leaves(x)
        self.waiting.begin()
        if isinstance(self.head, HostHead):
            self.head.come()
        for i, block in enumerate(self.blocks):
            inputs = (x, v_first, carry.layers[i] if carry is not None else None)
            if away:
                x, v_first, layer = block(*inputs, self.waiting.through)
            elif recompute:
                x, v_first, layer = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x, v_first, layer = block(*inputs)
            carried.append(layer)
        x = self.ln_out(x)
        return x, Carry(tuple(carried), self._copied(x, tokens, carry))

    def _copied(self, hidden: Tensor, tokens: Tensor, carry: Carry | None) -> Copied | None:
        if self.head_k is None:
            return None
        keys = self.head_k(hidden)
        if carry is None or carry.copied is None:
            return Copied(keys, tokens)
        return Copied(torch.cat([carry.copied.keys, keys], 1), torch.cat([carry.copied.tokens, tokens], 1))


def plainly(half: Callable[..., Any], *inputs: Any) -> Any:
    """half(*inputs)."""
    return half(*inputs)


class Block(nn.Module):
    """One layer: time mixing and channel mixing, each behind a LayerNorm and around a residual.

    `ln0` is the first layer's alone, and only there `first` may be a channel mixing as well.
    """

    def __init__(self, tensors: Mapping[str, Tensor], first: TimeMix | ChannelMix, ffn: ChannelMix) -> None:
        super().__init__()
        self.ln0 = _layer_norm(under(tensors, "ln0.")) if "ln0.weight" in tensors else None
        self.ln1 = _layer_norm(under(tensors, "ln1."))
        self.ln2 = _layer_norm(under(tensors, "ln2."))
        self.att = first if isinstance(first, TimeMix) else None
        self.ffnPre = first if isinstance(first, ChannelMix) else None
        self.ffn = ffn

    def forward(
        self, x: Tensor, v_first: Tensor | None, carry: LayerCarry | None,
        through: Callable[..., Any] = plainly,
    ) -> tuple[Tensor, Tensor | None, LayerCarry]:  # fmt: skip
        """x: [B, T, D]; `v_first`: what the first time mixing hands to the others, None in itself.

        `through` calls each half with what it is to be given.
        """
        x, v_first, att, wkv = through(self.first_half, x, v_first, carry)
        x, ffn = through(self.second_half, x, carry)
        return x, v_first, LayerCarry(att, wkv, ffn)

    def first_half(
        self, x: Tensor, v_first: Tensor | None, carry: LayerCarry | None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """[B, T, D] -> the same, `v_first`, its last input and its state: see `LayerCarry`."""
        if self.ln0 is not None:
            x = self.ln0(x)
        att_in = self.ln1(x)
        if self.att is not None:
            mixed, v_first, wkv = self.att(att_in, v_first, carry)
        else:
            assert self.ffnPre is not None
            mixed, wkv = self.ffnPre(att_in, carry.att if carry is not None else None), x.new_empty(0)
        # A copy, for a view would keep the whole of what it looks at.
        return x + mixed, v_first, att_in[:, -1].clone(), wkv

    def second_half(self, x: Tensor, carry: LayerCarry | None) -> tuple[Tensor, Tensor]:
        """[B, T, D] -> the same, and its last input."""
        ffn_in = self.ln2(x)
        mixed = self.ffn(ffn_in, carry.ffn if carry is not None else None)
        return x + mixed, ffn_in[:, -1].clone()


def under(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T in the type of x; a narrower weight [out, in] is widened a part at a time."""
    if weight.dtype == x.dtype:
        return x @ weight.T
    return torch.cat([x @ part.to(x.dtype).T for part in torch.split(weight, _rows(weight))], -1)


def product_back(gradient: Tensor, weight: Tensor) -> Tensor:
    """gradient [P, out] @ weight in the type of the gradient, as `product`."""
    if weight.dtype == gradient.dtype:
        return gradient @ weight
    total = gradient.new_zeros(len(gradient), weight.shape[1])
    rows = _rows(weight)
    for g, part in zip(torch.split(gradient, rows, 1), torch.split(weight, rows), strict=True):
        total.addmm_(g, part.to(g.dtype))
    return total


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left [P, out].T @ right [P, in] to total [out, in] in the type of the total, some rows at a time.

    What is widened from 16 bits is as exact in tf32, and so are its products, which are added up in fp32. A
    GPU's tensor cores do that, and fp32 is many times slower.
    """
    before = torch.get_float32_matmul_precision()
    if left.dtype != torch.float32:
        torch.set_float32_matmul_precision("high")
    try:
        rows, wide = max(1, WIDENED // len(left)), right.to(total.dtype)
        for t, part in zip(torch.split(total, rows), torch.split(left, rows, 1), strict=True):
            t.addmm_(part.T.to(total.dtype), wide)
    finally:
        torch.set_float32_matmul_precision(before)


def _rows(weight: Tensor) -> int:
    return max(1, WIDENED // weight.shape[1])


def linear(weight: Tensor) -> nn.Linear:
    """[out, in] as a layer without bias, not copied."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight)
    return made


class HostEmbedding(nn.Embedding):
    """A frozen table that stays in the host's memory, whatever the model around it is moved to: rows are
    looked up there, and they alone go to where the tokens are, from memory that a GPU reads by itself."""

    def _apply(self, fn: Any, recurse: bool = True) -> HostEmbedding:
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]."""
        shape = (*tokens.shape, self.embedding_dim)
        rows = torch.empty(shape, dtype=self.weight.dtype, pin_memory=tokens.is_cuda)
        torch.index_select(self.weight, 0, tokens.flatten().cpu(), out=rows.view(-1, self.embedding_dim))
        return rows.to(tokens.device, non_blocking=True)


def _embedding(weight: Tensor, device: torch.device) -> nn.Embedding:
    kind = nn.Embedding if weight.device == device else HostEmbedding
    return kind(weight.shape[0], weight.shape[1], _weight=weight)


def _layer_norm(tensors: Mapping[str, Tensor]) -> nn.LayerNorm:
    norm = nn.LayerNorm(tensors["weight"].shape[0], LN_EPS, device="meta")
    norm.load_state_dict(tensors, assign=True)
    return norm


def _group_norm(tensors: Mapping[str, Tensor], groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, tensors["weight"].shape[0], LN_X_EPS, device="meta")
    norm.load_state_dict(tensors, assign=True)
    return norm
