"""What is wrong, or may be wrong, with rows and the documents made of them: found in one pass."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.contract.i18n import N_, _, n_
from engine.contract.reports import BadLine, Finding, Place, place
from engine.data.masks import CLOSING, OPENING, has_answer
from engine.data.rows import Document
from engine.data.rows.formats import Row
from engine.data.scripts import PART, SCRIPTS, letters

LISTED = 10
"""Places that a finding names; the rest are only counted."""

FEW = 10
"""Times that an epoch may go over all documents before there are too few of them."""

_SKIP = N_("Mend them, or leave them out with --skip-bad.")


class Kind(NamedTuple):
    """A kind of finding: how bad it is, what was found so many times, and what to do about it."""

    level: Literal["error", "warning", "note"]
    what: Callable[[int], str]
    remedy: str


KINDS = {
    "row": Kind("error", lambda n: n_("{n:,} row cannot be read", "{n:,} rows cannot be read", n), _SKIP),
    "encoding": Kind(
        "error",
        lambda n: n_("{n:,} row is not UTF-8", "{n:,} rows are not UTF-8", n),
        N_("Save the file as UTF-8; from GBK for example by: iconv -f GB18030 -t UTF-8 OLD > NEW"),
    ),
    "fields": Kind(
        "error",
        lambda n: n_("{n:,} row has no fields to learn from", "{n:,} rows have no fields to learn from", n),
        N_(
            "Say which they are, such as --fields prompt=q,answer=a, or leave these rows out with --skip-bad."
        ),
    ),
    "role": Kind(
        "error",
        lambda n: n_("{n:,} conversation is out of order", "{n:,} conversations are out of order", n),
        N_(
            "The system comes first, then user and assistant take turns. Mend them, or leave them out with "
            "--skip-bad."
        ),
    ),
    "answer": Kind(
        "error",
        lambda n: n_("{n:,} row has no answer", "{n:,} rows have no answer", n),
        N_("Write it, or leave them out with --skip-bad."),
    ),
    "empty": Kind("error", lambda n: n_("{n:,} row is empty", "{n:,} rows are empty", n), _SKIP),
    "template": Kind(
        "error",
        lambda n: n_(
            "{n:,} row says something the template has no block for",
            "{n:,} rows say something the template has no block for",
            n,
        ),
        N_("Add a block for it to the template."),
    ),
    "duplicate": Kind(
        "warning",
        lambda n: n_("{n:,} document is a copy of another", "{n:,} documents are copies of others", n),
        N_("Remove them: what is there twice is learned twice; that is what --repeat is for."),
    ),
    "cut": Kind(
        "warning",
        lambda n: n_("{n:,} document is longer than ctx_len", "{n:,} documents are longer than ctx_len", n),
        N_("Raise ctx_len, or shorten or split them."),
    ),
    "nothing": Kind(
        "warning",
        lambda n: n_(
            "{n:,} document has no answer that loss_mask qa would learn",
            "{n:,} documents have no answer that loss_mask qa would learn",
            n,
        ),
        N_("Begin answers with `Assistant:` on a line of its own turn, or set loss_mask pad."),
    ),
    "marker": Kind(
        "warning",
        lambda n: n_(
            "{n:,} document has a turn with a line like the beginning of another turn",
            "{n:,} documents have a turn with a line like the beginning of another turn",
            n,
        ),
        N_("Training tells them apart, but many programs stop answering at such a line: reword it."),
    ),
    "backslash": Kind(
        "warning",
        lambda n: n_(
            "{n:,} document has \\n written out where a new line seems meant",
            "{n:,} documents have \\n written out where a new line seems meant",
            n,
        ),
        N_("Whoever made the file escaped it twice: replace \\\\n by \\n there."),
    ),
    "control": Kind(
        "warning",
        lambda n: n_("{n:,} document has control characters", "{n:,} documents have control characters", n),
        N_("Remove them."),
    ),
    "mojibake": Kind(
        "warning",
        lambda n: n_("{n:,} document has garbled characters", "{n:,} documents have garbled characters", n),
        N_("They were decoded with the wrong encoding once: make them again from the original."),
    ),
    "crlf": Kind(
        "warning",
        lambda n: n_("{n:,} document has Windows line ends", "{n:,} documents have Windows line ends", n),
        N_("Replace \\r\\n by \\n: the model would learn to write them."),
    ),
    "end": Kind(
        "warning",
        lambda n: n_(
            "{n:,} document spells out a token of another model",
            "{n:,} documents spell out a token of another model",
            n,
        ),
        N_("RWKV ends documents by token 0, which conversion adds: remove these words."),
    ),
    "no end": Kind(  # unsaid
        "warning",
        lambda n: n_(
            "{n:,} document has no token 0 at its end", "{n:,} documents have no token 0 at their end", n
        ),
        N_("The model learns to stop by it: convert them again with `rwkv-tune data convert`."),
    ),
    "mixed": Kind(
        "note",
        lambda n: n_("{n:,} document mixes scripts", "{n:,} documents mix scripts", n),
        N_("Right for translations; else look at them."),
    ),
    "few": Kind(
        "warning",
        lambda n: n_("{n:,} document is few for the plan", "{n:,} documents are few for the plan", n),
        N_("Lower epoch_steps, or gather more documents."),
    ),
    "few windows": Kind(  # unsaid
        "warning",
        lambda n: n_("{n:,} window is few for the plan", "{n:,} windows are few for the plan", n),
        N_("Lower epoch_steps, or gather more documents."),
    ),
    "qa template": Kind(  # unsaid
        "warning",
        lambda _n: _("this template makes turns that loss_mask qa does not recognise"),
        N_(
            "Begin answers with `Assistant:` or `Response:` and the rest with `User:`, `System:`, "
            "`Instruction:` or `Input:`, or set loss_mask pad."
        ),
    ),
}
"""By code; errors are what conversion refuses."""

_WRITTEN_OUT = re.compile(  # not TeX, not code
    r"\\n(?:\\n|\\r|[-*#•] |\d+[.)]|[^\W\da-z_])|\\r\\n|[.!?。！？；，：]\\n[^\W\d_]{2}"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_WRECKS = re.compile("\ufffd|锟斤拷|烫烫烫|ï»¿")
_LATIN_PAIR = re.compile(
    "[\u00c0-\u024f\u0400-\u04ff][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u0402-\u040f\u0452-\u045f\u2010-\u25ff]"
)
_FOREIGN_TOKEN = re.compile(r"<\|(?:endoftext|im_start|im_end|eot_id|end_of_text)\|>|</s>|\[/?INST\]")
_MARKER = re.compile(r"(?<!\A)(?<!\n\n)^(?:" + "|".join((*OPENING, *CLOSING)) + ")", re.MULTILINE)
_MIXED = 0.2
_MARKERS = (*OPENING, *CLOSING)  # in every language, and no sign of any
_MARKER_LETTERS = np.array([len(word) - 1 for word in _MARKERS])
_LATIN = list(SCRIPTS).index("Latin")  # unsaid
_CHUNK = 1 << 14
_BATCH = 256  # documents whose scripts are counted together, if they are short


def where(at: str | Row | BadLine) -> str:
    """How a place is called, which takes longer than to count what is there."""
    return at if isinstance(at, str) else at.where


class Linter:
    """Takes rows one by one; counts everything, keeps a few places of each finding and a hash a document."""

    def __init__(self, loss_mask: str) -> None:
        self.count: Counter[str] = Counter()
        self.places: dict[str, list[Place]] = {}
        self.scripts: Counter[str] = Counter()
        self._copies, self._qa = _Copies(), loss_mask == "qa"
        self._batch, self._characters = list[Document](), 0

    def bad(self, line: BadLine) -> None:
        """A row that is no document."""
        self.note(line.code, line, line.reason)

    def note(self, code: str, at: str | Row | BadLine, reason: str) -> None:
        """Counts a finding and keeps its place while there is room."""
        self.count[code] += 1
        places = self.places.setdefault(code, [])
        if len(places) < LISTED:
            places.append(Place(where=where(at), reason=reason))

    def document(self, document: Document) -> None:
        """A document as the model reads it."""
        row, text, rendered, _size = document
        self._copies.add(text, row)
        for code, reason in _signs(text):
            self.note(code, row, reason)
        if rendered:
            if marker := _MARKER.search(text):
                said = _("{around} begins a line within a turn", around=_around(text, marker))
                self.note("marker", row, said)
        elif self._qa and not has_answer(text):
            self.note("nothing", row, _("no line of it begins with `Assistant:`"))
        self._batch.append(document)
        self._characters += len(text)
        if len(self._batch) == _BATCH or self._characters > PART:
            self._count_scripts()

    def _count_scripts(self) -> None:
        """Of the documents since the last time."""
        if not self._batch:
            return
        documents, self._batch, self._characters = self._batch, [], 0
        names, texts = list(SCRIPTS), [document.text for document in documents]
        counts = letters(texts)
        markers = np.array([[text.count(word) for word in _MARKERS] for text in texts]) @ _MARKER_LETTERS
        counts[:, _LATIN] = np.maximum(0, counts[:, _LATIN] - markers)
        total, main = counts.sum(1), counts.argmax(1)
        self.scripts.update(names[i] for i in main[total > 0].tolist())
        counts[np.arange(len(counts)), main] = 0
        most, other = counts.max(1), counts.argmax(1)
        for i in np.flatnonzero((total > 0) & (most >= _MIXED * total)).tolist():
            said = _(
                "{main} with {share:.0%} {other}",
                main=_(names[main[i]]), share=most[i] / total[i], other=_(names[other[i]]),
            )  # fmt: skip
            self.note("mixed", documents[i].row, said)

    def findings(self) -> tuple[Finding, ...]:
        """What was found, errors first. Looks for copies now: a sort of the hashes, a part at a time."""
        self._count_scripts()
        for copy, first in self._copies.find():
            self.note("duplicate", copy, _("the same as {first}", first=first))
        self.count["duplicate"] = self._copies.count
        levels = ("error", "warning", "note")
        return tuple(
            Finding(
                code=code,
                level=kind.level,
                count=self.count[code],
                what=kind.what(self.count[code]),
                remedy=_(kind.remedy),
                places=tuple(self.places.get(code, ())),
            )
            for code, kind in sorted(KINDS.items(), key=lambda item: levels.index(item[1].level))
            if self.count[code]
        )


def _signs(text: str) -> Iterator[tuple[str, str]]:
    """What the characters of a document give away: (code, reason), each code once."""
    if "\\" in text and (found := _WRITTEN_OUT.search(text)):
        yield "backslash", _around(text, found)
    if found := _CONTROL.search(text):
        if "\r\n" in text:
            yield "crlf", _("{count:,} line ends are \\r\\n", count=text.count(chr(13) + chr(10)))
            found = _CONTROL.search(text.replace("\r\n", "\n"))
        if found:
            yield (
                "control",
                _("U+{code:04X} at character {start:,}", code=ord(found[0]), start=found.start() + 1),
            )
    if not text.isascii() and (found := _garbled(text)):
        yield "mojibake", _around(text, found)
    if ("<" in text or "[" in text) and (found := _FOREIGN_TOKEN.search(text)):
        yield "end", _("{found} at character {start:,}", found=found[0], start=found.start() + 1)


def _garbled(text: str) -> re.Match[str] | None:
    """The first place where a text was decoded wrongly; the library, which is thorough, is asked about
    the few places that can be."""
    if found := _WRECKS.search(text):
        return found
    for found in _LATIN_PAIR.finditer(text):
        from ftfy.badness import is_bad

        if is_bad(text[max(0, found.start() - 8) : found.end() + 8]):
            return found
    return None


def _around(text: str, found: re.Match[str]) -> str:
    """A few characters around a place, on one line."""
    near = text[max(0, found.start() - 12) : found.end() + 12]
    return "…" + near.replace("\n", "⏎") + "…"


class _Copies:
    """Documents met before, found by 8 bytes of hash each, which lie in a file: memory stays small."""

    RECORD = np.dtype([("file", "<u4"), ("number", "<u8"), ("hash", "<u8")])
    AT_ONCE = 1 << 19

    def __init__(self) -> None:
        self.count = 0
        self._files: list[tuple[str, str]] = []  # name and unit
        self._scratch = tempfile.TemporaryFile()  # noqa: SIM115 - `find` closes it
        self._numbers, self._hashes = list[int](), list[bytes]()  # of the last file, not written yet
        self._records = 0

    def add(self, text: str, row: Row) -> None:
        file = (row.file, row.unit)
        if not self._files or self._files[-1] != file:
            self._flush()  # what belongs to the file before
            self._files.append(file)
        self._numbers.append(row.number)
        self._hashes.append(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest())
        if len(self._numbers) == _CHUNK:
            self._flush()

    def _flush(self) -> None:
        if not self._numbers:
            return
        records = np.empty(len(self._numbers), self.RECORD)
        records["file"] = len(self._files) - 1
        records["number"] = self._numbers
        records["hash"] = np.frombuffer(b"".join(self._hashes), "<u8")
        self._scratch.write(records.tobytes())
        self._records += len(records)
        self._numbers, self._hashes = [], []

    def find(self) -> list[tuple[str, str]]:
        """Counts the copies; gives (where a copy is, where the first is) of the first of them."""
        self._flush()
        parts = self._records // self.AT_ONCE + 1
        with self._scratch:
            found = [pair for part in range(parts) for pair in self._of_part(part, parts)]
        found.sort(key=lambda pair: (pair[0]["file"], pair[0]["number"]))
        return [(self._where(copy), self._where(first)) for copy, first in found[:LISTED]]

    def _of_part(self, part: int, parts: int) -> list[tuple[np.void, np.void]]:
        """The same for those whose hash falls into one of several parts; one is sorted at a time."""
        chosen = [chunk[chunk["hash"] % parts == part] for chunk in self._chunks()]
        records = np.concatenate(chosen) if chosen else np.empty(0, self.RECORD)
        records = records[np.argsort(records["hash"], kind="stable")]  # stable: the first stays the first
        new = np.diff(records["hash"], prepend=~records["hash"][:1]) != 0
        copies = np.flatnonzero(~new)
        self.count += len(copies)
        begins = np.flatnonzero(new)
        listed = copies[np.argsort(records[copies], order=("file", "number"))[:LISTED]]
        firsts = begins[np.searchsorted(begins, listed, "right") - 1]
        return list(zip(records[listed], records[firsts], strict=True))

    def _chunks(self) -> Iterator[NDArray[np.void]]:
        self._scratch.seek(0)
        while block := self._scratch.read(self.RECORD.itemsize * _CHUNK):
            yield np.frombuffer(block, self.RECORD)

    def _where(self, record: np.void) -> str:
        file, unit = self._files[int(record["file"])]
        return place(file, unit, int(record["number"]))
