"""What the engine's short jobs answer: one JSON document each."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.contract.i18n import N_, _


class Report(BaseModel):
    """A document that newer versions may extend."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ModelInfo(Report):
    """What a model file says of itself; `dtype` is that of most of its bytes."""

    path: str
    version: Literal["x052", "x060", "x070"]
    n_layer: int
    n_embd: int
    head_size: int
    vocab_size: int
    dtype: str
    parameters: int
    size_name: str
    file_bytes: int
    pre_ffn: bool = False
    head_qk: int = 0


class Segment(Report):
    """A stretch of a document: learned, only read, or cut off by ctx_len."""

    text: str
    kind: Literal["trained", "masked", "cut"]


class DocumentSample(Report):
    """One document as the model sees it. `number` counts from 1 in the file."""

    number: int
    tokens: int
    segments: tuple[Segment, ...]


class BadLine(Report):
    """A row that cannot be a document. `line` counts from 1 in `unit`s (line or row) of `file`, which is
    named only where there are several; `code` sorts it among the findings."""

    line: int
    reason: str
    unit: str = "line"
    file: str = ""
    code: str = "row"

    @property
    def where(self) -> str:
        """line 3, or data/a.csv, row 7."""
        return place(self.file, self.unit, self.line)


_UNITS = {"line": N_("line {n:,}"), "row": N_("row {n:,}"), "document": N_("document {n:,}")}


def place(file: str, unit: str, number: int) -> str:
    """How a place in the data is called: line 3, or data/a.csv, row 7."""
    within = _(_UNITS[unit], n=number)
    return _("{file}, {within}", file=file, within=within) if file else within


class Token(Report):
    """A token of a document: its text, or its bytes in hex where they are no characters by themselves."""

    id: int
    text: str
    kind: Literal["trained", "masked", "cut", "end"]


def windows_in(tokens: int, ctx_len: int) -> int:
    """How many windows dataload get cuts from so many tokens: each begins with the last token of the one
    before, so that every token but the first is learned in one of them."""
    return -(-max(1, tokens - 1) // ctx_len)


class DocumentTokens(Report):
    """A document as training sees it, or with dataload get a `window` of a pair; `number` of `documents`,
    or of windows, counts from 1. `tokens` are the first of its `size`; `padding` places follow it where
    another of its batch fills ctx_len. `notice` is what else there is to know."""

    path: str
    number: int
    documents: int | None
    where: str
    size: int
    padding: int
    tokens: tuple[Token, ...]
    window: bool = False
    notice: str = ""


class Place(Report):
    """Where something was found, and what it is there."""

    where: str
    reason: str


class Finding(Report):
    """Something about a data set that a person should know: what it is, the first places, what to do.

    Conversion refuses data with errors.
    """

    code: str
    level: Literal["error", "warning", "note"]
    count: int
    what: str
    remedy: str
    places: tuple[Place, ...] = ()


class DataSummary(Report):
    """What data holds. `complete` is False when only the first part of it was read; then everything
    but `file_bytes` speaks of that part.

    `kind` is binidx for a pair and rows for everything that conversion makes one of; `described` says
    of which formats and kinds those are. `template` turns rows that are no plain text into documents;
    `rendered` says whether there are any. `bad_count` rows cannot be documents.
    `histogram` is a list of (upper bound in tokens, documents with at most that
    many and more than the bound before). `cut_documents` have more than ctx_len + 1 tokens and lose
    `cut_tokens`; none do with dataload get, which makes `windows` of all documents once (0: it does not).
    `scripts` counts documents by the script of most of their letters.
    """

    path: str
    kind: Literal["rows", "binidx"]
    described: str
    file_bytes: int
    complete: bool
    documents: int
    tokens: int
    longest: int
    longest_at: str
    shortest: int
    shortest_at: str
    ctx_len: int
    cut_documents: int
    cut_tokens: int
    windows: int = 0
    histogram: tuple[tuple[int, int], ...]
    samples: tuple[DocumentSample, ...]
    bad_count: int = 0
    template: str = ""
    rendered: bool = False
    scripts: tuple[tuple[str, int], ...] = ()
    findings: tuple[Finding, ...] = ()


class EvalReport(Report):
    """Mean cross-entropy (nats) over the target tokens of all documents."""

    loss: float
    perplexity: float
    tokens: int
    documents: int


class Converted(Report):
    """A finished conversion. `documents` and `skipped` are of all sources; the rest of the pair itself."""

    prefix: str
    documents: int
    tokens: int
    items: int
    magic_prime: int | None
    dtype: str
    skipped: int = 0
    seconds: float = 0.0
    held_out_prefix: str | None = None
    held_out_documents: int = 0


class DataSource(Report):
    """What a pair was made from: a file, or `files` of a folder or pattern, of `kind`. `documents` and
    `tokens` once each; `skipped` bad rows; `sha256` of the files' bytes one after the other."""

    path: str
    files: int = 1
    kind: str = ""
    bytes: int
    sha256: str
    documents: int
    tokens: int
    skipped: int = 0
    weight: float | None = None


class DataOrigin(Report):
    """How a pair was made: the content of PREFIX.idx.json beside it.

    `part` says which side of the split the pair is; `held_out` is what the split was asked for.
    """

    made_by: str
    part: Literal["train", "held out"]  # unsaid
    sources: tuple[DataSource, ...]
    fields: str = ""
    template: str = ""
    tokenizer: str
    seed: int
    repeat: int
    held_out: float = 0.0
    items: int
    tokens: int
    dtype: str


class PairReport(Report):
    """What a pair holds, after .bin and .idx were checked against each other. `unended` items do not end
    with token 0; `differs` says where `origin` speaks of another pair; it is None for foreign pairs."""

    prefix: str
    items: int
    tokens: int
    longest: int
    shortest: int
    dtype: str
    largest_id: int
    unended: int
    magic_prime: int | None
    origin: DataOrigin | None
    differs: tuple[str, ...] = ()


class Exported(Report):
    """A model or a state as Ai00 reads it."""

    path: str
    kind: Literal["model", "state"]
    file_bytes: int


class Merged(Report):
    """A merged model; `notice` says which programs will honour it."""

    path: str
    version: str
    file_bytes: int
    notice: str
