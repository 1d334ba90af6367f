"""Rows of any format and kind, and the documents that the template makes of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.contract.i18n import N_, _
from engine.contract.reports import BadLine
from engine.data.rows import formats
from engine.data.rows.files import describe, find_sources
from engine.data.rows.formats import Row, Rows, read_blocks
from engine.data.rows.shapes import (
    SHAPES,
    RowError,
    Shape,
    blank,
    groups_of,
    kind,
    lacks,
    read_fields,
    shape_of,
)
from engine.data.rows.template import Template, read_template

NO_DOCUMENTS = N_(
    "Rows need a text, messages, an instruction and its output, or a prompt and its completion; where their "
    "fields are called otherwise, say so: --fields prompt=q,answer=a."
)
"""What to do where there are none."""


class Document(NamedTuple):
    """What the model reads of a row, whether the template made it, and its bytes as UTF-8."""

    row: Row
    text: str
    rendered: bool
    size: int


class Corpus:
    """Files opened together: `name` as they were given, `path` in full, `total` their size in bytes.

    Of the rows met so far, `shapes` counts the kinds and `rendered` says whether the template made
    documents of some.
    """

    def __init__(self, paths: Sequence[Path], fields: str = "", template: Template | None = None) -> None:
        """Raises UserError for files that cannot be read or are none of the formats."""
        self.name = " ".join(map(str, paths))
        self.path = " ".join(str(path.absolute()) for path in paths)
        self.sources = find_sources(paths)
        self.template = template or Template()
        self.total = sum(source.size for source in self.sources)
        self.shapes: Counter[str] = Counter()
        self.rendered = False
        self._fields = read_fields(fields)
        kinds = (self._fields,) if self._fields else SHAPES
        columns = {column for shape in kinds for column in shape.fields.values()}
        self._columns = columns | {column.split(".")[0] for column in columns}

    def documents(self) -> Iterator[tuple[int, Document | BadLine]]:
        """(bytes read so far, document or what is wrong with the row) of each row."""
        return itertools.chain.from_iterable(self.blocks())

    def blocks(self) -> Iterator[Iterator[tuple[int, Document | BadLine]]]:
        """The same block by block; only those that are gone through are understood and counted."""
        before = 0
        for source in self.sources:
            for rows in read_blocks(source, self._columns):
                yield self._documents(rows, before)
            before += source.size

    def _documents(self, rows: Rows, before: int) -> Iterator[tuple[int, Document | BadLine]]:
        for read, row in rows:
            yield before + read, row if isinstance(row, BadLine) else self._document(row)

    def _document(self, row: Row) -> Document | BadLine:
        try:
            if self._fields:
                row = row._replace(values=self._fields.reach(row.values))
            shape = self._fields or shape_of(row.values)
            text = self._render(row, shape)
            if (size := len(text.encode("utf-8"))) > formats.MAX_LINE:
                raise RowError("row", formats.too_long())
        except RowError as error:
            return row.bad(str(error), error.code)
        except UnicodeEncodeError as error:
            return row.bad(_("it has a lone surrogate (U+{code:04X})", code=ord(error.object[error.start])))
        self.shapes[shape.name] += 1
        rendered = "text" not in shape.fields
        self.rendered = self.rendered or rendered
        return Document(row, text, rendered, size)

    def _render(self, row: Row, shape: Shape) -> str:
        """A plain text stays as it is, to the byte."""
        if "text" not in shape.fields:
            return self.template.render(groups_of(row.values, shape))
        name = shape.fields["text"]
        if not isinstance(text := row.values.get(name), str):
            wrong = _('"{name}" is {what} instead of a string', name=name, what=kind(text))
            raise RowError("fields", wrong if name in row.values else lacks(name, row.values))
        if not text or text.isspace():
            raise RowError("empty", blank(f'"{name}"', text))
        return text

    def describe(self, say: Callable[..., str] = _) -> str:
        """What was recognised so far, in a line that `say` translates."""
        return describe(self.sources, [name for name, _n in self.shapes.most_common()], say)


def open_corpus(paths: Sequence[Path], fields: str = "", template: Path | None = None) -> Corpus:
    """The documents of files, patterns and folders. `fields` and `template` as the flags of those names.

    Raises UserError for anything wrong with them.
    """
    return Corpus(paths, fields, read_template(template))
