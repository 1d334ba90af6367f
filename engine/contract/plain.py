"""Foreign text made harmless for a terminal: what is printed anywhere goes through here."""

from __future__ import annotations

import re
import sys
from typing import TextIO

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])", re.DOTALL)
# C0 and C1 controls but for newline, and the signs that turn the direction of what follows
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_LONE = re.compile("[\ud800-\udfff]")  # half characters: bytes of a file name that are no UTF-8
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def plain(text: str) -> str:
    """`text` without escape sequences, control characters and direction signs; tabs become spaces."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n")).replace("\t", "    ")
    return _LONE.sub(_UNKNOWN, _CONTROLS.sub("", text))


def same_length(text: str) -> str:
    """`text` with a sign in the place of each character that is not plain: for text with a cursor in it."""
    return _LONE.sub(_UNKNOWN, _CONTROLS.sub(_UNKNOWN, text.replace("\n", _UNKNOWN)))


def one_line(text: str) -> str:
    """`plain` text with its line ends shown as ⏎."""
    return plain(text).strip().replace("\n", " ⏎ ")


def plain_json(text: str) -> str:
    """A JSON document that says the same and steers no terminal: JSON itself escapes only the C0 controls."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str, *, error: bool = False) -> None:
    """Prints lines for a person on stdout, or on stderr."""
    _stream(error).write(plain(text) + "\n")
    _stream(error).flush()


def say_json(document: str) -> None:
    """Prints a JSON document on stdout."""
    sys.stdout.write(plain_json(document) + "\n")


def say_file(text: str) -> None:
    """Prints a file's text: as it is into a pipe or another file, for a terminal made plain."""
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)


def _stream(error: bool) -> TextIO:
    return sys.stderr if error else sys.stdout
