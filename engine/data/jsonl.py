"""Reads the documents of a .jsonl file one at a time: a JSON object a line, its text under "text"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from engine.contract.errors import UserError
from engine.contract.reports import BadLine

MAX_LINE = 256 << 20
"""Bytes; longer lines are no documents but some other format without line ends."""

LISTED = 10
"""Bad lines that are named; the rest are only counted."""

_BOM = b"\xef\xbb\xbf"


class BadLines:
    """The first bad lines and the number of all."""

    def __init__(self) -> None:
        self.first: list[BadLine] = []
        self.count = 0

    def add(self, line: BadLine) -> None:
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(line)


def open_source(path: Path) -> IO[bytes]:
    """Opens a file for reading; UserError when there is none or it cannot be read."""
    try:
        return path.open("rb")
    except OSError as error:
        reason = {FileNotFoundError: "there is no such file", IsADirectoryError: "it is a folder"}
        raise UserError(
            f"Cannot read {path}: {reason.get(type(error), error.strerror)}.",
            "Give the path of a .jsonl file.",
        ) from error


def read_documents(file: IO[bytes]) -> Iterator[tuple[int, str | BadLine]]:
    """(bytes read so far, text or what is wrong) of each line that is not blank."""
    position = number = 0
    while raw := file.readline(MAX_LINE):
        number += 1
        position += len(raw)
        if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
            position += _skip_line(file)
            yield position, BadLine(line=number, reason=f"longer than {MAX_LINE >> 20} MiB")
            continue
        if number == 1:
            raw = raw.removeprefix(_BOM)
        if raw.strip():
            try:
                yield position, _document(raw)
            except ValueError as error:
                yield position, BadLine(line=number, reason=str(error))


def _skip_line(file: IO[bytes]) -> int:
    skipped = 0
    while rest := file.readline(1 << 20):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


def _document(raw: bytes) -> str:
    """The text of a line; ValueError saying in a few words why there is none."""
    try:
        line = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line)") from None
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets thousands deep
        raise ValueError("not JSON that can be read") from None
    if not isinstance(value, dict):
        raise ValueError(f"JSON, but {_kind(value)} instead of an object")
    if "text" not in value:
        raise ValueError('no "text" in the object')
    text = value["text"]
    if not isinstance(text, str):
        raise ValueError(f'"text" is {_kind(text)} instead of a string')
    if not text.strip():
        raise ValueError('"text" is blank' if text else '"text" is empty')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f'"text" has a lone surrogate (U+{ord(text[error.start]):04X})') from None
    return text


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
