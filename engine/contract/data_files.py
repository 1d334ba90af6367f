"""How files of training data are called."""

from __future__ import annotations

from typing import Literal

Format = Literal["jsonl", "JSON", "CSV", "Parquet", "text"]

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "JSON", ".csv": "CSV", ".tsv": "CSV",
    ".parquet": "Parquet", ".txt": "text", ".md": "text", ".markdown": "text",
}  # fmt: skip
"""By the end of their names; a content that says otherwise is believed instead."""

PACKED = (".gz", ".zst")
"""What may follow, and packs the file."""


ORIGIN = ".idx.json"
"""Behind a pair's prefix the name of what tells how it was made. Not .json, as a source may be called."""


def unpacked(name: str) -> str:
    """A name without what says that the file is packed."""
    return next((name[: -len(end)] for end in PACKED if name.lower().endswith(end)), name)
