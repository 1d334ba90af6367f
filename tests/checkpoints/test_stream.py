"""Files written tensor by tensor are torch's own files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.checkpoints import stream
from engine.checkpoints.header import read_header
from engine.checkpoints.stream import read_stream, write_stream

TENSORS = {
    "a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "none": torch.zeros(0, 3), "one": torch.tensor(3),
    "turned": torch.randn(2, 3, 4).half().transpose(0, 1),
}  # fmt: skip


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_what_was_streamed(mmap: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    write_stream(iter(TENSORS.items()), path)
    loaded = torch.load(path, mmap=mmap, weights_only=True)
    assert list(loaded) == list(TENSORS)
    assert all(torch.equal(loaded[n], t) and loaded[n].dtype == t.dtype for n, t in TENSORS.items())
    assert all(t.data_ptr() % 64 == 0 for t in loaded.values())
    assert zipfile.ZipFile(path).testzip() is None
    assert [tuple(t.shape) for t in TENSORS.values()] == [t.shape for t in read_header(path).values()]


@pytest.mark.parametrize("ahead", [1, 100_000, 1 << 26])
def test_reading_ahead_changes_nothing(ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of several pages, too, and those that are kept until all are read."""
    monkeypatch.setattr(stream, "AHEAD", ahead)
    tensors = TENSORS | {f"large{i}": torch.randn(150, 111) for i in range(4)}
    write_stream(iter(tensors.items()), tmp_path / "x.pth")
    read = dict(read_stream(tmp_path / "x.pth"))
    assert list(read) == list(tensors) and all(torch.equal(read[n], t) for n, t in tensors.items())


def test_a_source_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.zeros(3)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_stream(broken(), tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())
