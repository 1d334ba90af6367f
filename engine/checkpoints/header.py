"""The names, shapes and dtypes in a torch .pth file, without torch and without running its code.

Such a file is a zip archive: a pickle that describes the tensors and one uncompressed member for
each storage. Only the pickle and the archive's directory are read, so size does not matter. The
names a pickle may refer to are listed here and become inert objects; any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError

MAX_PICKLE_BYTES = 64 << 20  # the largest released model's has 0.3 MB
LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number at the start of torch's old format

ITEM_BYTES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}  # fmt: skip

FOREIGN_STARTS = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer and not the file itself",
        "Fetch it with `git lfs pull`.",
    ),
    (b"GGUF", "is a GGUF file", "Use the .pth file of the model."),
    (b"<", "is a web page", "Download the file itself."),
    (b"\x1f\x8b", "is a gzip archive", "Unpack it first."),
)


@dataclass(frozen=True)
class TensorInfo:
    """`dtype` is torch's name without "torch."."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * next(size for name, size in ITEM_BYTES.values() if name == self.dtype)


def read_header(path: str | Path) -> dict[str, TensorInfo]:
    """The tensors of a .pth file, in its order.

    Raises UserError, saying what the file is instead, when it is no complete torch file of tensors.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise _error(path, "is a folder" if path.is_dir() else "is not a file", "Name a .pth file.")
        with path.open("rb") as file:
            start = file.read(64)
            if not start.startswith(b"PK\x03\x04"):
                raise _not_a_zip(path, start)
            with zipfile.ZipFile(file) as archive:
                return _read_archive(path, archive)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.", "Check the path.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}).", "Check the file's permissions.") from None
    except zipfile.BadZipFile:
        raise _error(path, "is incomplete: its end is missing", "Download or copy it again.") from None


def _error(path: Path, what: str, remedy: str) -> UserError:
    return UserError(f"{path} {what}.", remedy)


def _not_a_zip(path: Path, start: bytes) -> UserError:
    if not start:
        return _error(path, "is empty", "Download or copy it again.")
    for prefix, what, remedy in FOREIGN_STARTS:
        if start.lstrip().startswith(prefix):
            return _error(path, what, remedy)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100 << 20:
        return _error(path, "is a safetensors file", "Use the .pth file of the model.")
    if start[2:].startswith(LEGACY_MAGIC):
        return _error(
            path,
            "is in torch's format from before 1.6",
            "Load it with torch.load and save it anew with torch.save.",
        )
    if start[0] == 0x80 and len(start) > 1 and start[1] <= pickle.HIGHEST_PROTOCOL:
        return _error(path, "is a bare pickle, which may run code", "Use a .pth file saved by torch.save.")
    return _error(path, "is not a .pth file", "Use a .pth file saved by torch.save.")


def _read_archive(path: Path, archive: zipfile.ZipFile) -> dict[str, TensorInfo]:
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    described = [name for name in sizes if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(described) != 1:
        raise _error(path, "is a zip archive, but not torch's", "Use a .pth file saved by torch.save.")
    if sizes[described[0]] > MAX_PICKLE_BYTES:
        raise _error(path, "describes far more tensors than a model has", "Use the .pth file of a model.")
    root = described[0].removesuffix("data.pkl")
    storages = {
        n.removeprefix(f"{root}data/"): size for n, size in sizes.items() if n.startswith(f"{root}data/")
    }
    try:
        content = _HeaderUnpickler(io.BytesIO(archive.read(described[0])), storages).load()
    except _RefusedError as refused:
        raise _error(
            path, f"was not read: its pickle {refused}", "Use a file you trust, of tensors only."
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise _error(path, f"is damaged ({error})", "Download or copy it again.") from None
    if not isinstance(content, dict) or not content:
        raise _error(path, "holds no dictionary of tensors", "Use the .pth file of a model.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, TensorInfo):
            raise _error(
                path, f"holds more than tensors ({str(name)[:60]!r})", "Use a file of the weights alone."
            )
    return dict(content)


class _RefusedError(Exception):
    """What the pickle wanted."""


@dataclass(frozen=True)
class _Storage:
    dtype: str
    elements: int


class _HeaderUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, storages: dict[str, int]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if (module, name) in known:
            return known[module, name]
        if module in ("torch", "torch.storage") and name in ITEM_BYTES:
            return name
        raise _RefusedError(f"asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ("storage", its type, its member, its device, its number of elements)."""
        kind, storage_type, key, _, elements = pid
        if kind != "storage" or storage_type not in ITEM_BYTES:
            raise _RefusedError(f"asks for {kind!r}")
        dtype, item_bytes = ITEM_BYTES[storage_type]
        if self._storages.get(key, 0) < elements * item_bytes:
            raise ValueError(f"the data of tensor storage {key} are missing")
        return _Storage(dtype, elements)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Any:
    if not isinstance(storage, _Storage) or any(
        type(n) is not int or n < 0 for n in (offset, *shape, *stride)
    ):
        raise ValueError("a tensor is described wrongly")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.elements:
        raise ValueError("a tensor is larger than its data")
    return TensorInfo(tuple(shape), storage.dtype)
