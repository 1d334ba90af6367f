"""How a pair was made: PREFIX.idx.json beside it, with the hash of each source."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from pydantic import ValidationError

from engine.contract.check import data_half
from engine.contract.data_files import ORIGIN
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.reports import DataOrigin, PairReport
from engine.data.binidx import BinIdx, magic_prime
from engine.data.tokenizer import END_OF_DOCUMENT

_BLOCK = 2 << 20


def inspect_pair(prefix: Path, ctx_len: int) -> PairReport:
    """Checks a pair, reading all of it, and tells how it was made where that is known.

    Raises UserError when a half is missing or damaged, when they disagree, or when what stands in
    PREFIX.idx.json cannot be understood.
    """
    data, origin = BinIdx(prefix), read_origin(prefix)
    ends = np.cumsum(data.sizes, dtype=np.int64)
    filled = ends[data.sizes > 0]
    counts = {"items": len(data), "tokens": data.tokens, "dtype": data.dtype.name}
    return PairReport(
        prefix=str(prefix),
        items=len(data),
        tokens=data.tokens,
        longest=int(data.sizes.max()),
        shortest=int(data.sizes.min()),
        dtype=data.dtype.name,
        largest_id=max(int(data.stream[i : i + _BLOCK].max()) for i in range(0, data.tokens, _BLOCK)),
        unended=len(data) - int((data.stream[filled - 1] == END_OF_DOCUMENT).sum()),
        magic_prime=magic_prime(data.tokens, ctx_len),
        origin=origin,
        differs=tuple(
            _(
                "{name} {told} there, {value} in the pair",
                name=name,
                told=getattr(origin, name),
                value=value,
            )
            for name, value in counts.items()
            if origin is not None and getattr(origin, name) != value
        ),
    )


def read_origin(prefix: Path) -> DataOrigin | None:
    """How a pair was made; None when nothing says so."""
    path = data_half(prefix, ORIGIN)
    try:
        return DataOrigin.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else _("it is none of rwkv-tune's")
        raise UserError(
            _(
                "{path}, which should say how the pair was made, cannot be read: {reason}.",
                path=path,
                reason=reason,
            ),
            _("Move it away; the pair does not need it."),
        ) from None


class Digests:
    """SHA-256 of sources, each the bytes of its files one after the other, found beside other work:
    hashing lets other threads run."""

    def __init__(self, sources: Sequence[Sequence[Path]]) -> None:
        self._sources, self._found = sources, list[str]()
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Digests:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> list[str]:
        """In hexadecimal, one a source. Raises OSError if a file can no longer be read."""
        while self._thread.is_alive():
            self._thread.join(0.1)
        if self._error:
            raise self._error
        return self._found

    def _run(self) -> None:
        try:
            for files in self._sources:
                digest = hashlib.sha256()
                for path in files:
                    with path.open("rb") as file:
                        while not self._stop.is_set() and (block := file.read(_BLOCK)):
                            digest.update(block)
                self._found.append(digest.hexdigest())
        except OSError as error:
            self._error = error
