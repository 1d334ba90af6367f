"""Rows to binidx: each document tokenised once, then written `repeat` times in a fresh order each time."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from engine.contract.check import data_half
from engine.contract.data_files import ORIGIN
from engine.contract.errors import UserError
from engine.contract.files import Staged
from engine.contract.i18n import N_, _, in_english, n_
from engine.contract.reports import BadLine, Converted, DataOrigin, DataSource
from engine.data.binidx import PairWriter, magic_prime
from engine.data.encode import Encoded
from engine.data.mix import Mix, Part
from engine.data.origin import Digests
from engine.data.rows import NO_DOCUMENTS, Corpus, open_corpus
from engine.data.scratch import Rows, Scratch
from engine.data.tokenizer import VOCABULARY
from engine.data.workers import Workers

Progress = Callable[[str, int, int], None]

HELD_OUT = "-val"
"""Comes behind the prefix of the pair with the documents held out."""

_EVERY = 0.1
_LISTED = 10
_SKIP = N_("Mend them, or leave them out with --skip-bad.")


def convert(
    sources: Path | Sequence[Path],
    prefix: Path,
    *,
    repeat: int = 10,
    ctx_len: int = 512,
    seed: int = 0,
    weights: Sequence[float] = (),
    held_out: float = 0.0,
    fields: str = "",
    template: Path | None = None,
    skip_bad: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Writes PREFIX.bin and PREFIX.idx, an item per document and repeat, each ended by token 0, and to
    PREFIX.idx.json how they were made. With `held_out` the documents set aside become a pair PREFIX-val.
    A source is a file of rows, a folder or a pattern; `fields` and `template` say how rows are read.

    The same sources, weights, repeat and seed give the same pair on any machine. Memory: that of the
    vocabulary, some buffers, and a few times the longest document. `progress(phase, done, total)` is
    called about ten times a second with bytes of the sources ("reading"), tokens hashed ("holding out")
    and tokens of the target ("writing"). `mix.Mix` says what `weights` and `held_out` mean.

    Raises UserError for a source that cannot be read or holds no documents, for bad lines unless
    `skip_bad`, for an existing pair unless `force`, and when the target cannot be written. Whatever
    ends it early, the target is left as it was.
    """
    began = time.monotonic()
    given = [sources] if isinstance(sources, Path) else list(sources)
    _check(prefix, given, weights, repeat=repeat, ctx_len=ctx_len, seed=seed, held_out=held_out)
    corpora = [open_corpus([source], fields, template) for source in given]
    tell = Ticker(progress or (lambda *_: None))
    prefixes = [Path(f"{prefix}{HELD_OUT}"), prefix] if held_out else [prefix]
    targets = [data_half(p, suffix) for p in prefixes for suffix in (ORIGIN, ".bin", ".idx")]
    with _writing(prefix), Staged(targets, replace=force) as staged:
        _check_free(targets, force)
        *aside, files = [staged.parts[i : i + 3] for i in range(0, len(targets), 3)]
        with (
            Scratch(prefix.parent) as scratch,
            Workers(corpora, scratch) as workers,
            Digests([[source.path for source in corpus.sources] for corpus in corpora]) as digests,
        ):
            read = _read(corpora, workers, scratch, skip_bad, tell)
            mix = Mix(scratch, [source.part for source in read], weights, seed)
            if held_out:
                mix.hold_out(held_out, tell)
            rows, total = itertools.chain.from_iterable(map(mix.repeat, range(repeat))), mix.tokens(repeat)
            pair = _write(scratch, rows, files, tell, total)
            tell(N_("writing"), pair.tokens, pair.tokens)
            held = [_write(scratch, mix.held_out(), its, tell, total) for its in aside]
            how = _how(read, digests.result(), weights, fields=fields, seed=seed, held_out=held_out)
            _describe(files, pair, "train", repeat, how)
            for its, one in zip(aside, held, strict=True):
                _describe(its, one, "held out", 1, how)  # unsaid
    return Converted(
        prefix=str(prefix),
        documents=scratch.documents,
        tokens=pair.tokens,
        items=pair.items,
        magic_prime=magic_prime(pair.tokens, ctx_len),
        dtype="uint16",
        skipped=sum(source.skipped for source in read),
        seconds=time.monotonic() - began,
        held_out_prefix=str(prefixes[0]) if held_out else None,
        held_out_documents=sum(one.items for one in held),
    )


@dataclass(frozen=True)
class Read:
    """A source that was read: what it gave, and how many rows were left out as bad."""

    corpus: Corpus
    part: Part
    skipped: int


class BadLines:
    """The first bad rows and the number of all."""

    def __init__(self) -> None:
        self.first: list[BadLine] = []
        self.count = 0

    def add(self, line: BadLine) -> None:
        self.count += 1
        if len(self.first) < _LISTED:
            self.first.append(line)


