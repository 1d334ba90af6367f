"""The names, shapes and dtypes in a torch .pth file, without torch and without running its code.

Such a file is a zip archive: a pickle that describes the tensors and one uncompressed member for
each storage. Only the pickle and the archive's directory are read, so size does not matter. The
names and the instructions that a pickle may use are listed here, and names become inert objects; any
other is refused. The unpickler is Python's own in Python: the one in C takes memory for whatever
number an instruction names.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _

MAX_PICKLE_BYTES = 4 << 20  # the largest released model's has 0.3 MB
MAX_DIMENSIONS = 8
LONGEST_REASON = 80  # characters of an error's text, which may hold what the file does
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
        N_("is a Git LFS pointer and not the file itself"),
        N_("Fetch it with `git lfs pull`."),
    ),
    (b"GGUF", N_("is a GGUF file"), N_("Use the .pth file of the model.")),
    (b"<", N_("is a web page"), N_("Download the file itself.")),
    (b"\x1f\x8b", N_("is a gzip archive"), N_("Unpack it first.")),
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
            raise _error(
                path, _("is a folder") if path.is_dir() else _("is not a file"), _("Name a .pth file.")
            )
        with path.open("rb") as file:
            start = file.read(64)
            if not start.startswith(b"PK\x03\x04"):
                raise _not_a_zip(path, start)
            with zipfile.ZipFile(file) as archive:
                return _read_archive(path, archive)
    except FileNotFoundError:
        raise UserError(_("There is no file {path}.", path=path), _("Check the path.")) from None
    except OSError as error:
        raise UserError(
            _("Cannot read {path} ({strerror}).", path=path, strerror=error.strerror),
            _("Check the file's permissions."),
        ) from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error):
        raise _error(path, _("is incomplete: its end is missing"), _("Download or copy it again.")) from None


def _error(path: Path, what: str, remedy: str) -> UserError:
    return UserError(_("{path} {looks}.", path=path, looks=what), remedy)


def _not_a_zip(path: Path, start: bytes) -> UserError:
    if not start:
        return _error(path, _("is empty"), _("Download or copy it again."))
    for prefix, what, remedy in FOREIGN_STARTS:
        if start.lstrip().startswith(prefix):
            return _error(path, what, remedy)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100 << 20:
        return _error(path, _("is a safetensors file"), _("Use the .pth file of the model."))
    if start[2:].startswith(LEGACY_MAGIC):
        return _error(
            path,
            _("is in torch's format from before 1.6"),
            _("Load it with torch.load and save it anew with torch.save."),
        )
    if start[0] == 0x80 and len(start) > 1 and start[1] <= pickle.HIGHEST_PROTOCOL:
        return _error(
            path, _("is a bare pickle, which may run code"), _("Use a .pth file saved by torch.save.")
        )
    return _error(path, _("is not a .pth file"), _("Use a .pth file saved by torch.save."))


def _read_archive(path: Path, archive: zipfile.ZipFile) -> dict[str, TensorInfo]:
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    described = [name for name in sizes if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(described) != 1:
        raise _error(path, _("is a zip archive, but not torch's"), _("Use a .pth file saved by torch.save."))
    if sizes[described[0]] > MAX_PICKLE_BYTES:
        raise _error(
            path, _("describes far more tensors than a model has"), _("Use the .pth file of a model.")
        )
    root = described[0].removesuffix("data.pkl")
    storages = {
        n.removeprefix(f"{root}data/"): size for n, size in sizes.items() if n.startswith(f"{root}data/")
    }
    try:
        content = _HeaderUnpickler(io.BytesIO(archive.read(described[0])), storages).load()
    except _RefusedError as refused:
        raise _error(
            path,
            _("was not read: its pickle {refused}", refused=refused),
            _("Use a file you trust, of tensors only."),
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error)[:LONGEST_REASON] or type(error).__name__
        raise _error(
            path, _("is damaged ({reason})", reason=reason), _("Download or copy it again.")
        ) from None
    if not isinstance(content, dict) or not content:
        raise _error(path, _("holds no dictionary of tensors"), _("Use the .pth file of a model."))
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, TensorInfo):
            raise _error(
                path,
                _("holds more than tensors ({name!r})", name=str(name)[:60]),
                _("Use a file of the weights alone."),
            )
    return dict(content)


class _RefusedError(Exception):
    """What the pickle wanted."""


@dataclass(frozen=True)
class _Storage:
    dtype: str
    elements: int


class _Tensors(dict[Any, Any]):
    """The dictionary a pickle builds. It takes names only: a key of tuples within tuples, each twice the
    one before, would take for ever to hash."""

    def __setitem__(self, name: Any, value: Any) -> None:
        if not isinstance(name, str):
            raise _RefusedError(_("names something by other than a text"))
        super().__setitem__(name, value)


class _Instructions(dict[int, Callable[[Any], None]]):
    """What an unpickler does at each instruction."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise _RefusedError(_("has the instruction {code}, which no description of tensors needs", code=code))


def _no_tensors() -> _Tensors:
    return _Tensors()


def _new_tensors(unpickler: Any) -> None:
    unpickler.append(_no_tensors())


def _forget_attributes(unpickler: Any) -> None:
    """What a dictionary is to remember beside its items (torch: the versions of modules)."""
    unpickler.stack.pop()


_USED = (
    "PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET GLOBAL "  # unsaid
    "STACK_GLOBAL REDUCE BINPERSID NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "  # unsaid
    "LONG1 BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "  # unsaid
    "TUPLE3 EMPTY_LIST APPEND APPENDS SETITEM SETITEMS"  # unsaid
)
_CODES = [getattr(pickle, name)[0] for name in _USED.split()]


class _HeaderUnpickler(pickle._Unpickler):
    dispatch = _Instructions(
        {
            code: pickle._Unpickler.dispatch[code]
            for code in (getattr(pickle, name)[0] for name in _USED.split())
        }
        | {pickle.EMPTY_DICT[0]: _new_tensors, pickle.BUILD[0]: _forget_attributes}
    )

    def __init__(self, file: io.BytesIO, storages: dict[str, int]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): _no_tensors,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if (module, name) in known:
            return known[module, name]
        if module in ("torch", "torch.storage") and name in ITEM_BYTES:
            return name
        raise _RefusedError(_("asks for {what}", what=f"{module}.{name}"[:LONGEST_REASON]))

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ("storage", its type, its member, its device, its number of elements)."""
        kind, storage_type, key, _device, elements = pid
        if any(type(text) is not str for text in (kind, storage_type, key)):
            raise ValueError(_("a tensor is described wrongly"))
        if kind != "storage" or storage_type not in ITEM_BYTES:
            raise _RefusedError(_("asks for {what}", what=repr(kind[:LONGEST_REASON])))
        dtype, item_bytes = ITEM_BYTES[storage_type]
        if type(elements) is not int or self._storages.get(key, 0) < elements * item_bytes:
            raise ValueError(_("the data of a tensor are missing"))
        return _Storage(dtype, elements)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_more: Any
) -> Any:
    if not isinstance(storage, _Storage) or len(shape) > MAX_DIMENSIONS or any(
        type(n) is not int or not 0 <= n < 1 << 63 for n in (offset, *shape, *stride)
    ):  # fmt: skip
        raise ValueError(_("a tensor is described wrongly"))
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.elements:
        raise ValueError(_("a tensor is larger than its data"))
    return TensorInfo(tuple(shape), storage.dtype)
