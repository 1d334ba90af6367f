"""Adapters as files: ours and peft's read each other, the incumbent's load, and nothing loads silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints.adapter import read_adapter
from engine.checkpoints.merge import merge
from engine.checkpoints.save import load_tensors, save_tensors
from engine.contract.errors import UserError
from engine.models import load_model
from tests.tuning.conftest import TOKENS, Train

LORA: dict[str, Any] = {"peft": "lora", "peft_config": {"r": 4, "lora_alpha": 8}, "epoch_steps": 3}


def logits(path: Path, **how: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_model(path, **how)(TOKENS)
    return found


def test_peft_itself_reads_the_folder(base: Path, train: Train) -> None:
    from peft import PeftModel

    folder = train(**LORA).folder
    assert {p.name for p in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    wrapped: Any = PeftModel.from_pretrained(load_model(base), str(folder))
    with torch.no_grad():
        assert torch.allclose(wrapped.base_model.model(TOKENS), logits(base, adapter=folder), atol=1e-6)


def test_an_incumbents_lora_is_base_plus_scaled_product(base: Path, tmp_path: Path) -> None:
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    names = [f"blocks.1.att.key.lora_{end}" for end in "AB"]
    save_tensors(dict(zip(names, (down, up), strict=True)), tmp_path / "rwkv-3.pth")
    changed = dict(load_tensors(base))
    changed["blocks.1.att.key.weight"] = changed["blocks.1.att.key.weight"] + 2.5 * up @ down
    save_tensors(changed, tmp_path / "changed.pth")
    adapter = read_adapter(tmp_path / "rwkv-3.pth", alpha=10)
    assert torch.allclose(logits(base, adapter=adapter), logits(tmp_path / "changed.pth"), atol=1e-4)
    with pytest.raises(UserError, match="does not say its lora_alpha"):
        read_adapter(tmp_path / "rwkv-3.pth")


@pytest.mark.parametrize("key", ["bone", "disha"])
def test_an_incumbents_bone_is_base_plus_tiles(key: str, base: Path, tmp_path: Path) -> None:
    block = 0.1 * torch.randn(8, 64)
    save_tensors({f"blocks.0.att.value.{key}": block}, tmp_path / "rwkv-0.pth")
    changed = dict(load_tensors(base))
    changed["blocks.0.att.value.weight"] = changed["blocks.0.att.value.weight"] + block.T.repeat(1, 8)
    save_tensors(changed, tmp_path / "changed.pth")
    merge(base, tmp_path / "merged.pth", adapter=tmp_path / "rwkv-0.pth")
    assert torch.allclose(logits(tmp_path / "merged.pth"), logits(tmp_path / "changed.pth"), atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "pissa", "miss"])
def test_a_pth_alone_does_what_the_folder_does(method: str, base: Path, train: Train, tmp_path: Path) -> None:
    done = train(peft=method, peft_config={"r": 4}, epoch_steps=3)
    alone = tmp_path / "alone" / "rwkv-0.pth"
    save_tensors(load_tensors(done.pth), alone)
    if method == "pissa":
        save_tensors(load_tensors(done.run.path / "init_pissa.pth"), alone.parent / "init_pissa.pth")
    adapter = read_adapter(alone, alpha=64 if method == "lora" else None)
    assert torch.allclose(logits(base, adapter=adapter), logits(base, adapter=done.folder), atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_a_run_goes_on_from_an_adapter(method: str, train: Train) -> None:
    first = train("first", peft=method, peft_config={"r": 4, "lora_alpha": 8}, train_parts="ln")
    config = {f"{method}_load": str(first.pth), f"{method}_r": 4, "lora_alpha": 8}
    second = train("second", peft=method, lora_config=config, epoch_steps=1)
    assert second.end.loss_before == pytest.approx(first.end.loss_after, abs=1e-4)
    assert read_adapter(second.folder).parts.keys() == read_adapter(first.folder).parts.keys()


def test_what_matches_nothing_is_an_error(base: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    foreign = tmp_path / "rwkv-0.pth"
    for key in ("blocks.7.att.key.lora_", "blocks.0.att.other.lora_"):
        save_tensors({f"{key}A": torch.zeros(4, 64), f"{key}B": torch.zeros(64, 4)}, foreign)
        for use in (
            lambda: load_model(base, adapter=read_adapter(foreign, alpha=4)),
            lambda: merge(base, tmp_path / "m.pth", adapter=foreign, alpha=4),
        ):
            with pytest.raises(UserError, match="matches nothing"):
                use()
    assert not (tmp_path / "m.pth").exists()
    config = {"lora_load": str(foreign), "lora_r": 4, "lora_alpha": 4}
    assert "matches nothing" in refused(peft="lora", lora_config=config)
    with pytest.raises(UserError, match="no lora_A, bone or disha"):
        read_adapter(base)
    with pytest.raises(UserError, match="no adapter"):
        read_adapter(tmp_path)


def test_an_adapter_of_the_wrong_shape_is_an_error(base: Path, tmp_path: Path) -> None:
    names = [f"blocks.1.att.key.lora_{end}" for end in "AB"]
    save_tensors(dict(zip(names, (torch.zeros(4, 32), torch.zeros(64, 4)), strict=True)), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"does not fit the model"):
        load_model(base, adapter=read_adapter(tmp_path / "a.pth", alpha=4))


def test_a_merge_refuses(base: Path, tmp_path: Path) -> None:
    state = {f"blocks.{i}.att.time_state": torch.zeros(4, 16, 16) for i in range(2)}
    save_tensors(state, tmp_path / "s.pth")
    report = merge(base, tmp_path / "m.pth", state=tmp_path / "s.pth")
    assert "Ai00" in report.notice and report.version == base.stem
    before = (tmp_path / "m.pth").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        merge(base, tmp_path / "m.pth", state=tmp_path / "s.pth")
    assert (tmp_path / "m.pth").read_bytes() == before
    with pytest.raises(UserError, match="a state or an adapter"):
        merge(base, tmp_path / "n.pth")
    save_tensors({"blocks.0.att.time_state": torch.zeros(4, 16, 16)}, tmp_path / "short.pth")
    with pytest.raises(UserError, match="1 layers of 4 heads of 16, the model 2"):
        merge(base, tmp_path / "n.pth", state=tmp_path / "short.pth")
    assert {p.name for p in tmp_path.iterdir()} == {"s.pth", "m.pth", "short.pth"}
