"""What Ai00 reads: names, order of dimensions and number format, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoints.export import export
from engine.checkpoints.save import load_tensors, save_tensors
from engine.contract.errors import UserError
from engine.models.init import make_checkpoint

TURNED = {
    "x052": set(),
    "x060": {"att.time_maa_w1", "att.time_maa_w2", "att.time_decay_w1", "att.time_decay_w2"},
    "x070": {f"att.{kind}{end}" for kind in "wavg" for end in "12"},
}
NAMES = {"att.time_faaaa": "att.time_first"}


def back(name: str, tensor: Tensor, turned: set[str]) -> Tensor:
    return tensor.mT if name.split(".", 2)[-1] in turned else tensor


@pytest.mark.parametrize("version", TURNED)
def test_a_model_has_the_names_and_the_order_of_ai00(version: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m.pth", version, 2, 64, 90)
    tensors = load_tensors(tmp_path / "m.pth")
    told = list[tuple[int, int]]()
    report = export(tmp_path / "m.pth", tmp_path / "m.st", lambda *done: told.append(done))
    assert (report.kind, told[-1]) == ("model", (len(tensors), len(tensors)))
    found = load_file(tmp_path / "m.st")
    for name, tensor in tensors.items():
        theirs = name.replace("time_maa", "time_mix").replace("time_faaaa", "time_first")
        assert found[theirs].dtype == torch.float16
        assert torch.equal(back(name, found.pop(theirs), TURNED[version]), tensor.half()), name
    assert not found
    if version == "x060":
        assert load_file(tmp_path / "m.st")["blocks.0.att.time_mix_w1"].shape[-1] == 64


def test_a_state_is_turned(tmp_path: Path) -> None:
    state = {f"blocks.{i}.att.time_state": torch.randn(2, 32, 32) for i in range(3)}
    save_tensors(state, tmp_path / "s.pth")
    assert export(tmp_path / "s.pth", tmp_path / "s.st").kind == "state"
    found = load_file(tmp_path / "s.st")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name].mT, tensor.half()) for name, tensor in state.items())


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    large = {f"blocks.{i}.att.time_state": torch.full((2, 32, 32), 1e5) for i in range(2)}
    save_tensors(large, tmp_path / "s.pth")
    (tmp_path / "old.st").write_text("mine")
    save_tensors({"x": torch.zeros(2)}, tmp_path / "x.pth")
    for source, out, words in (
        ("s.pth", "s.st", "values that fp16 cannot"),
        ("s.pth", "old.st", "exists already"),
        ("s.pth", "s.safetensors", "end in .st"),
        ("x.pth", "x.st", "x.pth"),
        ("no.pth", "no.st", "no file"),
    ):
        with pytest.raises(UserError, match=words):
            export(tmp_path / source, tmp_path / out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.st", "s.pth", "x.pth"]
    assert (tmp_path / "old.st").read_text() == "mine"
