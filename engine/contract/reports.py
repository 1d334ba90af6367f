"""What the engine's short jobs answer: one JSON document each."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


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
    """A line of a jsonl file that cannot be a document."""

    line: int
    reason: str


class DataSummary(Report):
    """What a data file holds. `complete` is False when only the first part of it was read;
    then documents, tokens and the histogram speak of that part.

    `histogram` is a list of (upper bound in tokens, documents with at most that many and more than
    the bound before). `cut_documents` have more than ctx_len + 1 tokens and lose `cut_tokens`.
    """

    path: str
    kind: Literal["jsonl", "binidx"]
    file_bytes: int
    complete: bool
    documents: int
    tokens: int
    longest: int
    shortest: int
    ctx_len: int
    cut_documents: int
    cut_tokens: int
    histogram: tuple[tuple[int, int], ...]
    samples: tuple[DocumentSample, ...]
    bad_lines: tuple[BadLine, ...] = ()
    bad_count: int = 0


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
    """A file that a pair was made from. `documents` and `tokens` once each; `skipped` bad lines."""

    path: str
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
    part: Literal["train", "held out"]
    sources: tuple[DataSource, ...]
    template: str = ""
    tokenizer: str
    seed: int
    repeat: int
    held_out: float = 0.0
    items: int
    tokens: int
    dtype: str


class Merged(Report):
    """A merged model; `notice` says which programs will honour it."""

    path: str
    version: str
    file_bytes: int
    notice: str
