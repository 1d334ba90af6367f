"""One document as tokens: what of it is learned, only read, or cut off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from engine.contract.errors import UserError
from engine.contract.i18n import _, n_
from engine.contract.reports import BadLine, DocumentTokens, Token, place
from engine.data.binidx import BinIdx
from engine.data.encode import ids_of
from engine.data.plan import DataPlan
from engine.data.rows import open_corpus
from engine.data.summary import pair_prefix
from engine.data.tokenizer import Tokenizer

LISTED = 8192
"""Tokens of a document that are given at most."""


def show_document(
    paths: Sequence[Path], number: int, plan: DataPlan, *, fields: str = "", template: Path | None = None
) -> DocumentTokens:
    """Document `number`, from 1, of a pair, or of files as conversion would write it.

    Raises UserError when there is none, and for files that are no data.
    """
    prefix = pair_prefix(paths[0]) if len(paths) == 1 else None
    name = " ".join(map(str, paths))
    if prefix is None:
        return _of_rows(name, number, plan, paths, fields, template)
    data = BinIdx(prefix)
    if not 1 <= number <= len(data):
        raise _missing(name, number, len(data))
    return _view(name, number, len(data), place("", "document", number), data.item(number - 1), plan)


def _of_rows(
    name: str, number: int, plan: DataPlan, paths: Sequence[Path], fields: str, template: Path | None
) -> DocumentTokens:
    count = 0
    for _read, document in open_corpus(paths, fields, template).documents():
        if not isinstance(document, BadLine):
            count += 1
            if count == number:
                ids = ids_of(document.text)
                return _view(name, number, None, document.row.where, ids, plan)
    raise _missing(name, number, count)


def _missing(name: str, number: int, count: int) -> UserError:
    return UserError(
        _("{name} has no document {number:,}.", name=name, number=number),
        n_("It has one: show number 1.", "It has {n:,}: give a number from 1 to {n:,}.", count)
        if count
        else _("There is none at all; `rwkv-tune data lint` says why."),
    )


def _view(
    name: str, number: int, documents: int | None, where: str, ids: NDArray[Any], plan: DataPlan
) -> DocumentTokens:
    learned = plan.learned(ids)
    learned[:1] = False  # nothing comes before it that could predict it
    kinds: list[Literal["trained", "masked", "cut"]] = ["trained" if one else "masked" for one in learned]
    kinds += ["cut"] * (len(ids) - len(kinds))
    both = zip(ids[:LISTED].tolist(), kinds, strict=False)
    return DocumentTokens(
        path=name,
        number=number,
        documents=documents,
        where=where,
        size=len(ids),
        padding=max(0, plan.ctx_len + 1 - len(ids)),
        tokens=tuple(
            Token(id=token, text=_text(token), kind="end" if not token and kind != "cut" else kind)
            for token, kind in both
        ),
    )


def _text(token: int) -> str:
    raw = Tokenizer().token_bytes(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.hex(" ")
