"""What data holds, for a person deciding about it: counts, lengths against ctx_len, findings, samples."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.contract.check import data_half
from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.contract.reports import BadLine, DataSummary, DocumentSample, Segment, place, windows_in
from engine.data.binidx import MAGIC, BinIdx, cut_numbers
from engine.data.convert import Ticker
from engine.data.encode import ids_of, size_of
from engine.data.lint import FEW, Linter, where
from engine.data.plan import DataPlan
from engine.data.rows import NO_DOCUMENTS, Corpus, Document, open_corpus
from engine.data.rows.files import open_source
from engine.data.rows.formats import Row
from engine.data.tokenizer import END_OF_DOCUMENT, StreamDecoder

Kind = Literal["trained", "masked", "cut"]
Progress = Callable[[str, int, int], None]

FIRST_PART = 8 << 20
"""Bytes that a first look reads; about a second of work."""

_CUT_SHOWN = 256
_LOOKED_AT = 1 << 16
_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 3 / 2, 2, 4)


def summarise(
    paths: Sequence[Path],
    plan: DataPlan,
    *,
    fields: str = "",
    template: Path | None = None,
    samples: int = 3,
    limit_bytes: int | None = FIRST_PART,
    progress: Progress = lambda *_: None,
) -> DataSummary:
    """Looks at a binidx pair (PREFIX, PREFIX.bin or PREFIX.idx) or at all else that conversion takes.

    Of the latter it reads `limit_bytes`, or everything, in small memory. A pair is counted from its
    index, and the ends of its first 65,536 documents are looked at. `progress(phase, done, total)` is
    told bytes. Raises UserError for what is neither, for a damaged pair, and where there are no rows at all.
    """
    prefix = pair_prefix(paths[0]) if len(paths) == 1 else None
    if prefix is not None:
        return _of_pair(paths[0], prefix, plan, samples)
    return _of_rows(open_corpus(paths, fields, template), paths, plan, samples, limit_bytes, progress)


def pair_prefix(path: Path) -> Path | None:
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
        raise UserError(
            _("{path} is the index of a binidx pair under another name.", path=path), _("Let it end in .idx.")
        )
    return None


def _of_pair(path: Path, prefix: Path, plan: DataPlan, samples: int) -> DataSummary:
    data, lengths, linter = BinIdx(prefix), Lengths(plan), Linter(plan.loss_mask)
    lengths.add_all(data.sizes)
    last = data.stream[np.cumsum(data.sizes[:_LOOKED_AT], dtype=np.int64) - 1]
    for i in np.flatnonzero(last != END_OF_DOCUMENT).tolist():
        linter.note(
            "no end",  # unsaid
            place("", "document", i + 1),
            _("it ends with token {last}", last=last[i]),
        )
    _note_plan(linter, plan, lengths)
    return DataSummary(
        path=str(path),
        kind="binidx",
        described="binidx",
        file_bytes=sum(data_half(prefix, suffix).stat().st_size for suffix in (".bin", ".idx")),
        complete=True,
        samples=tuple(sample(i + 1, data.item(i), plan) for i in range(min(samples, len(data)))),
        findings=linter.findings(),
        **lengths.numbers(),
    )


def _of_rows(
    corpus: Corpus, paths: Sequence[Path], plan: DataPlan, samples: int, limit: int | None, progress: Progress
) -> DataSummary:
    lengths, linter = Lengths(plan), Linter(plan.loss_mask)
    shown, tell = list[DocumentSample](), Ticker(progress)
    done, complete = 0, True
    for read, document in corpus.documents():
        if limit is not None and done >= limit:
            complete = False
            break
        done = read
        tell(N_("reading"), read, corpus.total)
        if isinstance(document, BadLine):
            linter.bad(document)
            continue
        _count(document, lengths, linter)
        if len(shown) < samples:
            shown.append(sample(lengths.documents, ids_of(document.text), plan))
    _note_plan(linter, plan, lengths, corpus)
    findings = linter.findings()
    bad = sum(finding.count for finding in findings if finding.level == "error")
    if not lengths.documents and not bad:
        raise _nothing(corpus)
    return DataSummary(
        path=str(paths[0]),
        kind="rows",
        described=corpus.describe(),
        file_bytes=corpus.total,
        complete=complete,
        samples=tuple(shown),
        bad_count=bad,
        template=corpus.template.text,
        rendered=corpus.rendered,
        scripts=tuple(linter.scripts.most_common()),
        findings=findings,
        **lengths.numbers(),
    )


def _count(document: Document, lengths: Lengths, linter: Linter) -> None:
    size = size_of(document.text)
    lengths.add(size, document.row)
    linter.document(document)
    if lost := lengths.lost(size):
        said = _("{n:,} tokens, of which {lost:,} are lost", n=size, lost=lost)
        linter.note("cut", document.row, said)


def _nothing(corpus: Corpus) -> UserError:
    if not corpus.total:
        return UserError(_("{name} is empty.", name=corpus.name), _("Check the path."))
    return UserError(_("{name} has no documents.", name=corpus.name), _(NO_DOCUMENTS))


def _note_plan(linter: Linter, plan: DataPlan, lengths: Lengths, corpus: Corpus | None = None) -> None:
    """What is not about single rows."""
    examples, few = (lengths.windows, "few windows") if plan.windows else (lengths.documents, "few")  # unsaid
    if 0 < examples * FEW < plan.epoch_documents:
        times = plan.epoch_documents / examples
        linter.note(
            few,
            _("an epoch"),
            _(
                "it takes {epoch_documents:,} and sees each {times:,.0f} times",
                epoch_documents=plan.epoch_documents,
                times=times,
            ),
        )
        linter.count[few] = examples
    ignored = corpus and corpus.rendered and not corpus.template.learned_by_qa()
    if ignored and plan.loss_mask == "qa":
        linter.note(
            "qa template",  # unsaid
            _("the template"),
            _("it has turns that begin otherwise"),
        )


class Lengths:
    """How long documents are, in tokens, counted as they come."""

    def __init__(self, plan: DataPlan) -> None:
        self._plan = plan
        self.bounds = sorted({max(1, round((plan.ctx_len + 1) * f)) for f in _FRACTIONS})
        self.counts = [0] * (len(self.bounds) + 1)
        self.documents = self.tokens = self.cut_documents = self.cut_tokens = 0
        self.longest, self.shortest = (0, ""), (0, "")

    def lost(self, size: int) -> int:
        """How many tokens of a document of this size ctx_len cuts off: none where windows are learned."""
        return 0 if self._plan.windows else max(0, size - self._plan.ctx_len - 1)

    @property
    def windows(self) -> int:
        """How many windows are learned; 0 where whole documents are."""
        return windows_in(self.tokens, self._plan.ctx_len) if self._plan.windows and self.documents else 0

    def add(self, size: int, at: str | Row) -> None:
        """Counts a document that lies there."""
        self.counts[bisect.bisect_left(self.bounds, size)] += 1
        if size > self.longest[0]:
            self.longest = size, where(at)
        if size < self.shortest[0] or not self.documents:
            self.shortest = size, where(at)
        self.documents += 1
        self.tokens += size
        if lost := self.lost(size):
            self.cut_documents += 1
            self.cut_tokens += lost

    def add_all(self, sizes: NDArray[Any]) -> None:
        """Counts the documents of a pair."""
        if not len(sizes):
            return
        self.counts = np.bincount(np.searchsorted(self.bounds, sizes), minlength=len(self.counts)).tolist()
        longest, shortest = int(sizes.argmax()), int(sizes.argmin())
        self.longest = int(sizes[longest]), place("", "document", longest + 1)
        self.shortest = int(sizes[shortest]), place("", "document", shortest + 1)
        self.documents, self.tokens = len(sizes), int(sizes.sum(dtype=np.int64))
        if not self._plan.windows:
            self.cut_documents, self.cut_tokens = cut_numbers(sizes, self._plan.ctx_len)

    def numbers(self) -> dict[str, Any]:
        """The fields of a summary that speak of lengths."""
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "longest": self.longest[0],
            "longest_at": self.longest[1],
            "shortest": self.shortest[0],
            "shortest_at": self.shortest[1],
            "ctx_len": self._plan.ctx_len,
            "cut_documents": self.cut_documents,
            "cut_tokens": self.cut_tokens,
            "windows": self.windows,
            "histogram": self.histogram(),
        }

    def histogram(self) -> tuple[tuple[int, int], ...]:
        """Bounds at fractions of ctx_len + 1, which is always one of them; the last holds the longest."""
        bounds = [*self.bounds, max(self.longest[0], self.bounds[-1] + 1)]
        both = list(zip(bounds, self.counts, strict=True))
        filled = [i for i, (bound, count) in enumerate(both) if count or bound == self._plan.ctx_len + 1]
        return tuple(both[filled[0] : filled[-1] + 1])


def sample(number: int, tokens: NDArray[Any], plan: DataPlan) -> DocumentSample:
    """The document in stretches of one kind. A character whose bytes two kinds share goes to the second."""
    shown = tokens[: plan.ctx_len + 1 + _CUT_SHOWN]
    learned = plan.learned(tokens, len(shown))
    kinds: list[Kind] = ["trained" if trained else "masked" for trained in learned]
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
