"""Who learns, how fast, and in which precision; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints.adapter import read_adapter
from engine.contract.check import check_values
from engine.models import load_model
from engine.tuning.full import FullTuning
from engine.tuning.parts import names
from tests.tuning.conftest import TOKENS, Train, Trained, train_in


@pytest.mark.parametrize(
    ("parts", "saved", "not_saved"),
    [
        ("head", {"head.weight"}, {"emb.weight"}),
        ("['ln', 'emb']", {"emb.weight", "ln_out.bias", "blocks.0.ln0.weight", "blocks.1.att.ln_x.bias"},
         {"head.weight"}),
    ],
)  # fmt: skip
def test_train_parts_are_trained_and_saved(
    parts: str, saved: set[str], not_saved: set[str], base: Path, train: Train
) -> None:
    done = train(peft="lora", peft_config={"r": 2}, train_parts=parts, epoch_steps=2, precision="bf16")
    found = read_adapter(done.folder).parts
    assert saved <= found.keys() and not not_saved & found.keys()
    model = load_model(base, dtype=torch.bfloat16)
    for name in saved:
        assert not torch.equal(found[name], dict(model.named_parameters())[name])
    assert found.keys() <= torch.load(done.pth, weights_only=True).keys()


def test_rates_and_decay_by_layer(base: Path) -> None:
    model = load_model(base)
    tuning = FullTuning()
    tuning.attach(model)
    of = {id(p): g for g in tuning.param_groups(model, 0.1) for p in g["params"]}
    groups = {name: of[id(p)] for name, p in names(model).items()}
    assert len(of) == len(groups)
    # The decays learn at twice the rate; RWKV-5 and 6 also have a bonus, at three times.
    decay, bonus = ("w0", []) if base.stem == "x070" else ("time_decay", ["time_faaaa"])
    rates = {2: [decay], 3: bonus}
    for scale, parts in rates.items():
        found = {name for name, g in groups.items() if g["lr_scale"] == scale}
        assert found == {f"blocks.{i}.att.{part}" for i in range(2) for part in parts}
    decayed = {name for name, g in groups.items() if g["weight_decay"] == 0.1}
    assert {"blocks.0.att.key.weight", "blocks.1.ffn.value.weight"} <= decayed
    assert all(name.endswith(".weight") and ".ln" not in name for name in decayed)


def test_small_steps_are_not_lost_in_bf16(base: Path, train: Train) -> None:
    """A rate so small that no bf16 weight could take one step of it."""
    done = train(train_type="none", precision="bf16", lr_init=3e-4, lr_final=3e-4, epoch_steps=20)
    assert done.end.loss_before is not None and done.end.loss_after is not None
    assert done.end.loss_after < done.end.loss_before - 0.1
    saved = torch.load(done.pth, weights_only=True)
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}
    assert load_model(done.pth, dtype=torch.bfloat16)(TOKENS).isfinite().all()


def test_parts_of_a_packed_bf16_file_learn_in_fp32(base: Path, data: Path, tmp_path: Path) -> None:
    """Embedding and head stay narrow as long as they are frozen, and no longer."""
    from engine.checkpoints.save import load_tensors, save_tensors
    from engine.data.binidx import BinIdx
    from engine.data.dataset import PadDataset
    from engine.train.evaluate import measure

    narrow = tmp_path / "narrow.pth"
    save_tensors({n: t.bfloat16() for n, t in load_tensors(base).items()}, narrow)
    flags = {"peft": "lora", "peft_config": {"r": 2}, "train_parts": "emb,head", "quant": "int8"}
    done = train_in(tmp_path / "run", narrow, data, **flags, lr_init=1e-4, lr_final=1e-4)
    assert isinstance(done, Trained), done
    parts = read_adapter(done.folder).parts
    assert {t.dtype for t in parts.values()} == {torch.float32}
    assert all(not torch.equal(t, t.bfloat16().float()) for t in parts.values())  # steps too small for bf16
    again = load_model(narrow, adapter=done.folder, quant="int8")
    assert measure(again, PadDataset(BinIdx(data), 20, "none")).loss == pytest.approx(
        done.end.loss_after, abs=1e-5
    )


@pytest.mark.parametrize("method", ["lora", "miss"])
def test_an_adapter_on_bf16_is_kept_in_fp32(method: str, base: Path, train: Train) -> None:
    done = train(peft=method, peft_config={"r": 4}, precision="bf16", quant="nf4", grad_cp=1)
    assert done.end.loss_before is not None and done.end.loss_after is not None
    assert done.end.loss_after < done.end.loss_before - 0.2
    assert {t.dtype for t in read_adapter(done.folder).tensors.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train_type": "none", "quant": "int8"}, "full tuning changes every weight"),
        ({"peft": "state", "peft_config": {"r": 4}}, "no effect when tuning state"),
        ({"peft": "lora", "peft_config": {"r": 4}, "lora_config": {"lora_r": 8}}, "8 contradicts 4"),
        ({"peft": "lora", "peft_config": {"r": float("nan")}}, "r is nan"),
        ({"peft": "lora", "lora_config": {"rank": 8}}, "rank is none of its keys"),
        ({"peft": "lora", "peft_config": {"r": 0}}, "from 1 on"),
        ({"peft": "lora", "peft_config": {"init_lora_weights": "pissa"}}, "use peft pissa"),
        ({"peft": "lora", "peft_config": {"modules_to_save": ["head"]}}, "use train_parts"),
        ({"peft": "pissa", "peft_config": {"use_dora": True}}, "pissa has no use_dora"),
        ({"peft": "miss", "lora_config": {"lora_alpha": 8}}, "miss has no lora_alpha"),
        ({"peft": "miss", "lora_config": {"bone_mode": "bot"}}, "modes bone and bat"),
        ({"peft": "lora", "train_parts": "emb,tail"}, "there is no part tail"),
    ],
)
def test_senseless_combinations_are_refused_with_the_reason(settings: dict[str, Any], says: str) -> None:
    assert says in "; ".join(map(str, check_values(settings, files=False).problems))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"alpha": 8}, "unexpected keyword argument 'alpha'"),
        ({"target_modules": ["head"]}, "names emb or head"),
        ({"target_modules": ["query"]}, "peft refuses it"),
    ],
)
def test_what_peft_refuses_is_said(config: dict[str, Any], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(peft="lora", peft_config=config)
