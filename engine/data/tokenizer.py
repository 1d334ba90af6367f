"""The World vocabulary (rwkv_vocab_v20230424): text to ids by pyrwkv_tokenizer, ids to text by a table.

Encoding is the library's. Decoding is not: its decode panics on ids that are no UTF-8 by themselves,
which is what a model emits half-way through an emoji. The table is read from the vocabulary file
that the library ships and encodes with, so both sides agree by construction.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import functools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import UserError
from engine.contract.i18n import _

VOCABULARY = "rwkv_vocab_v20230424"
VOCAB_SIZE = 65536
END_OF_DOCUMENT = 0

_ENTRIES = 65529
_AT_ONCE = 1 << 16  # ids; each takes some hundred bytes on the way to its own
_UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()


@functools.cache
def _encoder() -> Any:
    """What has `encode(text)` and `encode_batch(texts)`.

    pyrwkv_tokenizer, written in Rust, or where there is no wheel of it, as for Python 3.14, the
    tokenizer of the rwkv package, written in Python: the same ids at a thirtieth of the speed.
    """
    try:
        import pyrwkv_tokenizer
    except ImportError:
        return _Plain(_vocabulary())
    return pyrwkv_tokenizer.RWKVTokenizer()


class _Plain:
    """The tokenizer of the rwkv package under the names that the other one has."""

    def __init__(self, vocabulary: Path) -> None:
        from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

        self.encode: Callable[[str], list[int]] = TRIE_TOKENIZER(str(vocabulary)).encode

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return list(map(self.encode, texts))


def _vocabulary() -> Path:
    """The vocabulary file that the tokenizer in use ships."""
    for package in ("pyrwkv_tokenizer", "rwkv"):
        with contextlib.suppress(ImportError):
            return Path(str(resources.files(package) / f"{VOCABULARY}.txt"))
    raise UserError(
        _("No tokenizer is installed."), _("Install pyrwkv-tokenizer, or rwkv where that has no wheel.")
    )


@functools.cache
def _table() -> tuple[bytes, ...]:
    """The bytes of each id. Lines of the file read `ID LITERAL LENGTH`, LITERAL a Python str or bytes."""
    table = [_UNKNOWN] * VOCAB_SIZE
    table[END_OF_DOCUMENT] = b""
    file = _vocabulary()
    entries = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        number, _space, rest = line.partition(" ")
        literal, _space, length = rest.rpartition(" ")
        piece = _literal(literal)
        if len(piece) != int(length):
            raise UserError(
                _("The vocabulary file {file} is damaged at id {number}.", file=file, number=number),
                _("Reinstall the package it belongs to."),
            )
        table[int(number)] = piece
        entries += 1
    if entries != _ENTRIES:
        raise UserError(
            _(
                "The vocabulary file {file} has {entries} entries, not {expected}.",
                file=file,
                entries=entries,
                expected=_ENTRIES,
            ),
            _("Reinstall the package it belongs to."),
        )
    return tuple(table)


def _literal(source: str) -> bytes:
    if "\\" not in source and source[0] != "b":
        return source[1:-1].encode()  # nine in ten lines, at a tenth of literal_eval's time
    value = ast.literal_eval(source)
    return value if isinstance(value, bytes) else str(value).encode()


@functools.cache
def _lengths() -> NDArray[np.uint8]:
    return np.array([len(piece) for piece in _table()], np.uint8)


@functools.cache
def _joined() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of all ids end to end, and where those of each id [V] begin."""
    ends = np.cumsum(_lengths(), dtype=np.int64)
    return np.frombuffer(b"".join(_table()), np.uint8), ends - _lengths()


def _known(ids: NDArray[Any]) -> NDArray[Any]:
    """The ids, those outside the table replaced by one that is unknown as well."""
    if ids.dtype == np.uint16:
        return ids
    return np.where((ids < 0) | (ids >= VOCAB_SIZE), VOCAB_SIZE - 1, ids)


def _bytes_of(ids: NDArray[Any]) -> bytes:
    known = _known(ids)
    lengths = _lengths()[known]
    ends = np.cumsum(lengths, dtype=np.int64)
    joined, starts = _joined()
    places: NDArray[np.int64] = np.repeat(starts[known] - (ends - lengths), lengths)
    places += np.arange(len(places))
    data: bytes = joined[places].tobytes()
    return data


