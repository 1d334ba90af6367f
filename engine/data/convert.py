"""jsonl to binidx: each document tokenised once, then written `repeat` times in a fresh order each time."""

from __future__ import annotations

import math
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.check import data_half
from engine.contract.errors import UserError
from engine.contract.reports import BadLine, Converted
from engine.data.binidx import BinIdxWriter
from engine.data.jsonl import BadLines, open_source, read_documents
from engine.data.tokenizer import END_OF_DOCUMENT, Tokenizer

Progress = Callable[[str, int, int], None]

_BUFFER = 1 << 20
_EVERY = 0.1
_SKIP = "Mend them, or leave them out with --skip-bad."


def convert(
    source: Path,
    prefix: Path,
    *,
    repeat: int = 10,
    ctx_len: int = 512,
    seed: int = 0,
    skip_bad: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Writes PREFIX.bin and PREFIX.idx, an item per document and repeat, each ended by token 0.

    The same source, repeat and seed give the same bytes. Memory: a buffer, the longest document and
    12 bytes per document. `progress(phase, done, total)` is called about ten times a second with
    bytes of the source ("reading") and then tokens of the target ("writing").

    Raises UserError for a source that cannot be read or holds no documents, for bad lines unless
    `skip_bad`, for an existing pair unless `force`, and when the target cannot be written. Whatever
    ends it early, the target is left as it was.
    """
    if repeat < 1 or ctx_len < 1:
        raise UserError(
            f"repeat {repeat} and ctx_len {ctx_len} must both be at least 1.", "Nothing was written."
        )
    began = time.monotonic()
    tell = Ticker(progress or (lambda *_: None))
    with open_source(source) as file, _writing(prefix):
        _check_target(prefix, force)
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with BinIdxWriter(prefix) as writer, tempfile.TemporaryFile(dir=prefix.parent) as scratch:
            total = os.fstat(file.fileno()).st_size
            starts, bad = tokenise(read_documents(file), total, scratch, skip_bad, tell)
            if bad.count and not skip_bad:
                raise refusal(f"{source} cannot be converted as it is", bad, _SKIP)
            if len(starts) == 1:
                raise UserError(
                    f"{source} holds no documents"
                    + (f" ({bad.count} bad lines were skipped)." if bad.count else "."),
                    'Each line must be a JSON object like {"text": "..."}.',
                )
            _write(writer, scratch.fileno(), starts, tell, repeat=repeat, seed=seed)
    return Converted(
        prefix=str(prefix),
        documents=len(starts) - 1,
        tokens=writer.tokens,
        items=writer.items,
        magic_prime=magic_prime(writer.tokens, ctx_len),
        dtype="uint16",
        skipped=bad.count,
        seconds=time.monotonic() - began,
    )


class Ticker:
    """Calls `progress` at most every `_EVERY` seconds and at the end of a phase."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._next = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._progress(phase, done, total)
            self._next = now + _EVERY


def tokenise(
    documents: Iterator[tuple[int, str | BadLine]],
    total: int,
    scratch: IO[bytes],
    skip_bad: bool,
    tell: Ticker,
) -> tuple[NDArray[np.int64], BadLines]:
    """Puts the tokens of all documents into `scratch`; gives where each begins in bytes, the end last.

    `documents` are pairs of the bytes read so far, of `total`, and a text or what is wrong with it.
    After a bad line that will refuse the file it goes on only to count the others.
    """
    tokenizer, starts, bad = Tokenizer(), array("q", [0]), BadLines()
    position = 0
    for read, document in documents:
        if isinstance(document, BadLine):
            bad.add(document)
        elif skip_bad or not bad.count:
            ids = tokenizer.encode(document)
            ids.append(END_OF_DOCUMENT)
            position += scratch.write(np.array(ids, "<u2").tobytes())
            starts.append(position)
        tell("reading", read, total)
    scratch.flush()
    return np.frombuffer(starts, np.int64), bad


def _write(
    writer: BinIdxWriter, scratch: int, starts: NDArray[np.int64], tell: Ticker, *, repeat: int, seed: int
) -> None:
    """Copies the documents into the target. Plain reads, not a map: mapped pages would count as memory."""
    rng = np.random.Generator(np.random.PCG64(seed))
    order = np.arange(len(starts) - 1, dtype=np.uint32)
    total = int(starts[-1]) // 2 * repeat
    for _ in range(repeat):
        rng.shuffle(order)
        for first in range(0, len(order), _BUFFER // 64):
            block = order[first : first + _BUFFER // 64]
            begins = starts[block]
            lengths = starts[block + 1] - begins
            for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
                writer.add(os.pread(scratch, length, begin))
                tell("writing", writer.tokens, total)


def magic_prime(tokens: int, ctx_len: int) -> int | None:
    """The largest prime p <= tokens // ctx_len - 1 with p % 3 == 2, which pre-training walks the data by;
    None when there are fewer than three windows of ctx_len."""
    if tokens < 3 * ctx_len:
        return None
    below = tokens // ctx_len - 1
    return next(p for p in range(below, 1, -1) if p % 3 == 2 and _is_prime(p))


def _is_prime(number: int) -> bool:
    return all(number % d for d in range(2, math.isqrt(number) + 1))


def _check_target(prefix: Path, force: bool) -> None:
    if not prefix.name:
        raise UserError(f"{prefix} names a folder.", "Give a name for the pair, like data/mine.")
    for suffix in (".bin", ".idx"):
        if data_half(prefix, suffix).exists() and not force:
            raise UserError(
                f"{data_half(prefix, suffix)} already exists; nothing was changed.",
                "Choose another name, or replace it with --force.",
            )


def refusal(what: str, bad: BadLines, remedy: str) -> UserError:
    """Says what cannot be done because of bad lines, and names the first of them."""
    listed = "".join(f"  line {b.line}: {b.reason}\n" for b in bad.first)
    more = f"  and {bad.count - len(bad.first)} more\n" if bad.count > len(bad.first) else ""
    lines = "1 bad line" if bad.count == 1 else f"{bad.count} bad lines"
    return UserError(
        f"{what}:\n{listed}{more}{lines}; nothing was written.",
        remedy,
    )


@contextmanager
def _writing(prefix: Path) -> Iterator[Any]:
    try:
        yield
    except BrokenPipeError:  # from whoever listens to the progress, not from these files
        raise
    except OSError as error:
        raise UserError(
            f"Cannot write {data_half(prefix, '.bin')}: {error.strerror or error}; nothing was left behind.",
            "Free some space or choose another place.",
        ) from error
