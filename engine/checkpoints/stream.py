"""Tensor files larger than the memory: read and written a few tensors at a time.

A file is memory-mapped in windows, because pages that were read stay with a process for as long as the
mapping does. What is written is the zip archive that torch.save writes: the tensors come first, the
pickle that describes them last.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.save import load_tensors, whole_file

WINDOW = 16 << 20  # bytes
ALIGNMENT = 64  # of each tensor in the file, as torch.save keeps it


def read_stream(path: Path, window: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, in the file's order. A tensor kept after the next is asked for should be a copy:
    it would hold all that was read along with it. `window`: bytes of a mapping, 0 for a 256th of the file."""
    window = window or max(WINDOW, path.stat().st_size // 256)
    tensors = load_tensors(path)
    names, seen = list(tensors), 0
    for name in names:
        tensor = tensors[name]
        if seen and seen + tensor.nbytes > window:
            del tensors, tensor
            tensors, seen = load_tensors(path), 0
            tensor = tensors[name]
        seen += tensor.nbytes
        yield name, tensor


def write_stream(tensors: Iterable[tuple[str, Tensor]], path: Path) -> None:
    """Writes a .pth file holding one tensor at a time; the file is whole or not there at all.

    Raises UserError when it cannot be written.
    """
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        described: dict[str, _Described] = {}
        for number, (name, tensor) in enumerate(tensors):
            own = tensor.detach().cpu().contiguous()
            _add(archive, f"archive/data/{number}", own.view(-1).view(torch.uint8).numpy().data)
            described[name] = _Described(_Storage(own.dtype, str(number), own.numel()), tuple(own.shape))
        pickled = io.BytesIO()
        _Pickler(pickled, protocol=2).dump(described)
        _add(archive, "archive/data.pkl", pickled.getbuffer())
        _add(archive, "archive/byteorder", memoryview(b"little"))
        _add(archive, "archive/version", memoryview(b"3\n"))


def _add(archive: zipfile.ZipFile, name: str, data: memoryview) -> None:
    info = zipfile.ZipInfo(name)
    info.file_size = data.nbytes
    assert archive.fp is not None
    # A large member's local header grows by a 20-byte field that zipfile puts behind ours.
    large = 20 if data.nbytes * 1.05 > zipfile.ZIP64_LIMIT else 0
    begin = archive.fp.tell() + 30 + len(name) + 4 + large
    padding = -begin % ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"\0" * padding
    with archive.open(info, "w") as member:
        member.write(data)


class _Storage:
    def __init__(self, dtype: torch.dtype, key: str, elements: int) -> None:
        self.dtype, self.key, self.elements = dtype, key, elements


class _Described:
    def __init__(self, storage: _Storage, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = storage, shape


class _Pickler(pickle.Pickler):
    """Writes descriptions as torch.load expects tensors."""

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        kind = torch.storage._dtype_to_storage_type_map()[obj.dtype]
        return "storage", getattr(torch, kind), obj.key, "cpu", obj.elements

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _Described):
            return NotImplemented
        strides = torch.empty(obj.shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (obj.storage, 0, obj.shape, strides, False, OrderedDict())