class Tokenizer:
    """Free to construct; the vocabulary is loaded once, when it is first needed.

    Id 0 ends a document and has no bytes. Ids outside the vocabulary (65530 and up, which a model
    with 65536 outputs can emit, or negative ones) decode to U+FFFD, the replacement character.
    """

    def encode(self, text: str) -> list[int]:
        """Greedy longest match on the UTF-8 bytes. Raises UnicodeEncodeError for a lone surrogate."""
        ids: list[int] = _encoder().encode(text)
        return ids

    def load(self) -> None:
        """Loads what encoding needs, instead of when it is first needed."""
        _encoder()
        _joined()

    def encode_documents(
        self, texts: Sequence[str], size: int, threads: bool = True
    ) -> tuple[NDArray[np.uint16], list[int]]:
        """The ids of all texts, which have `size` bytes as UTF-8, each ended by token 0, end to end; and how
        many each has.

        Raises UnicodeEncodeError for a lone surrogate in any of them, and ValueError if the ids should
        not stand for the texts: their number of bytes is compared, and of the first text the bytes
        themselves (of all texts, that would take a fifth of the time of a conversion). It does not
        return, nor does a signal get through, before all is done: give it a few hundred at a time.
        `threads` lets the library use its own; a fork must not, since it has none of those started before.
        """
        ids, sizes = array("I"), list[int]()  # what takes a list of ints five times as fast as numpy
        encoder = _encoder()
        rows: Iterable[list[int]] = encoder.encode_batch(texts) if threads else map(encoder.encode, texts)
        for row in rows:
            row.append(END_OF_DOCUMENT)
            ids.fromlist(row)
            sizes.append(len(row))
        encoded = np.frombuffer(ids, np.uint32).astype(np.uint16)
        length = int(_lengths().take(encoded).sum(dtype=np.int64))
        if length != size or self.bytes_of(encoded[: sizes[0]]) != texts[0].encode():
            raise ValueError("the tokenizer's ids do not stand for the text")  # unsaid
        return encoded, sizes

    def encode_long(self, pieces: Iterable[str]) -> Iterator[NDArray[np.uint16]]:
        """The ids of the joined pieces, as they become certain, without the end of document.

        The longest match at a byte depends on the next `longest` bytes at most. So tokens that end at
        least that far before the end of what is known, and at a whole character, are final; the rest is
        matched again together with the next piece.
        """
        lengths, rest = self.lengths(), b""
        longest = int(lengths.max())
        for piece in pieces:
            known = rest + piece.encode()
            ids = np.array(self.encode(known.decode()), np.uint16)
            ends = np.cumsum(lengths[ids], dtype=np.int64)
            safe = ends[ends <= len(known) - longest]
            begins_character = (np.frombuffer(known, np.uint8)[safe] & 0xC0) != 0x80
            final = int(np.flatnonzero(begins_character)[-1]) + 1 if begins_character.any() else 0
            yield ids[:final]
            rest = known[int(ends[final - 1]) if final else 0 :]
        yield np.array(self.encode(rest.decode()), np.uint16)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id."""
        return _table()[token] if 0 <= token < VOCAB_SIZE else _UNKNOWN

    def lengths(self) -> NDArray[np.uint8]:
        """How many bytes each id [V] has."""
        return _lengths()

    def lengths_of(self, ids: NDArray[Any]) -> NDArray[np.uint8]:
        """How many bytes each of the ids [t] has."""
        lengths: NDArray[np.uint8] = _lengths()[_known(ids)]
        return lengths

    def bytes_of(self, ids: NDArray[Any]) -> bytes:
        """As `decode_bytes`, for many ids [t] at once."""
        return b"".join(_bytes_of(ids[first : first + _AT_ONCE]) for first in range(0, len(ids), _AT_ONCE))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of all ids, joined; not necessarily valid UTF-8."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of all ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


class StreamDecoder:
    """Turns ids into text as they arrive and holds back a character until its last byte is there."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, *ids: int) -> str:
        """The text that has become complete."""
        return self._decoder.decode(self._tokenizer.decode_bytes(ids))

    def finish(self) -> str:
        """What was held back: U+FFFD if a character stayed incomplete, else nothing."""
        return self._decoder.decode(b"", final=True)
