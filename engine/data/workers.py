"""Reading and tokenising in several processes at once: the tokenizer lets no other thread run beside it.

Each worker is a fork, so that all share one vocabulary. It goes through all blocks of the files and
understands only its own, every nth. Ids it writes to a lane of the scratch; sent, in the order of the
file, is only how long documents are and what is wrong with others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NamedTuple

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.data.encode import Encoded, encode
from engine.data.rows import Corpus
from engine.data.scratch import Scratch
from engine.data.tokenizer import Tokenizer

_WORTH = 4 << 20  # bytes of a source that are worth other processes
_MOST = 4  # each takes some 30 MB beside what all share
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class _BlockEnd(NamedTuple):
    """What the corpus met in a block."""

    shapes: Counter[str]
    rendered: bool


_Sent = Encoded | _BlockEnd | Exception | None
"""What a worker sends; None at the end of a corpus."""


class Workers:
    """Processes that encode jsonl of some length; without any of that, or a second core, this one does it.

    They start and end with the `with` block: enter it before threads start.
    """

    def __init__(self, corpora: Sequence[Corpus], scratch: Scratch) -> None:
        self._shared, self._scratch = [corpus for corpus in corpora if _worth(corpus)], scratch
        self._children: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def __enter__(self) -> Workers:
        count = min(len(os.sched_getaffinity(0)), _MOST)
        if not self._shared or count < 2:
            return self
        Tokenizer().load()
        context = multiprocessing.get_context("fork")
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for number in range(count):
                mine, other = context.Pipe(duplex=False)
                unused = [mine, *(pipe for _, pipe in self._children)]
                work = _Work(self._shared, number, count, self._scratch, self._scratch.lane())
                child = context.Process(target=work.run, args=(other, unused), daemon=True)
                child.start()
                other.close()
                self._children.append((child, mine))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child, pipe in self._children:
            child.kill()
            child.join()
            pipe.close()

    def encode(self, corpus: Corpus) -> Iterator[Encoded]:
        """`encode.encode` of the corpus' documents; corpora must come in the order they were given in.

        Raises UserError when a worker has ended, and what reading raises.
        """
        if not (self._children and corpus in self._shared):
            yield from encode(corpus.documents())
            return
        numbers, turn = len(self._children), 0
        while True:
            sent = self._receive(turn % numbers)
            if isinstance(sent, Encoded):
                yield sent
            elif isinstance(sent, _BlockEnd):
                corpus.shapes.update(sent.shapes)
                corpus.rendered |= sent.rendered
                turn += 1
            else:
                break
        for other in range(1, numbers):  # have no more blocks either
            self._receive((turn + other) % numbers)

    def _receive(self, number: int) -> _Sent:
        child, pipe = self._children[number]
        try:
            sent: _Sent = pipe.recv()
        except (EOFError, OSError):  # the latter in the midst of what it sent
            child.join()
            raise UserError(
                _(
                    "A process that read the data ended unexpectedly (exit status {exitcode}); nothing "
                    "was written.",
                    exitcode=child.exitcode,
                ),
                _("If the system ended it, memory may have run out: close other programs and try again."),
            ) from None
        if isinstance(sent, Exception):
            raise sent
        return sent


def _worth(corpus: Corpus) -> bool:
    return corpus.total > _WORTH and all(source.format == "jsonl" for source in corpus.sources)


class _Work(NamedTuple):
    """What a worker does: every nth block of the corpora, of which `mine` is the first."""

    corpora: Sequence[Corpus]
    mine: int
    workers: int
    scratch: Scratch
    lane: int

    def run(self, pipe: Connection, unused: Sequence[Connection]) -> None:
        """In the worker. Ctrl-C and the like are for its parent, which ends it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for other in unused:  # or a parent that was killed would go unnoticed
            other.close()
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
            try:
                for sent in self._results():
                    pipe.send(sent)
            except Exception as error:
                pipe.send(error)

    def _results(self) -> Iterator[_Sent]:
        for corpus in self.corpora:
            for number, block in enumerate(corpus.blocks()):
                if number % self.workers == self.mine:
                    for encoded in encode(block, threads=False):
                        self.scratch.store(encoded.ids, self.lane)
                        yield encoded._replace(ids=encoded.ids[:0], lane=self.lane)
                    yield _BlockEnd(corpus.shapes, corpus.rendered)
                    corpus.shapes = Counter()
            yield None
