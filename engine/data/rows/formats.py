"""The rows of a file, one at a time, whatever its format."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Collection, Iterator
from typing import IO, Any, NamedTuple

import orjson

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.reports import BadLine, place
from engine.data.rows.files import Opened, Source, delimiter, opened
from engine.data.rows.shapes import RowError, kind

MAX_LINE = 16 << 20
"""Bytes of a line or a document; what is longer is some other format, or a book that belongs in a text file.
Reading one takes up to ten times its length of memory."""

_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 20
_LINES = 1 << 18
_BATCH = 64


class Row(NamedTuple):
    """The fields of a row, and where it is: `number` counts from 1 in `unit`s of its file."""

    values: dict[str, Any]
    number: int
    unit: str
    file: str

    @property
    def where(self) -> str:
        """line 3, or data/a.csv, row 7."""
        return place(self.file, self.unit, self.number)

    def bad(self, reason: str, code: str = "row") -> BadLine:
        """What is wrong with this row."""
        return BadLine(line=self.number, reason=reason, unit=self.unit, file=self.file, code=code)


Rows = Iterator[tuple[int, Row | BadLine]]


def read_blocks(source: Source, columns: Collection[str]) -> Iterator[Rows]:
    """The rows of a file in blocks, each of which costs next to nothing before it is gone through.

    Rows are (bytes of the file read so far, row or what is wrong with it); `columns` are all that are
    needed. Only jsonl has several blocks. Raises UserError when the file is so damaged that what follows
    cannot be read either.
    """
    if source.format == "jsonl":
        yield from _line_blocks(source)
    else:
        yield _rows(source, columns)


def _rows(source: Source, columns: Collection[str]) -> Rows:
    with opened(source) as file:
        if source.format == "Parquet":
            yield from _parquet(file, source, columns)
        else:
            yield from {"JSON": _json, "CSV": _table, "text": _text}[source.format](file, source)


def _line_blocks(source: Source) -> Iterator[Rows]:
    """Whole lines, about a quarter of a mebibyte of them at a time."""
    number = 1
    with opened(source) as it:
        while block := it.file.read(_LINES):
            long = False
            if not block.endswith(b"\n"):
                rest = it.file.readline(MAX_LINE)
                block += rest
                if long := len(rest) == MAX_LINE and not rest.endswith(b"\n"):
                    _skip_line(it.file)
            if number == 1:
                block = block.removeprefix(_BOM)
            yield _lines(block, number, it.read(), long, source)
            number += block.count(b"\n") + long


def _lines(block: bytes, first: int, read: int, long: bool, source: Source) -> Rows:
    """jsonl: an object a line; blank lines are passed over. Line `first` begins the block, after which
    `read` bytes are read; `long` says that its last line is too long."""
    lines = block.split(b"\n")
    if long:
        lines.pop()
    place = read if source.packed or long else read - len(block)
    for number, line in enumerate(lines, first):
        if (place := place + len(line) + 1) > read:
            place = read
        if line and not line.isspace():
            try:
                yield place, Row(_object(line), number, "line", source.name)
            except RowError as error:
                yield place, BadLine(line=number, reason=str(error), file=source.name, code=error.code)
    if long:
        yield read, BadLine(line=first + len(lines), reason=too_long(), file=source.name)


def too_long() -> str:
    """What is wrong with a row of more than MAX_LINE bytes."""
    return _(
        "longer than {limit} MiB: make several rows of it, or a .txt file, which is cut at line ends",
        limit=MAX_LINE >> 20,
    )


def _skip_line(file: IO[bytes]) -> None:
    while rest := file.readline(1 << 20):
        if rest.endswith(b"\n"):
            break


def _object(raw: bytes) -> dict[str, Any]:
    """The object in a line; RowError saying in a few words why there is none.

    What orjson refuses, json may take, as NaN, or can tell what is wrong with it. Of what orjson takes it
    reads only integers beyond 64 bits differently, as floats.
    """
    try:
        if isinstance(value := orjson.loads(raw), dict):
            return value
    except orjson.JSONDecodeError:
        pass
    try:
        line = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        said = _("{reason} (byte {start} of the line)", reason=not_utf8(raw), start=error.start + 1)
        raise RowError("encoding", said) from None
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError("row", _not_json(line, error)) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets thousands deep
        raise RowError("row", _("not JSON that can be read")) from None
    if not isinstance(value, dict):
        raise RowError("row", _("JSON, but {value} instead of an object", value=kind(value)))
    return value


def _not_json(line: str, error: json.JSONDecodeError) -> str:
    """What is wrong with a line, in particular where that is wrong with many."""
    if line.lstrip().startswith("{'"):
        return _("not JSON (single quotes, where JSON has double ones)")
    rest = line[error.pos :] if error.msg == "Extra data" else ""  # unsaid
    if rest.strip() == ",":
        return _("not JSON lines (a comma behind the object)")
    if rest.startswith("{"):
        return _("not JSON lines (several objects on one line)")
    what = error.msg.removesuffix(" at").removesuffix(" starting")  # unsaid
    return _("not JSON ({msg} at character {pos})", msg=what, pos=error.pos + 1)


def not_utf8(raw: bytes) -> str:
    """What is wrong with bytes that are no UTF-8: what Chinese Windows writes is recognised."""
    try:
        raw.decode("gb2312")
    except UnicodeDecodeError:
        return _("not UTF-8")
    return _("not UTF-8 but probably GBK")


def _json(opened: Opened, source: Source) -> Rows:
    """An array of objects, or objects one after the other."""
    import ijson

    file = opened.file
    head = file.peek(64)  # type: ignore[attr-defined]
    if head.startswith(_BOM):
        file.read(len(_BOM))
    many = head.removeprefix(_BOM).lstrip().startswith(b"[")
    number = 0
    try:
        for value in ijson.items(file, "item" if many else "", multiple_values=True, use_float=True):
            number += 1
            if isinstance(value, dict):
                yield opened.read(), Row(value, number, "row", source.name)
            else:
                reason = _("{value} instead of an object", value=kind(value))
                yield opened.read(), BadLine(line=number, reason=reason, unit="row", file=source.name)
    except (ijson.JSONError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:120]
        raise UserError(
            _(
                "{path} stops being JSON after row {number} ({said}).",
                path=source.path,
                number=number,
                said=said,
            ),
            _("Mend it there; nothing behind that place can be read."),
        ) from None


def _table(opened: Opened, source: Source) -> Rows:
    """CSV with a header; bytes that are no UTF-8 are found row by row."""
    csv.field_size_limit(MAX_LINE)
    text = io.TextIOWrapper(opened.file, "utf-8-sig", errors="surrogateescape", newline="")
    header = text.readline()
    separator = delimiter(header) or ","
    reader = csv.reader(itertools.chain([header], text), delimiter=separator, strict=True)
    begin = 1
    try:
        names = next(reader, [])
        begin = reader.line_num + 1
        for cells in reader:
            line, begin = begin, reader.line_num + 1
            if not cells:
                continue
            row = Row(dict(zip(names, cells, strict=False)), line, "line", source.name)
            read = opened.read()
            if len(cells) != len(names):
                yield (
                    read,
                    row.bad(
                        _(
                            "{fields} fields, but the header has {columns}",
                            fields=len(cells),
                            columns=len(names),
                        )
                    ),
                )
            elif _broken(joined := "\n".join(cells)) is not None:
                yield read, row.bad(not_utf8(joined.encode("utf-8", "surrogateescape")), "encoding")
            else:
                yield read, row
    except csv.Error as error:
        raise UserError(
            _("{path} is no CSV from line {begin} on ({error}).", path=source.path, begin=begin, error=error),
            _("Look for a quotation mark that is not closed or not doubled."),
        ) from None


def _broken(text: str) -> int | None:
    """Where the first byte of the file is that was no UTF-8, read as a surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _text(opened: Opened, source: Source) -> Rows:
    """A file as one document; a long one in pieces of 1 Mi characters at most that end where lines do."""
    text = io.TextIOWrapper(opened.file, "utf-8-sig", errors="surrogateescape")
    number, first, size = 1, 1, 0
    lines: list[str] = []
    while line := text.readline(_PIECE):
        if size + len(line) > _PIECE:
            yield opened.read(), _piece("".join(lines), first, source)
            lines, first, size = [], number, 0
        lines.append(line)
        size += len(line)
        number += line.endswith("\n")
    if lines:
        yield opened.read(), _piece("".join(lines), first, source)


