"""Fresh weights: the reference's formulas, reproducible, and files that read back as what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.contract.errors import UserError
from engine.models import load_model
from engine.models.init import init_model, make_checkpoint


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (init_model("x070", 2, 64, vocab_size=80, seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["emb.weight"], other["emb.weight"])


def test_values_are_those_of_the_formulas() -> None:
    tensors = init_model("x070", 3, 128, vocab_size=512)
    for name in ("att.output.weight", "ffn.value.weight", "att.w1", "att.g1"):
        assert not tensors[f"blocks.1.{name}"].any()
    key = tensors["blocks.2.att.key.weight"]
    assert torch.allclose(key @ key.T, 0.01 * torch.eye(128), atol=1e-6)
    head = tensors["head.weight"]  # gain 0.5 * sqrt(512 / 128)
    assert torch.allclose(head.T @ head, torch.eye(128), atol=1e-5)
    ffn = tensors["blocks.0.ffn.key.weight"]
    assert ffn.shape == (512, 128)
    assert torch.allclose(ffn.T @ ffn, torch.eye(128), atol=1e-5)
    assert tensors["emb.weight"].abs().max() <= 1e-4
    assert torch.allclose(tensors["blocks.1.att.ln_x.weight"], torch.tensor((2 / 3) ** 0.7))
    # By hand, first and last channel of the middle layer: -6 + 0.5 - 2.5 and 0 + 0.5 + 2.5.
    assert torch.allclose(tensors["blocks.1.att.w0"][0, 0, [0, -1]], torch.tensor([-8.0, 3.0]))
    assert torch.allclose(tensors["blocks.1.att.a0"][0, 0, [0, -1]], torch.tensor([-0.69, 0.31]))
    assert torch.allclose(tensors["blocks.1.att.k_k"][0, 0, [0, -1]], torch.tensor([0.76, 0.66]))
    assert torch.allclose(
        tensors["blocks.1.att.x_r"][0, 0, [0, 64]], torch.tensor([1.0, 1 - 0.5 ** (0.2 * 2 / 3)])
    )
    ranks = {name: tensors[f"blocks.0.att.{name}2"].shape[0] for name in "wavg"}
    assert ranks == {"w": 32, "a": 32, "v": 32, "g": 64}


def test_low_rank_widths_of_the_released_smallest_size() -> None:
    tensors = init_model("x070", 1, 768, vocab_size=16)
    assert {n: tensors[f"blocks.0.att.{n}1"].shape[1] for n in "wavg"} == {
        "w": 64,
        "a": 64,
        "v": 32,
        "g": 128,
    }


def test_values_of_the_older_versions_are_those_of_the_formulas() -> None:
    v5, v6 = (init_model(version, 3, 128, vocab_size=512) for version in ("x052", "x060"))
    for tensors in (v5, v6):
        for name in ("att.output.weight", "ffn.value.weight", "ffn.receptance.weight"):
            assert not tensors[f"blocks.1.{name}"].any()
        for name in ("key", "gate"):
            weight = tensors[f"blocks.2.att.{name}.weight"]
            assert torch.allclose(weight @ weight.T, 0.01 * torch.eye(128), atol=1e-6)
        assert tensors["blocks.0.ffn.key.weight"].shape == (448, 128)  # 3.5 * 128
        assert torch.allclose(tensors["blocks.1.att.ln_x.weight"], torch.tensor((2 / 3) ** 0.7))
        # By hand, in the middle layer (relative depth 0.5): -6, then -6 + 5; -0.0 + 0.5, then 0.1 - 0.1 + 0.
        decay, bonus = (tensors[f"blocks.1.att.{name}"].flatten() for name in ("time_decay", "time_faaaa"))
        assert torch.allclose(decay[[0, -1]], torch.tensor([-6.0, -1.0]))
        assert torch.allclose(bonus[[0, 1, -1]], torch.tensor([0.5, 0.5 * 126 / 127 + 0.1, 0.1]))
        assert torch.allclose(bonus[2], torch.tensor(0.5 * 125 / 127 - 0.1))
    half = 0.5 ** (2 / 3)  # channel 64 of 128, depth 1 of 3
    for name, share in {"k": half, "v": half + 0.15, "r": half**0.5, "g": half**0.5}.items():
        assert torch.allclose(v5[f"blocks.1.att.time_mix_{name}"][0, 0, 64], torch.tensor(share))
        assert torch.allclose(v6[f"blocks.1.att.time_maa_{name}"][0, 0, 64], torch.tensor(1 - share))
    assert torch.allclose(v5["blocks.1.ffn.time_mix_r"], 1 - v6["blocks.1.ffn.time_maa_r"])
    assert not v6["blocks.1.att.time_maa_w1"].any() and not v6["blocks.1.att.time_decay_w1"].any()
    assert 0.009 < v6["blocks.1.att.time_maa_w2"].abs().max() <= 0.01
    shapes = {n: tuple(v6[f"blocks.0.att.{n}"].shape) for n in ("time_maa_w2", "time_decay_w2")}
    assert shapes == {"time_maa_w2": (5, 32, 128), "time_decay_w2": (64, 128)}


@pytest.mark.parametrize(
    ("version", "n_layer", "n_embd", "head_size"),
    [("x070", 1, 64, 64), ("x070", 3, 96, 32), ("x070", 2, 6, 2), ("x060", 1, 64, 64), ("x060", 2, 6, 2),
     ("x052", 1, 64, 64), ("x052", 3, 96, 32), ("x052", 2, 6, 2)],
)  # fmt: skip
def test_a_written_checkpoint_is_what_was_asked_for(
    tmp_path: Path, version: str, n_layer: int, n_embd: int, head_size: int
) -> None:
    out = tmp_path / "new" / "m.pth"
    info = make_checkpoint(out, version, n_layer, n_embd, 70, 3, head_size=head_size)
    assert (info.version, info.n_layer, info.n_embd, info.head_size, info.vocab_size) == (
        version, n_layer, n_embd, head_size, 70
    )  # fmt: skip
    assert info.dtype == "float32"
    logits = load_model(out)(torch.arange(20).view(2, 10))
    assert logits.isfinite().all()


def test_a_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path / "m.pth"
    out.write_bytes(b"precious")
    with pytest.raises(UserError, match="exists already"):
        make_checkpoint(out, "x070", 1, 64, 70)
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"version": "x051"}, "there is no x051. Use x052, x060 or x070"),
        ({"n_embd": 100}, "100 is not a multiple of the head size 64. Use 64"),
        ({"n_embd": 32}, "32 is not a multiple"),
        ({"n_layer": 0}, "n_layer: 0"),
        ({"vocab_size": 0}, "vocab_size: 0"),
        ({"n_embd": 0}, "n_embd: 0"),
    ],
)
def test_impossible_sizes_are_refused(arguments: dict[str, object], said: str) -> None:
    sizes: dict[str, object] = {"version": "x070", "n_layer": 1, "n_embd": 64, "vocab_size": 70} | arguments
    with pytest.raises(UserError, match=said):
        init_model(**sizes)  # type: ignore[arg-type]
