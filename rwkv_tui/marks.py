"""Signs and words that say without colour what colours say."""

from __future__ import annotations

from collections.abc import Iterator

from engine.contract.reports import DocumentTokens, Token
from rwkv_tui.plain import plain

TOKEN_SIGNS = {"trained": "▶", "masked": "·", "cut": "✂", "end": "■"}
TOKEN_WORDS = {
    "trained": "learned", "masked": "only read", "cut": "cut off by ctx_len", "end": "end of document",
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
    of = f" of {document.documents:,}" if document.documents else ""
    where = "" if document.where == f"document {document.number:,}" else f" ({plain(document.where)})"
    return f"Document {document.number:,}{of}{where}: {document.size:,} tokens"


def rest(document: DocumentTokens) -> str:
    """What comes behind the tokens: those that are too many, and padding."""
    more, lines = document.size - len(document.tokens), []
    if more > 0:
        lines.append(f"… and {more:,} more")
    if document.padding:
        lines.append(f"░ up to {document.padding:,} places of padding in a batch, never learned")
    return "\n".join(lines)
