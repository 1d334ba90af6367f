"""Fresh weights of a model, as RWKV-LM's training code starts from.

Sources of the formulas: RWKV-LM, RWKV-v7/train_temp/src/model.py (2025) and RWKV-v5/src/model.py (2024,
for x052 and x060). In a model of one layer the relative depth is 0.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoints.inspect import inspect_model
from engine.checkpoints.save import save_tensors
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.reports import ModelInfo

WORLD_VOCABULARY = 65536  # rows for the ids of RWKV's tokenizer, rounded up


def init_model(
    version: str,
    n_layer: int,
    n_embd: int,
    *,
    vocab_size: int = WORLD_VOCABULARY,
    seed: int = 0,
    head_size: int = 64,
    pre_ffn: bool = False,
    head_qk: int = 0,
) -> dict[str, Tensor]:
    """A checkpoint's tensors in fp32; the same seed gives the same weights.

    `pre_ffn` makes the first layer's time mixing a second channel mixing, `head_qk` > 0 adds a copying
    head of that width. Raises UserError for an unknown version and for widths that make no model.
    """
    _check(version, n_layer, n_embd, vocab_size, head_size, pre_ffn, head_qk)
    rng = torch.Generator().manual_seed(seed)
    if version == "x070":
        time_mix, channel_mix = _time_mix_v7, _channel_mix_v7
    else:
        time_mix, channel_mix = partial(_time_mix_v5_v6, version), partial(_channel_mix_v5_v6, version)
    tensors = {"emb.weight": torch.empty(vocab_size, n_embd).uniform_(-1e-4, 1e-4, generator=rng)}
    for layer in range(n_layer):
        block = _norm("ln0", n_embd) if layer == 0 else {}
        block |= _norm("ln1", n_embd) | _norm("ln2", n_embd)
        if layer < pre_ffn:
            block |= _named("ffnPre", channel_mix(layer, n_layer, n_embd, rng))
        else:
            block |= _named("att", time_mix(layer, n_layer, n_embd, head_size, rng))
        block |= _named("ffn", channel_mix(layer, n_layer, n_embd, rng))
        tensors |= _named(f"blocks.{layer}", block)
    tensors |= _norm("ln_out", n_embd)
    tensors["head.weight"] = _orthogonal(vocab_size, n_embd, 0.5 * _tall(vocab_size, n_embd), rng)
    if head_qk:
        tensors["head_q.weight"] = torch.zeros(head_qk, n_embd)
        tensors["head_k.weight"] = _orthogonal(head_qk, n_embd, 0.1 * _tall(head_qk, n_embd), rng)
    return tensors


def _check(
    version: str, n_layer: int, n_embd: int, vocab_size: int, head_size: int, pre_ffn: bool, head_qk: int
) -> None:
    """Raises UserError for what makes no model."""
    if version not in ("x052", "x060", "x070"):
        raise UserError(_("version: there is no {version}.", version=version), _("Use x052, x060 or x070."))
    for name, value, least in (
        ("n_layer", n_layer, 1), ("n_embd", n_embd, 2), ("vocab_size", vocab_size, 1),
        ("head_size", head_size, 2), ("head_qk", head_qk, 0),
    ):  # fmt: skip
        if value < least:
            raise UserError(
                _("{name}: {value} is too small.", name=name, value=value),
                _("It must be at least {least}.", least=least),
            )
    if n_layer <= pre_ffn:
        raise UserError(
            _("pre_ffn: a model of one layer would have no time mixing."), _("Use 2 layers or more.")
        )
    if n_embd % head_size:
        raise UserError(
            _(
                "n_embd: {n_embd} is not a multiple of the head size {head_size}.",
                n_embd=n_embd,
                head_size=head_size,
            ),
            _("Use {width}, or set another head size.", width=max(n_embd // head_size, 1) * head_size),
        )


def make_checkpoint(
    out: Path,
    version: str,
    n_layer: int,
    n_embd: int,
    vocab_size: int = WORLD_VOCABULARY,
    seed: int = 0,
    *,
    head_size: int = 64,
    pre_ffn: bool = False,
    head_qk: int = 0,
    overwrite: bool = False,
) -> ModelInfo:
    """Writes `init_model`'s tensors to `out`. Raises UserError when the file exists, unless `overwrite`."""
    if out.exists() and not overwrite:
        raise UserError(_("{out} exists already and was not touched.", out=out), _("Choose another name."))
    tensors = init_model(
        version, n_layer, n_embd, vocab_size=vocab_size, seed=seed, head_size=head_size, pre_ffn=pre_ffn,
        head_qk=head_qk,
    )  # fmt: skip
    save_tensors(tensors, out)
    return inspect_model(out)


