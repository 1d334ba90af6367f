"""What a data file holds, for a person deciding about it: counts, lengths against ctx_len, real samples."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.contract.check import data_half
from engine.contract.errors import UserError
from engine.contract.reports import BadLine, DataSummary, DocumentSample, Segment
from engine.data.binidx import MAGIC, BinIdx, cut_numbers
from engine.data.jsonl import BadLines, open_source, read_documents
from engine.data.masks import trained_mask
from engine.data.tokenizer import END_OF_DOCUMENT, StreamDecoder, Tokenizer

Kind = Literal["trained", "masked", "cut"]
Mask = Callable[[NDArray[Any]], NDArray[np.bool_]]

FIRST_PART = 8 << 20
"""Bytes of a jsonl file that a summary reads; about a second of work."""

_CUT_SHOWN = 256
_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 3 / 2, 2, 4)
_REMEDY = 'Give a .jsonl file with a JSON object like {"text": "..."} on each line, or a .bin/.idx pair.'
_LOOKS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive, as .pth models are",
    b"PAR1": "is a parquet table; export it as jsonl",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"[": "is one JSON list; write each of its objects on a line of its own",
}


def summarise(
    path: Path,
    ctx_len: int,
    loss_mask: str = "qa",
    samples: int = 3,
    limit_bytes: int = FIRST_PART,
    mask_ids: tuple[int, int] | None = None,
) -> DataSummary:
    """Recognises a jsonl file or a binidx pair (PREFIX, PREFIX.bin or PREFIX.idx) by its content.

    Of a jsonl file only the first `limit_bytes` are read; a pair is counted whole from its index.
    Raises UserError when it is neither, saying what it looks like, or when the pair is damaged.
    """
    prefix = _pair(path)
    learned = functools.partial(trained_mask, loss_mask=loss_mask, ids=mask_ids)
    if loss_mask == "se" and mask_ids is None:  # nobody has said yet what is learned
        learned = functools.partial(trained_mask, loss_mask="none")
    if prefix is not None:
        return _of_pair(path, prefix, ctx_len, learned, samples)
    return _of_jsonl(path, ctx_len, learned, samples, limit_bytes)


def _pair(path: Path) -> Path | None:
    """The prefix when the path means a pair, one of whose halves may be missing."""
    if not path.is_file():
        halves = (data_half(path, suffix) for suffix in (".idx", ".bin"))
        return path if path.name and any(half.is_file() for half in halves) else None
    with open_source(path) as file:
        head = file.read(len(MAGIC))
    is_index, is_json = head == MAGIC, head.lstrip().startswith(b"{")
    prefix = path.with_name(path.name[:-4]) if path.suffix in (".bin", ".idx") else None
    if prefix and (is_index or not is_json or data_half(prefix, ".idx").is_file()):
        return prefix
    if is_index:
        raise UserError(f"{path} is the index of a binidx pair under another name.", "Let it end in .idx.")
    return None


def _of_pair(path: Path, prefix: Path, ctx_len: int, learned: Mask, samples: int) -> DataSummary:
    data = BinIdx(prefix)
    shown = [data.item(i) for i in range(min(samples, len(data)))]
    return DataSummary(
        path=str(path),
        kind="binidx",
        file_bytes=sum(data_half(prefix, suffix).stat().st_size for suffix in (".bin", ".idx")),
        complete=True,
        samples=tuple(_sample(i, tokens, ctx_len, learned) for i, tokens in enumerate(shown, 1)),
        **_lengths(data.sizes, data.tokens, ctx_len),
    )


def _of_jsonl(path: Path, ctx_len: int, learned: Mask, samples: int, limit_bytes: int) -> DataSummary:
    tokenizer, sizes, bad = Tokenizer(), array("i"), BadLines()
    shown: list[DocumentSample] = []
    with open_source(path) as file:
        _refuse_other_formats(path, file.read(4096))
        file.seek(0)
        for read, document in read_documents(file):
            if isinstance(document, BadLine):
                bad.add(document)
            else:
                ids = [*tokenizer.encode(document), END_OF_DOCUMENT]
                sizes.append(len(ids))
                if len(shown) < samples:
                    shown.append(_sample(len(sizes), np.array(ids), ctx_len, learned))
            if read >= limit_bytes:
                break
        complete = not file.read(1)
    if not sizes:
        line = f"; line {bad.first[0].line}: {bad.first[0].reason}" if bad.count else ""
        raise UserError(f"{path} has no documents{line}.", _REMEDY)
    counted = np.asarray(sizes, np.int32)
    return DataSummary(
        path=str(path),
        kind="jsonl",
        file_bytes=path.stat().st_size,
        complete=complete,
        samples=tuple(shown),
        bad_lines=tuple(bad.first),
        bad_count=bad.count,
        **_lengths(counted, int(counted.sum(dtype=np.int64)), ctx_len),
    )


def _refuse_other_formats(path: Path, head: bytes) -> None:
    looks = next((what for start, what in _LOOKS.items() if head.lstrip().startswith(start)), "")
    if not looks and b"\x00" in head:
        looks = "is not text"
    if looks:
        raise UserError(f"{path} {looks}.", _REMEDY)


def _lengths(sizes: NDArray[np.int32], tokens: int, ctx_len: int) -> dict[str, Any]:
    cut_documents, cut_tokens = cut_numbers(sizes, ctx_len)
    return {
        "documents": len(sizes),
        "tokens": tokens,
        "longest": int(sizes.max()),
        "shortest": int(sizes.min()),
        "ctx_len": ctx_len,
        "cut_documents": cut_documents,
        "cut_tokens": cut_tokens,
        "histogram": _histogram(sizes, ctx_len + 1),
    }


def _histogram(sizes: NDArray[np.int32], limit: int) -> tuple[tuple[int, int], ...]:
    """Bounds at fixed fractions of `limit`, which is always one of them; the last holds the longest."""
    longest = int(sizes.max())
    bounds = sorted({max(1, round(limit * f)) for f in _FRACTIONS})
    if longest > bounds[-1]:
        bounds.append(longest)
    counts = np.bincount(np.searchsorted(bounds, sizes), minlength=len(bounds)).tolist()
    filled = [
        i for i, (bound, count) in enumerate(zip(bounds, counts, strict=True)) if count or bound == limit
    ]
    return tuple(zip(bounds, counts, strict=True))[filled[0] : filled[-1] + 1]


def _sample(number: int, tokens: NDArray[Any], ctx_len: int, learned: Mask) -> DocumentSample:
    """The document in stretches of one kind. A character whose bytes two kinds share goes to the second."""
    limit = ctx_len + 1
    shown = tokens[: limit + _CUT_SHOWN]
    kinds: list[Kind] = ["trained" if trained else "masked" for trained in learned(shown)[:limit]]
    kinds += ["cut"] * (len(shown) - len(kinds))
    decoder, segments = StreamDecoder(), []
    for kind, group in groupby(zip(shown.tolist(), kinds, strict=True), key=itemgetter(1)):
        segments.append((decoder.feed(*(token for token, _ in group)), kind))
    tail = decoder.finish() + ("…" if len(tokens) > len(shown) else "")
    if tail:
        segments[-1] = (segments[-1][0] + tail, segments[-1][1])
    return DocumentSample(
        number=number,
        tokens=len(tokens),
        segments=tuple(Segment(text=text, kind=kind) for text, kind in segments if text),
    )
