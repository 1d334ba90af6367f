"""Signs and words that say without colour what colours say."""

from __future__ import annotations

from collections.abc import Iterator

from engine.contract.i18n import N_, _
from engine.contract.reports import DocumentTokens, Token
from rwkv_tui.plain import plain

TOKEN_SIGNS = {"trained": "▶", "masked": "·", "cut": "✂", "end": "■"}
TOKEN_WORDS = {
    "trained": N_("learned"), "masked": N_("only read"), "cut": N_("cut off by ctx_len"),
    "end": N_("end of document"),
}  # fmt: skip
LEVEL_SIGNS = {"error": "✗", "warning": "!", "note": "·"}


def stretches(document: DocumentTokens) -> Iterator[tuple[str, Token, str]]:
    """(sign where a stretch of another kind begins, token, its text made harmless) of each token.

    Line ends are kept and shown; a token that shows nothing is its id.
    """
    kind = ""
    for token in document.tokens:
        written = "" if token.kind == "end" else plain(token.text).replace("\n", "⏎\n")
        yield TOKEN_SIGNS[token.kind] if token.kind != kind else "", token, written or f"[{token.id}]"
        kind = token.kind


def title(document: DocumentTokens) -> str:
    """Which document it is, where it lies, and how long it is."""
    n, of, where, tokens = document.number, document.documents, plain(document.where), document.size
    if not of:
        return _("Document {n:,} ({where}): {tokens:,} tokens", n=n, where=where, tokens=tokens)
    return _("Document {n:,} of {of:,}: {tokens:,} tokens", n=n, of=of, tokens=tokens)


def rest(document: DocumentTokens) -> str:
    """What comes behind the tokens: those that are too many, and padding."""
    more, lines = document.size - len(document.tokens), []
    if more > 0:
        lines.append(_("… and {n:,} more", n=more))
    if document.padding:
        lines.append(_("░ up to {n:,} places of padding in a batch, never learned", n=document.padding))
    return "\n".join(lines)