def _time_mix_v7(
    layer: int, n_layer: int, width: int, head_size: int, rng: torch.Generator
) -> dict[str, Tensor]:
    depth = layer / max(n_layer - 1, 1)  # 0 to 1
    shallow = 1 - layer / n_layer  # 1 to almost 0
    channel = torch.arange(width, dtype=torch.float64)
    linear = channel / (width - 1) - 0.5
    in_head = (channel % head_size) / (head_size - 1) * 2 - 1
    zigzag = in_head * in_head.abs()
    decay = -6 + 6 * (channel / (width - 1)) ** (1 + depth**0.3)
    ranks = {name: _rank(width, factor) for name, factor in (("w", 2.5), ("a", 2.5), ("v", 1.7), ("g", 5.0))}
    mixes = {"x_r": 0.2, "x_w": 0.9, "x_k": 0.7, "x_v": 0.7, "x_a": 0.9, "x_g": 0.2}
    tensors = {name: _row(1 - (channel / width) ** (power * shallow)) for name, power in mixes.items()}
    tensors |= {
        "w0": _row(decay + 0.5 + 2.5 * zigzag),
        "a0": _row(-0.19 + 0.3 * zigzag + 0.4 * linear),
        "v0": _row(0.73 - 0.4 * linear),
        "k_k": _row(0.71 - 0.1 * linear),
        "k_a": torch.full((1, 1, width), 1.02),
        "r_k": torch.full((width // head_size, head_size), -0.04),
        "receptance.weight": _orthogonal(width, width, 1.0, rng),
        "key.weight": _orthogonal(width, width, 0.1, rng),
        "value.weight": _orthogonal(width, width, 1.0, rng),
        "output.weight": torch.zeros(width, width),
        **_norm_of_heads(layer, n_layer, width),
    }
    for name, rank in ranks.items():
        tensors[f"{name}1"] = torch.zeros(width, rank)
        tensors[f"{name}2"] = _orthogonal(rank, width, 0.1 * _tall(rank, width), rng)
    return tensors


def _channel_mix_v7(layer: int, n_layer: int, width: int, rng: torch.Generator) -> dict[str, Tensor]:
    channel = torch.arange(width, dtype=torch.float64)
    return {
        "x_k": _row(1 - (channel / width) ** ((1 - layer / n_layer) ** 4)),
        "key.weight": _orthogonal(4 * width, width, 1.0, rng),
        "value.weight": torch.zeros(width, 4 * width),
    }


def _time_mix_v5_v6(
    version: str, layer: int, n_layer: int, width: int, head_size: int, rng: torch.Generator
) -> dict[str, Tensor]:
    depth = layer / max(n_layer - 1, 1)  # 0 to 1
    shallow = 1 - layer / n_layer  # 1 to almost 0
    channel = torch.arange(width, dtype=torch.float64)
    relative = channel / (width - 1)
    decay = (-6 + 5 * relative ** (0.7 + 1.3 * depth)).float()
    zigzag = 0.1 * ((channel + 1) % 3 - 1)
    heads = (width // head_size, head_size)
    full, half = (channel / width) ** shallow, (channel / width) ** (0.5 * shallow)
    shares = {"k": full, "v": full + 0.3 * depth, "r": half, "g": half}  # of the present token
    tensors = {
        "time_faaaa": (depth * (1 - relative) + zigzag).float().view(heads),
        "receptance.weight": _orthogonal(width, width, 1.0, rng),
        "key.weight": _orthogonal(width, width, 0.1, rng),
        "value.weight": _orthogonal(width, width, 1.0, rng),
        "gate.weight": _orthogonal(width, width, 0.1, rng),
        "output.weight": torch.zeros(width, width),
        **_norm_of_heads(layer, n_layer, width),
    }
    if version == "x052":
        shifts = {f"time_mix_{name}": _row(share) for name, share in shares.items()}
        return shifts | tensors | {"time_decay": decay.view(heads)}
    rank = 64 if width >= 4096 else 32  # as in the released models
    shifts = {f"time_maa_{name}": _row(1 - share) for name, share in {"x": full, "w": full, **shares}.items()}
    # The shifts come first: by them the `rwkv` package knows the version when it meets the rest.
    return shifts | tensors | {
        "time_maa_w1": torch.zeros(width, 5 * rank),
        "time_maa_w2": torch.empty(5, rank, width).uniform_(-0.01, 0.01, generator=rng),
        "time_decay": decay.view(1, 1, width),
        "time_decay_w1": torch.zeros(width, 2 * rank),
        "time_decay_w2": torch.empty(2 * rank, width).uniform_(-0.01, 0.01, generator=rng),
    }  # fmt: skip


def _channel_mix_v5_v6(
    version: str, layer: int, n_layer: int, width: int, rng: torch.Generator
) -> dict[str, Tensor]:
    share = (torch.arange(width, dtype=torch.float64) / width) ** (1 - layer / n_layer)
    inner = max(int(3.5 * width) // 32 * 32, 32)
    name, shift = ("time_mix", _row(share)) if version == "x052" else ("time_maa", _row(1 - share))
    return {
        f"{name}_k": shift,
        f"{name}_r": shift.clone(),
        "key.weight": _orthogonal(inner, width, 1.0, rng),
        "receptance.weight": torch.zeros(width, width),
        "value.weight": torch.zeros(width, inner),
    }


def _norm_of_heads(layer: int, n_layer: int, width: int) -> dict[str, Tensor]:
    return {
        "ln_x.weight": torch.full((width,), ((1 + layer) / n_layer) ** 0.7),
        "ln_x.bias": torch.zeros(width),
    }


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _norm(name: str, width: int) -> dict[str, Tensor]:
    return _named(name, {"weight": torch.ones(width), "bias": torch.zeros(width)})


def _row(values: Tensor) -> Tensor:
    return values.float().view(1, 1, -1)


def _rank(width: int, factor: float) -> int:
    """The width of a low-rank pair: a multiple of 32 near factor * sqrt(width)."""
    return max(32, round(factor * math.sqrt(width) / 32) * 32)


def _tall(rows: int, columns: int) -> float:
    """Keeps the size of what a matrix with more rows than columns puts out."""
    return math.sqrt(rows / columns) if rows > columns else 1.0


def _orthogonal(rows: int, columns: int, gain: float, rng: torch.Generator) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns), gain, generator=rng)
