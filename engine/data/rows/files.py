"""The files that data comes from: paths, patterns and folders; packed or not; and what is in them."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import zstandard

from engine.contract.data_files import ORIGIN, SUFFIXES, Format, unpacked
from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.data.rows.shapes import SHAPES

_GIVE = N_(
    "Give .jsonl, .json, .csv, .parquet, .txt or .md files, packed with gz or zst or not, or a folder."
)
_HEAD = 1 << 16
_BLOCK = 1 << 17
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"PK\x03\x04": (
        N_("is a zip archive, as .docx, .xlsx and .pth files are"),
        N_("Unpack it, or save a document as .txt and a table as .csv."),
    ),
    b"\xd0\xcf\x11\xe0": (
        N_("is a document or table of an old Office"),
        N_("Save it as .txt or .csv."),
    ),
    b"%PDF": (N_("is a PDF"), N_("Take its text out first, for example with pdftotext.")),
    b"ARROW1": (N_("is an Arrow table"), N_("Write it as Parquet or jsonl.")),
    b"MMIDIDX": (
        N_("is the index of a binidx pair, which is converted already"),
        N_("Train on it as it is."),
    ),
    b"\xff\xfe": (N_("is UTF-16 text"), N_("Save it as UTF-8.")),
    b"\xfe\xff": (N_("is UTF-16 text"), N_("Save it as UTF-8.")),
}


@dataclass(frozen=True)
class Source:
    """A file, what it is called among others ("" when it is alone), and what it is; `size` in bytes."""

    path: Path
    name: str
    format: Format
    packed: Literal["", "gzip", "zstd"]
    size: int


@dataclass(frozen=True)
class Opened:
    """The unpacked bytes of a file; `read` tells how many bytes of the file itself were used for them."""

    file: IO[bytes]
    read: Callable[[], int]


def open_source(path: Path) -> IO[bytes]:
    """Opens a file for reading; UserError when there is none or it cannot be read."""
    try:
        return path.open("rb")
    except OSError as error:
        reason = {FileNotFoundError: _("there is no such file"), IsADirectoryError: _("it is a folder")}
        raise UserError(
            _("Cannot read {path}: {reason}.", path=path, reason=reason.get(type(error), error.strerror)),
            _("Check the path."),
        ) from error


def find_sources(given: Sequence[Path]) -> list[Source]:
    """The files that paths, patterns like data/*.jsonl and folders name, each once, in that order.

    A folder gives what lies below it with a name of `SUFFIXES`, sorted by path; hidden files and what
    conversion tells of a pair are no data.
    Raises UserError for what names nothing, cannot be read, or is none of the formats.
    """
    paths = list(dict.fromkeys(path for one in given for path in _expand(one)))
    base = os.path.commonpath([path.absolute().parent for path in paths]) if paths else ""
    return [
        _recognise(path, "" if len(paths) == 1 else str(path.absolute().relative_to(base))) for path in paths
    ]


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(
            p for p in path.rglob("*") if _suffix(p) in SUFFIXES and p.is_file() and not _left(p, path)
        )
        if not found:
            raise UserError(_("{path} is a folder without data in it.", path=path), _(_GIVE))
        return found
    if glob.has_magic(str(path)) and not path.exists():
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
        if not names:
            raise UserError(_("No file is called like {path}.", path=path), _("Check the pattern."))
        return [file for name in names for file in _expand(Path(name))]
    return [path]


def _left(path: Path, below: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(below).parts)
    return hidden or path.name.endswith(ORIGIN)


def _suffix(path: Path) -> str:
    return Path(unpacked(path.name)).suffix.lower()


def _recognise(path: Path, name: str) -> Source:
    with open_source(path) as file:
        magic = file.read(4)
        packed: Literal["", "gzip", "zstd"] = (
            "gzip" if magic[:2] == _GZIP else "zstd" if magic == _ZSTD else ""
        )
        size = path.stat().st_size
    with opened(Source(path, name, "text", packed, size)) as it:
        head = it.file.read(_HEAD)
    for start, (looks, remedy) in _FOREIGN.items():
        if head.startswith(start):
            raise UserError(_("{path} {looks}.", path=path, looks=_(looks)), _(remedy))
    form = _format(head, _suffix(path))
    if form == "Parquet" and packed:
        raise UserError(_("{path} is a Parquet table packed once more.", path=path), _("Unpack it first."))
    if form != "Parquet" and b"\x00" in head:
        raise UserError(_("{path} is not text.", path=path), _(_GIVE))
    return Source(path, name, form, packed, size)


def _format(head: bytes, ending: str) -> Format:
    """What the beginning of a file looks like; the name decides only where the content leaves it open."""
    if head.startswith(b"PAR1"):
        return "Parquet"
    start = head.removeprefix(_BOM).lstrip()
    named = SUFFIXES.get(ending)
    if start.startswith(b"{"):
        return "JSON" if named == "JSON" and not _is_json(start) else _object(start)
    if re.match(rb"\[\s*[\[{\]]", start) and (named != "jsonl" or not _is_line(start)):
        return "JSON"
    if named == "jsonl":
        return "jsonl"
    if named == "JSON" and start.startswith(b"["):
        return "JSON"
    if named in ("CSV", "text"):
        return named
    return "CSV" if _is_table(start) else "jsonl" if named == "JSON" else "text"


def _object(start: bytes) -> Format:
    """An object a line, or one written over several lines."""
    first = start.split(b"\n", 1)[0].strip()
    return "JSON" if first == b"{" else "jsonl"


def _is_json(start: bytes) -> bool:
    line, end, _ = start.partition(b"\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return not end  # a line longer than what was read of it
    return True


def _is_line(start: bytes) -> bool:
    """Whether the first of several lines is JSON by itself."""
    return bool(start.partition(b"\n")[2].strip()) and _is_json(start)


def _is_table(start: bytes) -> bool:
    """Whether the first line names columns that a row of some kind has."""
    line = start.split(b"\n", 1)[0].decode("utf-8", "replace")
    if not (separator := delimiter(line)):
        return False
    try:
        columns = next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return False
    return any(shape.fits(columns) for shape in SHAPES)


def delimiter(header: str) -> str:
    """What separates the columns of a table: comma, tab, semicolon or bar; "" when there is one column."""
    most = max(",\t;|", key=header.count)
    return most if header.count(most) else ""


@contextmanager
def opened(source: Source) -> Iterator[Opened]:
    """The unpacked content. UserError when the packing is damaged or ends too early, also while reading."""
    with open_source(source.path) as raw:
        try:
            if source.packed == "gzip":
                with gzip.open(raw) as file:
                    yield Opened(cast(IO[bytes], file), raw.tell)
            elif source.packed == "zstd":
                with io.BufferedReader(_Zstd(raw), _BLOCK) as buffered:
                    yield Opened(cast(IO[bytes], buffered), raw.tell)
            else:
                yield Opened(raw, raw.tell)
        except (gzip.BadGzipFile, zlib.error, EOFError, zstandard.ZstdError) as error:
            raise UserError(
                _(
                    "{path} is damaged: unpacking it failed about byte {byte:,} ({error}).",
                    path=source.path,
                    byte=raw.tell(),
                    error=error,
                ),
                _("Fetch or pack it again."),
            ) from error


class _Zstd(io.RawIOBase):
    """Unpacks frames one after the other; unlike the library's reader it notices when one is cut short."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._rest = raw, b""
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._out = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._out and self._more():
            pass
        count = min(len(buffer), len(self._out))
        buffer[:count], self._out = self._out[:count], self._out[count:]
        return count

    def _more(self) -> bool:
        """Unpacks another block; False at the end."""
        packed = self._rest or self._raw.read(_BLOCK)
        if not packed:
            if self._frame is not None:
                raise EOFError(_("it ends in the middle of a frame"))
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._out = memoryview(self._frame.decompress(packed))
        self._rest = b""
        if self._frame.eof:
            self._rest, self._frame = self._frame.unused_data, None
        return True


def describe(sources: Sequence[Source], shapes: Sequence[str], say: Callable[..., str] = _) -> str:
    """What was recognised, in a line: "3 files, jsonl and CSV (gzip): chat"; `say` translates it."""
    said = say(N_(" and ")).join(say(form) for form in dict.fromkeys(source.format for source in sources))
    if packed := say(N_(" and ")).join(dict.fromkeys(source.packed for source in sources if source.packed)):
        said = say(N_("{what} ({packed})"), what=said, packed=packed)
    if len(sources) > 1:
        said = say(N_("{n:,} files, {what}"), n=len(sources), what=said)
    if not shapes:
        return said
    return say(N_("{what}: {kinds}"), what=said, kinds=say(N_(", ")).join(map(say, shapes)))
