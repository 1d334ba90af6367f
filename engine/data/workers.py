"""Reading and tokenising in several processes at once: the tokenizer lets no other thread run beside it.

Each worker is a fork, so that all share one vocabulary. It goes through all blocks of the files and
understands only its own, every nth; so nothing but results is sent, and in the order of the file.
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
from engine.data.encode import Encoded, encode
from engine.data.rows import Corpus
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

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self._shared = [corpus for corpus in corpora if _worth(corpus)]
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
                child = context.Process(
                    target=_work, args=(self._shared, number, count, other, unused), daemon=True
                )
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
        except EOFError:
            child.join()
            raise UserError(
                f"A process that read the data ended unexpectedly (exit status {child.exitcode}); "
                "nothing was written.",
                "If the system ended it, memory may have run out: close other programs and try again.",
            ) from None
        if isinstance(sent, Exception):
            raise sent
        return sent


def _worth(corpus: Corpus) -> bool:
    return corpus.total > _WORTH and all(source.format == "jsonl" for source in corpus.sources)


def _work(
    corpora: Sequence[Corpus], mine: int, count: int, pipe: Connection, unused: Sequence[Connection]
) -> None:
    """In a worker. Ctrl-C and the like are for its parent, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    for other in unused:  # or a parent that was killed would go unnoticed
        other.close()
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        try:
            for corpus in corpora:
                for number, block in enumerate(corpus.blocks()):
                    if number % count == mine:
                        for encoded in encode(block, threads=False):
                            pipe.send(encoded)
                        pipe.send(_BlockEnd(corpus.shapes, corpus.rendered))
                        corpus.shapes = Counter()
                pipe.send(None)
        except Exception as error:
            pipe.send(error)
