"""Rows come out of every format as they went in, and what is wrong with a file is said."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from engine.contract.errors import UserError
from engine.contract.reports import BadLine
from engine.data.rows import formats, open_corpus

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
CELLS = UNICODE.filter(str.strip)


def write_jsonl(rows: list[dict[str, Any]], ascii_only: bool = False) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def write_json(rows: list[dict[str, Any]]) -> bytes:
    return b"\xef\xbb\xbf" + json.dumps(rows, ensure_ascii=False, indent=1).encode()


def write_objects(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, indent=2) for row in rows).encode()


def write_table(separator: str) -> Callable[[list[dict[str, Any]]], bytes]:
    def write(rows: list[dict[str, Any]]) -> bytes:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue().encode()

    return write


def write_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


WRITERS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "a.jsonl": ("jsonl", write_jsonl), "a.json": ("JSON", write_json), "b.json": ("JSON", write_objects),
    "a.csv": ("CSV", write_table(",")), "b.csv": ("CSV", write_table(";")),
    "a.tsv": ("CSV", write_table("\t")), "a.parquet": ("Parquet", write_parquet),
}  # fmt: skip
PACKERS = {"": lambda raw: raw, ".gz": gzip.compress, ".zst": zstandard.compress}


def documents(*paths: Path, fields: str = "") -> list[str | BadLine]:
    found = (found for _, found in open_corpus(paths, fields).documents())
    return [one if isinstance(one, BadLine) else one.text for one in found]


@pytest.mark.parametrize(
    "name, packed",
    [*((name, "") for name in WRITERS), ("a.jsonl", ".gz"), ("a.json", ".zst"), ("a.csv", ".gz")],
)
@settings(max_examples=40)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_any_unicode_comes_through_every_format(
    tmp_path_factory: pytest.TempPathFactory, name: str, packed: str, rows: list[tuple[str, str]]
) -> None:
    if name.endswith(("csv", "tsv")):  # a bare \r ends a CSV row where the writer did not quote it
        rows = [(a.replace("\x00", "0"), b.replace("\x00", "0")) for a, b in rows]
    form, write = WRITERS[name]
    path = tmp_path_factory.getbasetemp() / f"{name}{packed}"
    path.write_bytes(PACKERS[packed](write([{"text": text, "more": more} for text, more in rows])))
    corpus = open_corpus([path])
    assert [source.format for source in corpus.sources] == [form]
    assert documents(path) == [text for text, _ in rows]
    assert documents(path, fields="text=more") == [more for _, more in rows]
    assert [read for read, _ in corpus.documents()][-1] <= corpus.total == path.stat().st_size


CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    "rows, kind",
    [
        ([{"text": "a"}], "text"),
        ([CHAT], "chat"),
        ([{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}], "ShareGPT"),
        ([{"instruction": "a", "input": "", "output": "b"}], "instructions"),
        ([{"prompt": "a", "completion": "b"}], "prompt and completion"),
        ([{"question": "a", "answer": "b"}, CHAT, CHAT], "chat, question and answer"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "no suffix"])
def test_kinds_are_recognised_and_named(
    tmp_path: Path, rows: list[dict[str, Any]], kind: str, name: str
) -> None:
    if name == "a.parquet" and len(rows) > 1:
        return  # a table has the same columns everywhere
    form, write = WRITERS.get(name, WRITERS["a.jsonl"])
    (tmp_path / name).write_bytes(write(rows))
    corpus = open_corpus([tmp_path / name])
    assert not [bad for _, bad in corpus.documents() if isinstance(bad, BadLine)]
    assert corpus.describe() == f"{form}: {kind}"


def test_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b/two.md", "b/one.txt", "a.jsonl.gz", ".hidden/x.txt", "c.bin", "deep/er/z.markdown"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(gzip.compress(b'{"text": "zip"}') if name[0] == "a" else name.encode())
    assert documents(tmp_path) == ["zip", "b/one.txt", "b/two.md", "deep/er/z.markdown"]
    assert documents(tmp_path / "*" / "*.txt") == ["b/one.txt"]
    assert documents(tmp_path / "**" / "*.m*", tmp_path / "b") == [
        "b/two.md",
        "deep/er/z.markdown",
        "b/one.txt",
    ]
    (tmp_path / "[x].txt").write_text("brackets")
    assert documents(tmp_path / "[x].txt") == ["brackets"]
    for wrong, said in (("*.csv", "No file"), ("none.txt", "no such file"), (".hidden/y", "no such file")):
        with pytest.raises(UserError, match=said):
            open_corpus([tmp_path / wrong])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="without data"):
        open_corpus([tmp_path / "empty"])


def test_places_name_the_file_where_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,completion\n"two\nlines",b\nonly one\n\nc,d\n')
    (tmp_path / "b.json").write_text('[{"text": "a"}, 3, {"text": ""}]')
    bad = [found for found in documents(tmp_path) if isinstance(found, BadLine)]
    assert [(line.where, line.reason) for line in bad] == [
        ("a.csv, line 4", "1 fields, but the header has 2"),
        ("b.json, row 2", "a number instead of an object"),
        ("b.json, row 3", '"text" is empty'),
    ]
    alone = [found.where for found in documents(tmp_path / "a.csv") if isinstance(found, BadLine)]
    assert alone == ["line 4"]


def test_bytes_that_are_no_utf8_are_found_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\nfine\ncaf\xe9\nlast\n".encode("latin-1"))
    fine, bad, last = documents(tmp_path / "a.csv")
    assert (fine, last) == ("fine", "last")
    assert isinstance(bad, BadLine) and (bad.where, bad.reason) == ("line 3", "not UTF-8")
    (tmp_path / "a.txt").write_bytes("one\ncaf\xe9\n".encode("latin-1"))
    (bad,) = documents(tmp_path / "a.txt")
    assert isinstance(bad, BadLine) and (bad.where, bad.reason) == ("line 2", "not UTF-8")


def test_a_long_text_comes_in_pieces_that_end_where_lines_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_PIECE", 20)
    lines = ["\ufeff", "short 说\r\n", "x" * 30 + "\n", "a\n", "b\n", "\n", "end"]
    (tmp_path / "a.txt").write_bytes("".join(lines).encode())
    found = documents(tmp_path / "a.txt")
    assert found == ["short 说", "x" * 20, "x" * 10 + "\na\nb\n\nend"]


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_packed_files_may_have_several_parts_but_no_damage(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    rows = [{"text": f"document {i} {hash(str(i))}"} for i in range(20_000)]
    raw = write_jsonl(rows)
    whole = pack(raw[:100]) + pack(raw[100:])
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(whole)
    assert documents(path) == [row["text"] for row in rows]
    for damaged in (whole[:-20], whole[: len(whole) // 2], whole[:5000] + whole[7000:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged: unpacking"):
            documents(path)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.json", b'[{"text": "a"}, {"text": }]', "stops being JSON after row 1"),
        ("a.json", b'[{"text": "a"}, {"text": "b"}', "stops being JSON after row"),
        ("a.json", b'[{"text": "\xe9"}]', "stops being JSON after row 0"),
        ("a.csv", b'text\nfine\n"never closed\nand on\n', "no CSV from line 3 on"),
        ("a.csv", b'text\n"a"b\n', "no CSV from line 2 on"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read after row 0"),
        ("a.parquet.gz", gzip.compress(write_parquet([{"text": "a"}])), "packed once more"),
        ("a.pth", b"PK\x03\x04rest", "zip archive"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "UTF-16"),
        ("a.txt", b"\x00\x01", "is not text"),
        ("a.idx", b"MMIDIDX\x00\x00", "already"),
    ],
    ids=itertools.count(),
)
def test_a_file_that_cannot_be_read_says_where_and_what_to_do(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        documents(tmp_path / name)
    assert name in caught.value.message and caught.value.remedy


@pytest.mark.parametrize(
    "content, count",
    [
        (b'[\n{"text": "a"},\n{"text": "b"}\n]\n', 2),
        (b'[{"text": "a"}, {"text": "b"}]', 2),
        (b'{"text": "a"}\n{"text": "b"}\n', 2),
        (b'[{"text": "a"}]\n{"text": "b"}\n', 1),  # lines, of which the first is a list
    ],
)
def test_an_array_is_one_whatever_the_file_is_called(tmp_path: Path, content: bytes, count: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    assert len([one for one in documents(tmp_path / "a.jsonl") if isinstance(one, str)]) == count


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_fields_of_objects_are_reached(tmp_path: Path, name: str) -> None:
    row = {"q": {"text": "why?", "id": 1}, "a": {"best": {"text": "because"}}, "a.b": "c"}
    (tmp_path / name).write_bytes(WRITERS[name][1]([row]))
    fields = "prompt=q.text,answer=a.best.text"
    assert documents(tmp_path / name, fields=fields) == ["User: why?\n\nAssistant: because"]
    assert documents(tmp_path / name, fields="text=a.b") == ["c"]
    (bad,) = documents(tmp_path / name, fields="text=q.nothing")
    assert isinstance(bad, BadLine) and 'no "q.nothing" in it; it has "q.text"' in bad.reason


def test_without_pyarrow_a_table_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(write_parquet([{"text": "a"}]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow.*rwkv-tune\[parquet\]"):
        documents(tmp_path / "a.parquet")


def test_rows_stream(tmp_path: Path) -> None:
    """The first row is there long before the last was read."""
    text = "word " * 100
    for name in ("a.jsonl", "a.json", "a.csv"):
        (tmp_path / name).write_bytes(WRITERS[name][1]([{"text": text}] * 5000))
        corpus = open_corpus([tmp_path / name])
        first = list(itertools.islice(corpus.documents(), 10))
        assert first[-1][0] < corpus.total / 10
        assert [getattr(found, "text", "") for _, found in first] == [text] * 10


def test_the_rows_of_a_table_stream_though_they_lie_in_one_group(tmp_path: Path) -> None:
    """The most memory of a process that reads a group of 64 MB is little more than after one of 2 MB."""
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from engine.data.rows import open_corpus
        for name in sys.argv[1:]:
            print(sum(1 for _ in open_corpus([Path(name)]).documents()))
            lines = open("/proc/self/status").read().splitlines()
            print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    """)
    for name, count in (("a", 500), ("b", 16_000)):
        table = pyarrow.table({"text": [f"{number} " + "word " * 800 for number in range(count)]})
        how = {"row_group_size": count, "use_dictionary": False, "compression": "none"}
        parquet.write_table(table, tmp_path / f"{name}.parquet", **how)
    command = [sys.executable, "-c", code, *(str(tmp_path / f"{name}.parquet") for name in "ab")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    few, small, many, large = map(int, done.stdout.split())
    assert (few, many) == (500, 16_000) and large - small < 24 << 10, f"{small} {large} KiB"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=3), JSON_VALUES).map(lambda value: json.dumps(value).encode())
    | st.text(alphabet='{}[]":,\\ud8a0\t 1eEN-.', max_size=12).map(str.encode)
    | st.binary()
)
@example(b'{"text": "\\ud83c"}')
@example(b'{"text": "a\xed\xa0\xbc"}')
@example(b'{"a": NaN, "a": 1e999}')
@example(b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}")
def test_the_quick_library_changes_nothing(line: bytes) -> None:
    """Neither what is read of a line nor what is said of it."""

    def read() -> str:
        try:
            return repr(formats._object(line))
        except ValueError as error:
            return str(error)

    def refuse(raw: bytes) -> object:
        raise orjson.JSONDecodeError("no", "", 0)

    quick = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.data.rows.formats.orjson.loads", refuse)
        assert quick == read()