class Ticker:
    """Calls `progress` at most every `_EVERY` seconds and at the end of a phase."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._next = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._progress(phase, done, total)
            self._next = now + _EVERY


def _read(
    corpora: Sequence[Corpus], workers: Workers, scratch: Scratch, skip_bad: bool, tell: Ticker
) -> list[Read]:
    """Tokenises each source into the scratch."""
    found = list[Read]()
    done, total = 0, sum(corpus.total for corpus in corpora)
    for corpus in corpora:
        first, tokens = scratch.documents, scratch.tokens
        bad = tokenise(workers.encode(corpus), total, scratch, skip_bad, tell, done)
        done += corpus.total
        if bad.count and not skip_bad:
            raise refusal(_("{name} cannot be converted as it is", name=corpus.name), bad, _remedy(bad))
        if scratch.documents == first:
            said = _("{name} holds no documents.", name=corpus.name)
            if bad.count:
                said = n_(
                    "{name} holds no documents ({n} bad row was skipped).",
                    "{name} holds no documents ({n} bad rows were skipped).",
                    bad.count,
                    name=corpus.name,
                )
            raise UserError(said, _(NO_DOCUMENTS))
        found.append(Read(corpus, Part(first, scratch.documents, scratch.tokens - tokens), bad.count))
    return found


def tokenise(
    encoded: Iterable[Encoded], total: int, scratch: Scratch, skip_bad: bool, tell: Ticker, done: int = 0
) -> BadLines:
    """Puts the ids into `scratch`; gives the bad lines. Bytes count from `done` on, of `total`.

    After a bad line that will refuse the file it goes on only to count the others.
    """
    bad = BadLines()
    for part in encoded:
        for line in part.bad:
            bad.add(line)
        if skip_bad or not bad.count:
            scratch.add(part.ids, part.sizes, part.lane)
        tell(N_("reading"), done + part.read, total)
    return bad


def _remedy(bad: BadLines) -> str:
    """What to do about rows that are bad in one way, or in several."""
    from engine.data.lint import KINDS

    codes = {line.code for line in bad.first}
    return _(KINDS[codes.pop()].remedy if len(codes) == 1 else _SKIP)


def _write(
    scratch: Scratch, rows: Iterable[Rows], files: Sequence[Path], tell: Ticker, total: int
) -> PairWriter:
    """Copies documents of the scratch into a pair, of whose files the first describes it."""
    with PairWriter(*files[1:]) as writer:
        for begins, sizes in rows:
            for piece in scratch.read(begins, sizes):
                writer.write(piece)
                tell(N_("writing"), writer.tokens, total)
            writer.end(sizes)
    return writer


def _how(
    read: Sequence[Read], digests: Sequence[str], weights: Sequence[float], **settings: Any
) -> dict[str, Any]:
    """How pairs were made, as `DataOrigin` says it."""
    corpora = [source.corpus for source in read]
    each = tuple(weights) or (None,) * len(read)
    return {
        **settings,
        "made_by": f"rwkv-tune {version('rwkv-tune')}",
        "template": next((corpus.template.text for corpus in corpora if corpus.rendered), ""),
        "tokenizer": VOCABULARY,
        "dtype": "uint16",
        "sources": tuple(
            DataSource(
                path=source.corpus.path,
                files=len(source.corpus.sources),
                bytes=source.corpus.total,
                sha256=digest,
                kind=source.corpus.describe(in_english),
                documents=source.part.last - source.part.first,
                tokens=source.part.tokens,
                skipped=source.skipped,
                weight=weight,
            )
            for source, digest, weight in zip(read, digests, each, strict=True)
        ),
    }


def _describe(
    files: Sequence[Path],
    pair: PairWriter,
    part: Literal["train", "held out"],  # unsaid
    repeat: int,
    how: dict[str, Any],
) -> None:
    origin = DataOrigin(part=part, repeat=repeat, items=pair.items, tokens=pair.tokens, **how)
    files[0].write_text(origin.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _check(prefix: Path, sources: Sequence[Path], weights: Sequence[float], **numbers: float) -> None:
    """Raises UserError for what no file needs to be read for."""
    for name, least in (("repeat", 1), ("ctx_len", 1), ("seed", 0), ("held_out", 0)):
        if not numbers[name] >= least:
            raise UserError(
                _(
                    "{name} {value} must be at least {least}.",
                    name=name,
                    value=numbers[name],
                    least=least,
                ),
                _("Nothing was written."),
            )
    if weights and (len(weights) != len(sources) or not all(0 < w < math.inf for w in weights)):
        raise UserError(
            _(
                "--weights has {numbers} numbers for {sources} sources.",
                numbers=len(weights),
                sources=len(sources),
            ),
            _("Give one above 0 for each source, like 3,1."),
        )
    if not prefix.name:
        raise UserError(
            _("{prefix} names a folder.", prefix=prefix), _("Give a name for the pair, like data/mine.")
        )


def _check_free(targets: Sequence[Path], force: bool) -> None:
    for target in reversed(targets):  # the pair itself before what is told of it
        if target.exists() and not force:
            raise UserError(
                _("{target} already exists; nothing was changed.", target=target),
                _("Choose another name, or replace it with --force."),
            )


def refusal(what: str, bad: BadLines, remedy: str) -> UserError:
    """Says what cannot be done because of bad lines, and names the first of them."""
    listed = "".join("  " + _("{where}: {reason}", where=b.where, reason=b.reason) + "\n" for b in bad.first)
    more = bad.count - len(bad.first)
    listed += _("  and {more} more", more=more) + "\n" if more else ""
    return UserError(
        n_(
            "{what}:\n{listed}{n} bad row; nothing was written.",
            "{what}:\n{listed}{n} bad rows; nothing was written.",
            bad.count,
            what=what,
            listed=listed,
        ),
        remedy,
    )


@contextmanager
def _writing(prefix: Path) -> Iterator[Any]:
    try:
        yield
    except BrokenPipeError:  # from whoever listens to the progress, not from these files
        raise
    except OSError as error:
        raise UserError(
            _(
                "Cannot write {path}: {reason}; nothing was left behind.",
                path=data_half(prefix, ".bin"),
                reason=error.strerror or error,
            ),
            _("Free some space or choose another place."),
        ) from error
