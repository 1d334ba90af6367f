"""Opens training data of each type: jsonl and text are tokenised once, token files are mapped."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import UserError, first_line
from engine.contract.i18n import N_, _
from engine.contract.settings import TrainSettings
from engine.data.binidx import BinIdx
from engine.data.convert import Progress, Ticker, refusal, tokenise
from engine.data.documents import Stored, TokenArray
from engine.data.encode import encode
from engine.data.rows import NO_DOCUMENTS, open_corpus
from engine.data.rows.files import open_source
from engine.data.scratch import Scratch
from engine.data.tokenizer import END_OF_DOCUMENT, Tokenizer

_BLOCK = 1 << 20
_CONVERT = N_("Mend them, or make a pair without them: `rwkv-tune data convert --skip-bad`.")
_DUMMY_DOCUMENTS = 1024
_DUMMY_TOKENS = 1 << 24


def open_data(settings: TrainSettings, vocab_size: int, progress: Progress) -> Stored:
    """The data of a run.

    What is tokenised goes to an unnamed file in proj_dir (uint16, gone with the process), so memory
    stays small; `progress(phase, done, total)` is told in bytes of the source and may raise.
    Raises UserError for anything wrong with the file.
    """
    kind, path = settings.data_type, settings.data_file
    if kind == "dummy":
        return dummy(settings.ctx_len, vocab_size, settings.random_seed)
    assert path is not None
    if kind == "binidx":
        return BinIdx(path)
    if kind == "jsonl":
        return read_jsonl(path, settings.proj_dir, progress)
    if kind in ("utf-8", "utf-16le"):
        return read_text(path, kind, settings.proj_dir, progress)
    return read_tokens(path, kind)


def read_jsonl(path: Path, folder: Path | None, progress: Progress) -> TokenArray:
    """The documents that conversion would find there, each ended by token 0."""
    corpus = open_corpus([path])
    with _scratch(folder) as scratch:
        bad = tokenise(encode(corpus.documents()), corpus.total, scratch, False, Ticker(progress))
        if bad.count:
            raise refusal(_("{path} cannot be trained on as it is", path=path), bad, _(_CONVERT))
        if not scratch.documents:
            raise UserError(_("data_file: {path} holds no documents.", path=path), _(NO_DOCUMENTS))
        return _array_of(scratch, path)


def read_text(path: Path, encoding: str, folder: Path | None, progress: Progress) -> TokenArray:
    """A text file as one document, ended by token 0: the ids of the whole text, found block by block."""
    with open_source(path) as file, _scratch(folder) as scratch:
        tell, total = Ticker(progress), os.fstat(file.fileno()).st_size
        tokens = 0
        for ids in Tokenizer().encode_long(_characters(file, path, encoding)):
            scratch.store(ids)
            tokens += len(ids)
            tell(N_("reading"), file.tell(), total)
        if not tokens:
            raise UserError(
                _("data_file: {path} holds no text.", path=path), _("Give a file with some text in it.")
            )
        scratch.add(np.array([END_OF_DOCUMENT], np.uint16), (tokens + 1,))
        return _array_of(scratch, path)


def read_tokens(path: Path, kind: str) -> TokenArray:
    """Token ids from a .npy array of integers [tokens] ("numpy") or raw little-endian "uint16".

    Token 0 ends a document, as in every other format; ids without it are one document.
    """
    open_source(path).close()
    stream = _array(path) if kind == "numpy" else _raw(path)
    if not len(stream):
        raise UserError(
            _("data_file: {path} holds no tokens.", path=path), _("Give a file with token ids in it.")
        )
    ends = np.concatenate([
        start + 1 + np.flatnonzero(stream[start : start + _BLOCK] == END_OF_DOCUMENT)
        for start in range(0, len(stream), _BLOCK)
    ])  # fmt: skip
    last = [] if len(ends) and ends[-1] == len(stream) else [len(stream)]
    return TokenArray(path, stream, np.concatenate([[0], ends, last]).astype(np.int64))


def dummy(ctx_len: int, vocab_size: int, seed: int) -> TokenArray:
    """Random documents that fill ctx_len exactly: for measuring speed, not for learning."""
    length = ctx_len + 1
    count = max(1, min(_DUMMY_DOCUMENTS, _DUMMY_TOKENS // length))
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
    generator = np.random.Generator(np.random.PCG64(seed))
    stream = generator.integers(1, max(vocab_size, 2), count * length, dtype)
    return TokenArray(Path("dummy"), stream, np.arange(count + 1) * length)


def _scratch(folder: Path | None) -> Scratch:
    return Scratch(folder if folder and folder.is_dir() else None)


def _array_of(scratch: Scratch, path: Path) -> TokenArray:
    ends = np.concatenate([begins + sizes for begins, sizes in scratch.rows()])
    return TokenArray(path, scratch.stream(), np.concatenate([np.zeros(1, np.int64), ends]))


def _array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises whatever its reading of a damaged header came upon
        raise UserError(
            _("data_file: {path} is no .npy file ({error}).", path=path, error=first_line(error)),
            _("Write it with numpy.save, or name its data_type."),
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else _("an archive")
        raise UserError(
            _("data_file: {path} holds {found}, not a row of integers.", path=path, found=found),
            _("Save token ids as an array [tokens]."),
        )
    return array


def _raw(path: Path) -> NDArray[Any]:
    size = path.stat().st_size
    if size % 2:
        raise UserError(
            _(
                "data_file: {path} has {size} bytes, which is no whole number of uint16 ids.",
                path=path,
                size=size,
            ),
            _("Check that it is complete, or name its data_type."),
        )
    return np.memmap(path, "<u2", "r") if size else np.zeros(0, np.uint16)


def _characters(file: IO[bytes], path: Path, encoding: str) -> Iterator[str]:
    """The text in blocks, without a byte order mark."""
    decoder = codecs.getincrementaldecoder(encoding)()
    block, first = b"-", True
    while block:
        at = file.tell()
        block = file.read(_BLOCK)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            other = "utf-16le" if encoding == "utf-8" else "utf-8"
            raise UserError(
                _(
                    "data_file: {path} is no {encoding} text: byte {at} or one shortly before it.",
                    path=path,
                    encoding=encoding,
                    at=at + error.start,
                ),
                _("Mend the file, or set data_type {other} if that is what it is.", other=other),
            ) from None
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        yield text
