"""Every method, with packed weights or without: the loss falls, the files reload, a merge does the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoints.merge import merge
from engine.data.binidx import BinIdx
from engine.data.dataset import PadDataset
from engine.models import load_model
from engine.train.evaluate import measure
from tests.tuning.conftest import TOKENS, Train

METHODS: dict[str, dict[str, Any]] = {
    "state": {"peft": "state", "lr_init": 1.0, "lr_final": 0.1},
    "lora": {"peft": "lora", "lora_config": {"lora_load": "", "lora_r": 4, "lora_alpha": 8}},
    "dora": {"peft": "lora", "peft_config": {"r": 4, "lora_alpha": 8, "use_dora": True}},
    "rslora": {"peft": "lora", "peft_config": {"r": 4, "lora_alpha": 4, "use_rslora": True}},
    "pissa": {"peft": "pissa", "peft_config": {"r": 4}},
    "miss": {"peft": "miss", "peft_config": {"r": 8}},
    "parts": {"peft": "lora", "peft_config": {"r": 4}, "train_parts": "emb,head,time,ln"},
    "bat": {"peft": "miss", "lora_config": {"disha_r": 8, "disha_mode": "bat"}},
}
# How far packing may move the loss (about 5 nats), and the logits as a share of their norm.
PACKING = {"none": (1e-5, 1e-5), "int8": (0.02, 0.05), "nf4": (0.3, 0.5)}


def logits(path: Path, **how: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = load_model(path, **how)(TOKENS)
    return found


def loss(path: Path, data: Path, **how: Any) -> float:
    return measure(load_model(path, **how), PadDataset(BinIdx(data), 20, "none")).loss


@pytest.mark.parametrize("method", ["lora", "pissa", "miss", "parts"])
def test_adapters_in_chunks(method: str, train: Train) -> None:
    """One chunk trains the same file; several carry the state on, and the loss falls as well."""
    flags = {**METHODS[method], "epoch_steps": 3, "train_type": "infctx"}
    plain = train("plain", **{**flags, "train_type": "auto"})
    one, several = train("one", **flags, chunk_ctx=20), train("several", **flags, chunk_ctx=6)
    a, b, c = (torch.load(done.pth, weights_only=True) for done in (plain, one, several))
    assert a.keys() == b.keys() == c.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    before, after = several.end.loss_before, several.end.loss_after
    assert before is not None and after is not None and after < before - 0.05


@pytest.mark.parametrize("quant", ["none", "int8", "nf4"])
@pytest.mark.parametrize("method", METHODS)
def test_train_reload_and_merge(
    method: str, quant: str, base: Path, data: Path, train: Train, tmp_path: Path
) -> None:
    done = train(**METHODS[method], quant=quant)
    before, after = done.end.loss_before, done.end.loss_after
    assert before is not None and after is not None and after < before - 0.2

    what: dict[str, Any] = {"state": done.pth} if method == "state" else {"adapter": done.folder}
    # PiSSA packs what its start leaves of a weight; the reloaded LoRA of twice the rank goes with the whole.
    exact = "none" if method != "pissa" else quant
    assert loss(base, data, quant=quant, **what) == pytest.approx(after, abs=PACKING[exact][0])

    tuned = logits(base, **what)
    assert (tuned - logits(base)).abs().max() > 0.1
    merge(base, tmp_path / "merged.pth", **what)
    merged = logits(tmp_path / "merged.pth")
    assert torch.allclose(merged, tuned, atol=1e-4)
    packed = logits(base, quant=quant, **what)
    assert (packed - merged).norm() / merged.norm() < PACKING[quant][1]
