"""Files of tensors are written whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.checkpoints.save import load_state_file, load_tensors, save_tensors
from engine.contract.errors import UserError


def test_round_trip_keeps_names_shapes_and_bits(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.pth"
    tensors = {f"blocks.{i}.att.time_state": torch.randn(2, 8, 8) for i in range(3)}
    save_tensors({name: t.requires_grad_() for name, t in tensors.items()}, path)
    loaded = load_state_file(path)
    assert list(loaded) == list(tensors)
    assert all(torch.equal(loaded[name], t) and not loaded[name].requires_grad for name, t in tensors.items())
    assert [p.name for p in path.parent.iterdir()] == ["s.pth"]


def test_a_view_does_not_take_its_storage_along(tmp_path: Path) -> None:
    large = torch.randn(1000, 1000)
    save_tensors({"row": large[3], "column": large[:, 3]}, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 20_000
    assert torch.equal(load_tensors(tmp_path / "x.pth")["column"], large[:, 3])


def test_only_a_state_is_a_state(tmp_path: Path) -> None:
    save_tensors({"emb.weight": torch.zeros(3, 4)}, tmp_path / "m.pth")
    with pytest.raises(UserError, match="not a state file"):
        load_state_file(tmp_path / "m.pth")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save_tensors({"a": torch.ones(10)}, path)
    before = path.read_bytes()
    code = f"""
import pathlib, resource, signal, torch
from engine.checkpoints.save import save_tensors
from engine.contract.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_tensors({{"a": torch.zeros(100_000)}}, pathlib.Path({str(path)!r}))
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(f"Cannot write {path} (File too large)")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Cannot write"):
        save_tensors({"a": torch.zeros(1)}, tmp_path / "file" / "x.pth")
