"""Signs and words that say without colour what colours say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.contract.i18n import N_, _, n_
from rwkv_tui.plain import plain

if TYPE_CHECKING:
    from engine.contract.reports import DataSummary, DocumentTokens

TOKEN_SIGNS = {"trained": "▶", "masked": "·", "cut": "✂", "end": "■", "padding": "░"}
TOKEN_WORDS = {
    "trained": N_("learned"), "masked": N_("only read"), "cut": N_("cut off by ctx_len"),
    "end": N_("end of document"), "padding": N_("padding"),
}  # fmt: skip
LEVEL_SIGNS = {"error": "✗", "warning": "!", "note": "·"}


_PADDING_SHOWN = 64


def stretches(document: DocumentTokens) -> Iterator[tuple[str, str, str]]:
    """(sign where a stretch of another kind begins, kind, text made harmless) of each token, and of the
    first places that fill up a batch.

    Line ends are kept and shown; a token that shows nothing is its id.
    """
    last = ""
    for token in document.tokens:
        written = "" if token.kind == "end" else plain(token.text).replace("\n", "⏎\n")
        yield TOKEN_SIGNS[token.kind] if token.kind != last else "", token.kind, written or f"[{token.id}]"
        last = token.kind
    for place in range(min(document.padding, _PADDING_SHOWN)):
        yield "" if place else TOKEN_SIGNS["padding"], "padding", "[0]"


def windows(data: DataSummary) -> str:
    """How many windows a run learns of the data, where it learns windows."""
    return n_("dataload get cuts {n:,} window of ctx_len {length:,} from the documents laid end to end.",
              "dataload get cuts {n:,} windows of ctx_len {length:,} from the documents laid end to end.",
              data.windows, length=data.ctx_len)  # fmt: skip


def title(document: DocumentTokens) -> str:
    """Which document or window it is, where it lies, and how long it is."""
    n, of, where, tokens = document.number, document.documents, plain(document.where), document.size
    if document.window:
        return _("Window {n:,} of {of:,}: {tokens:,} tokens, {where}", n=n, of=of, where=where, tokens=tokens)
    if not of:
        return _("Document {n:,} ({where}): {tokens:,} tokens", n=n, where=where, tokens=tokens)
    return _("Document {n:,} of {of:,}: {tokens:,} tokens", n=n, of=of, tokens=tokens)


def rest(document: DocumentTokens) -> str:
    """What comes behind the tokens: those that are too many, padding, and what else there is to know."""
    more, lines = document.size - len(document.tokens), []
    if more > 0:
        lines.append(_("… and {n:,} more", n=more))
    if document.padding:
        lines.append(_("░ up to {n:,} places of padding in a batch, never learned", n=document.padding))
    if document.notice:
        lines.append(document.notice)
    return "\n".join(lines)


def left_out(rows: int) -> str:
    """What a conversion that skips bad rows has skipped."""
    return n_(
        "{n:,} row could not be read and was left out.",
        "{n:,} rows could not be read and were left out.",
        rows,
    )
