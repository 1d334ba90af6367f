"""One document as tokens: what of it is learned, only read, or cut off; or one window of many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _, n_
from engine.contract.reports import BadLine, DocumentTokens, Token, place, windows_in
from engine.data.binidx import BinIdx
from engine.data.encode import ids_of
from engine.data.plan import DataPlan
from engine.data.rows import open_corpus
from engine.data.summary import pair_prefix
from engine.data.tokenizer import Tokenizer

LISTED = 8192
"""Tokens of a document or window that are given at most."""


def show_document(
    paths: Sequence[Path], number: int, plan: DataPlan, *, fields: str = "", template: Path | None = None
) -> DocumentTokens:
    """Document `number`, from 1, of a pair, or of files as conversion would write it; where a run learns
    windows, that window of a pair.

    Raises UserError when there is none, and for files that are no data.
    """
    prefix = pair_prefix(paths[0]) if len(paths) == 1 else None
    name = " ".join(map(str, paths))
    if prefix is None:
        return _of_rows(name, number, plan, paths, fields, template)
    data = BinIdx(prefix)
    if plan.windows:
        return _window(name, number, plan, data)
    if not 1 <= number <= len(data):
        raise _missing(N_("{name} has no document {number:,}."), name, number, len(data))
    return _document(name, number, len(data), place("", "document", number), data.item(number - 1), plan)


def _of_rows(
    name: str, number: int, plan: DataPlan, paths: Sequence[Path], fields: str, template: Path | None
) -> DocumentTokens:
    count = 0
    for _read, document in open_corpus(paths, fields, template).documents():
        if not isinstance(document, BadLine):
            count += 1
            if count == number:
                ids = ids_of(document.text)
                return _document(name, number, None, document.row.where, ids, plan)
    raise _missing(N_("{name} has no document {number:,}."), name, number, count)


def _missing(told: str, name: str, number: int, count: int) -> UserError:
    return UserError(
        _(told, name=name, number=number),
        n_("It has one: show number 1.", "It has {n:,}: give a number from 1 to {n:,}.", count)
        if count
        else _("There is none at all; `rwkv-tune data lint` says why."),
    )


def _document(
    name: str, number: int, documents: int | None, where: str, ids: NDArray[Any], plan: DataPlan
) -> DocumentTokens:
    learned, size, padding, notice = plan.learned(ids, LISTED), len(ids), 0, ""
    if plan.windows:
        told = N_("With dataload get a run learns windows of {n:,} tokens: cut from what conversion writes, "
                  "where documents lie end to end in an order of its own.")  # fmt: skip
        notice = _(told, n=plan.ctx_len)
    else:
        learned[:1] = False  # nothing comes before it that could predict it
        padding = max(0, plan.ctx_len + 1 - size)
    return DocumentTokens(
        path=name, number=number, documents=documents, where=where, size=size, padding=padding,
        tokens=_tokens(ids, learned), notice=notice,
    )  # fmt: skip


def _window(name: str, number: int, plan: DataPlan, data: BinIdx) -> DocumentTokens:
    """As `WindowDataset` cuts it, which needs torch."""
    windows = windows_in(data.tokens, plan.ctx_len)
    if not 1 <= number <= windows:
        raise _missing(N_("{name} has no window {number:,}."), name, number, windows)
    begin = (number - 1) * plan.ctx_len
    end = min(begin + plan.ctx_len + 1, data.tokens)
    items = np.arange(data.item_at(begin), data.item_at(end - 1) + 1)
    starts = data.places(items)
    pieces, first, last = [], 0, 0
    for item, start in zip(items.tolist(), starts.tolist(), strict=True):
        document = data.item(item)
        first, last = max(begin - start, 0), min(end - start, len(document))
        pieces.append(plan.learned(document, last)[first:])
    learned = np.concatenate(pieces)
    learned[:1] = False  # the window before predicts it
    cut = {"first": begin - int(starts[0]) + 1, "n": int(items[0]) + 1, "last": last}
    where = N_("tokens {first:,} to {last:,} of document {n:,}")
    if len(items) > 1:
        where = N_("from token {first:,} of document {n:,} to token {last:,} of document {to:,}")
    notices = []
    if begin:
        notices.append(_("Its first token is the last one of the window before, where it is learned."))
    if plan.held_out:
        notices.append(_("val_split sets documents aside before windows are cut: those of a run lie a little "
                         "elsewhere."))  # fmt: skip
    return DocumentTokens(
        path=name, number=number, documents=windows, where=_(where, to=int(items[-1]) + 1, **cut),
        size=end - begin, padding=plan.ctx_len + 1 - (end - begin), window=True,
        tokens=_tokens(data.stream[begin:end], learned), notice="\n".join(notices),
    )  # fmt: skip


def _tokens(ids: NDArray[Any], learned: NDArray[np.bool_]) -> tuple[Token, ...]:
    """The first of them; those behind what may be learned are cut off."""
    kinds: list[Literal["trained", "masked", "cut"]] = ["trained" if one else "masked" for one in learned]
    kinds += ["cut"] * (len(ids) - len(kinds))
    return tuple(
        Token(id=token, text=_text(token), kind="end" if not token and kind != "cut" else kind)
        for token, kind in zip(ids[:LISTED].tolist(), kinds, strict=False)
    )


def _text(token: int) -> str:
    raw = Tokenizer().token_bytes(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.hex(" ")
