"""Tensor files larger than the memory: read and written a few tensors at a time.

A file is memory-mapped. The kernel is asked to read what comes next while a tensor is worked with, and to
take back the pages of the last one, which would stay with the process for as long as the mapping does. What
is written is the zip archive that torch.save writes: the tensors come first, the pickle that describes them
last.
"""

from __future__ import annotations

import ctypes
import functools
import io
import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.save import load_tensors, whole_file

AHEAD = 32 << 20  # bytes, or a 64th of the file
DONTNEED, POPULATE = 4, 22  # Linux's; one that does not know the second reads when a page is touched
ALIGNMENT = 64  # of each tensor in the file, as torch.save keeps it


def read_stream(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, in the file's order. A tensor kept after the next is asked for should be a copy: it is
    read from the file again."""
    tensors = load_tensors(path)
    values, ahead, room = list(tensors.values()), 0, max(AHEAD, path.stat().st_size // 64)
    begun: list[Future[None]] = []
    with ThreadPoolExecutor(1) as reader:
        for i, (name, tensor) in enumerate(tensors.items()):
            while (n := len(begun)) < len(values) and (n <= i or ahead + values[n].nbytes <= room):
                begun.append(reader.submit(_advise, values[n], POPULATE))
                ahead += values[n].nbytes
            begun[i].result()
            yield name, tensor
            _advise(tensor, DONTNEED)
            if tensor.nbytes >= 1 << 20:
                _libc().malloc_trim(0)  # what it was worked with in goes back, too
            ahead -= tensor.nbytes


def _advise(mapped: Tensor, advice: int) -> None:
    """Tells the kernel what becomes of a mapped tensor's pages; those it shares with others are left out."""
    if mapped.is_contiguous():
        begin = -(-mapped.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (mapped.data_ptr() + mapped.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


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