def _piece(text: str, first: int, source: Source) -> Row | BadLine:
    if (place := _broken(text)) is not None:
        line, reason = first + text.count("\n", 0, place), not_utf8(text.encode("utf-8", "surrogateescape"))
        return BadLine(line=line, reason=reason, file=source.name, code="encoding")
    return Row({"text": text.rstrip()}, first, "line", source.name)


def _parquet(opened: Opened, source: Source, columns: Collection[str]) -> Rows:
    """The rows of a table, a few at a time; its pages, whose size whoever wrote it chose, are read whole."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            _("Reading {path} needs pyarrow, which is not installed.", path=source.path),
            _('Install it: pip install "rwkv-tune[parquet]". Or export the table as jsonl.'),
        ) from None
    arrow.set_memory_pool(arrow.system_memory_pool())  # its own keeps up to twice a page for later
    number = 0
    try:
        table = parquet.ParquetFile(opened.file, buffer_size=_PIECE, pre_buffer=False)
        wanted = [name for name in table.schema_arrow.names if name in columns]
        names, total = wanted or table.schema_arrow.names, table.metadata.num_rows
        groups = map(table.metadata.row_group, range(table.num_row_groups))
        longest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        some = min(_BATCH, _PIECE // max(1, longest) + 1)
        for batch in table.iter_batches(batch_size=some, columns=names, use_threads=False):
            for values in batch.to_pylist():
                number += 1
                yield source.size * number // total, Row(values, number, "row", source.name)
    except (arrow.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:120]
        raise UserError(
            _(
                "{path} cannot be read after row {number} ({said}).",
                path=source.path,
                number=number,
                said=said,
            ),
            _("Fetch or write it again."),
        ) from None
