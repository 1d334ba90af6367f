"""Brings the catalogues up to date with the sources: `make messages`.

New sentences come in empty, those of which no source is left go, and what is there is compiled. It says what
still lacks a translation. Nothing is guessed from sentences alike: an empty one is shown in English.
"""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from engine.contract.i18n import DOMAIN, FOLDER, LANGUAGES
from engine.contract.params import GROUPS
from engine.contract.rundir import Status
from engine.contract.settings import train_params

ROOT = Path(__file__).parents[1]
PLACES = ("engine", "rwkv_tui")
MARKS = ("_", "N_", "n_", "p_")

HEAD = """msgid ""
msgstr ""
"Language: {code}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Plural-Forms: {plurals}\\n"

"""


def template() -> Catalog:
    """Every sentence of the sources."""
    catalogue = Catalog()
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*.py")):
            for mark, words in marked(ast.parse(path.read_text())):
                if mark == "p_":
                    catalogue.add(words[1], context=words[0])
                else:
                    catalogue.add((words[0], words[1]) if mark == "n_" else words[0])
    said = [text for param in train_params().values() for text in param.english if text]
    about = [
        path.read_text().split("\n", 1)[0].lstrip("# ") for path in sorted((ROOT / "presets").glob("*.yaml"))
    ]
    for sentence in (*GROUPS, *get_args(Status), *said, *about):
        catalogue.add(sentence)
    return catalogue


def marked(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """(mark, texts it was given) wherever it is given some: also within an f-string or another mark, which
    babel's own reader passes over."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in MARKS:
            words = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if words:
                yield call.func.id, words


def files(code: str) -> tuple[Path, Path]:
    """The catalogue that people edit and the one that gettext reads."""
    folder = FOLDER / code / "LC_MESSAGES"
    return folder / f"{DOMAIN}.po", folder / f"{DOMAIN}.mo"


def read(code: str) -> Catalog:
    with files(code)[0].open("rb") as file:
        return read_po(file, locale=code)


def compiled(catalogue: Catalog) -> bytes:
    """The bytes of the .mo file; they change with the sentences only, not with the time."""
    catalogue.creation_date = catalogue.revision_date = datetime(2026, 1, 1, tzinfo=timezone.utc)
    out = io.BytesIO()
    write_mo(out, catalogue)
    return out.getvalue()


def written(catalogue: Catalog) -> bytes:
    """The bytes of the .po file: without places and dates, so that it changes with its sentences only."""
    out = io.BytesIO()
    write_po(
        out, catalogue, width=0, no_location=True, omit_header=True, sort_output=True, ignore_obsolete=True
    )
    head = HEAD.format(code=catalogue.locale_identifier, plurals=catalogue.plural_forms)
    return head.encode() + out.getvalue()


def missing(catalogue: Catalog) -> list[str]:
    """Sentences without a translation."""
    return [str(m.id) for m in catalogue if m.id and not (all(m.string) if m.pluralizable else m.string)]


def main() -> int:
    """Rewrites every catalogue; 1 where one lacks a sentence."""
    sources, lacking = template(), 0
    for code in LANGUAGES:
        if code == "en":
            continue
        po, mo = files(code)
        catalogue = read(code)
        catalogue.update(sources, no_fuzzy_matching=True)
        po.write_bytes(written(catalogue))
        mo.write_bytes(compiled(catalogue))
        lacks = missing(catalogue)
        lacking += len(lacks)
        print(f"{code}: {len(catalogue)} sentences, {len(lacks)} not translated")
        print("".join(f"  {sentence!r}\n" for sentence in lacks), end="")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
