"""Conversion: what comes out, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.contract.check import data_half
from engine.contract.errors import UserError
from engine.data.binidx import BinIdx, magic_prime
from engine.data.convert import convert
from engine.data.origin import read_origin
from engine.data.tokenizer import Tokenizer

DOCUMENTS = [f"User: 问题 {i} 🙂\n\nAssistant: answer {i * i}" for i in range(100)]


def jsonl(path: Path, texts: list[str], *, ascii_only: bool = False) -> Path:
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=ascii_only) + "\n" for t in texts), "utf-8")
    return path


def halves(prefix: Path) -> tuple[bytes, bytes]:
    return data_half(prefix, ".bin").read_bytes(), data_half(prefix, ".idx").read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def texts(data: BinIdx) -> list[str]:
    items = [data.item(i).tolist() for i in range(len(data))]
    assert all(item[-1] == 0 and 0 not in item[:-1] for item in items)
    return [Tokenizer().decode(item) for item in items]


def test_every_repeat_is_all_documents_in_another_order(tmp_path: Path) -> None:
    report = convert(jsonl(tmp_path / "a.jsonl", DOCUMENTS), tmp_path / "new" / "a.v1", repeat=3, ctx_len=64)
    data = BinIdx(tmp_path / "new" / "a.v1")
    found = texts(data)
    repeats = [found[i : i + 100] for i in (0, 100, 200)]
    assert [sorted(r) for r in repeats] == [sorted(DOCUMENTS)] * 3
    assert len({tuple(r) for r in [*repeats, DOCUMENTS]}) == 4
    assert (report.documents, report.items, report.dtype, report.skipped) == (100, 300, "uint16", 0)
    assert report.tokens == data.tokens == sum(len(Tokenizer().encode(t)) + 1 for t in DOCUMENTS) * 3
    assert report.magic_prime == magic_prime(data.tokens, 64)
    assert names(tmp_path / "new") == ["a.v1.bin", "a.v1.idx", "a.v1.idx.json"]


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        convert(source, tmp_path / name, seed=seed)
    assert halves(tmp_path / "a") == halves(tmp_path / "b")
    assert halves(tmp_path / "a") != halves(tmp_path / "c")


def test_a_document_is_tokenised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = Tokenizer.encode_documents

    def counted(self: Tokenizer, texts: Sequence[str], *more: Any) -> tuple[NDArray[np.uint16], list[int]]:
        seen.extend(texts)
        return encode(self, texts, *more)

    monkeypatch.setattr(Tokenizer, "encode_documents", counted)
    convert(jsonl(tmp_path / "a.jsonl", DOCUMENTS), tmp_path / "a", repeat=9)
    assert seen == DOCUMENTS


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1, max_size=20),
    st.integers(1, 3),
    st.booleans(),
)
def test_any_unicode_comes_through(documents: list[str], repeat: int, ascii_only: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = jsonl(Path(folder) / "a.jsonl", documents, ascii_only=ascii_only)
        report = convert(source, Path(folder) / "a", repeat=repeat, ctx_len=8)
        data = BinIdx(Path(folder) / "a")
        assert sorted(texts(data)) == sorted(documents * repeat)
        assert (len(data), data.tokens) == (report.items, report.tokens)


def test_bom_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n  \n{"n": NaN, "text": "two"}\n\n\n')
    convert(source, tmp_path / "a", repeat=1)
    assert sorted(texts(BinIdx(tmp_path / "a"))) == ["one", "two"]


BAD: list[tuple[bytes, str]] = [
    (b"User: hello", "not JSON (Expecting value at character 1)"),
    (b'{"text": "a"', "not JSON (Expecting ',' delimiter at character 13)"),
    (b'{"text": "a', "not JSON (Unterminated string at character 10)"),
    (b'{"text": "a"} {"text": "b"}', "not JSON lines (several objects on one line)"),
    (b'["a"]', "JSON, but a list instead of an object"),
    (b'"a"', "JSON, but a string instead of an object"),
    (b"null", "JSON, but null instead of an object"),
    (b"17", "JSON, but a number instead of an object"),
    (b"{}", "none of text, messages, prompt and completion is in it; it has nothing"),
    (b'{"Text": "a"}', 'none of text, messages, prompt and completion is in it; it has "Text"'),
    (b'{"text": ["a"]}', '"text" is a list instead of a string'),
    (b'{"text": null}', '"text" is null instead of a string'),
    (b'{"text": true}', '"text" is true or false instead of a string'),
    (b'{"text": ""}', '"text" is empty'),
    (b'{"text": " \\n\\t "}', '"text" is blank'),
    (b'{"text": "a \\ud83c b"}', "it has a lone surrogate (U+D83C)"),
    (b'{"text": "a \xed\xa0\xbc b"}', "not UTF-8 (byte 13 of the line)"),
    (b'{"text": "caf\xe9"}', "not UTF-8 (byte 14 of the line)"),
    (b"[" * 100_000, "not JSON that can be read"),
    (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
]


@pytest.mark.parametrize("line, reason", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, line: bytes, reason: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}\n')
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "a")
    assert f"line 3: {reason}\n" in caught.value.message
    assert "1 bad row; nothing was written" in caught.value.message
    assert names(tmp_path) == ["a.jsonl"]
    report = convert(source, tmp_path / "a", repeat=1, skip_bad=True)
    assert (report.documents, report.skipped) == (2, 1)
    assert sorted(texts(BinIdx(tmp_path / "a"))) == ["first", "last"]


def test_ten_bad_lines_are_listed_and_all_counted(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "good"}\n' + "bad\n" * 23)
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "a")
    lines = caught.value.message.splitlines()
    assert [line.split(":")[0] for line in lines[1:11]] == [f"  line {n}" for n in range(2, 12)]
    assert lines[11:] == ["  and 13 more", "23 bad rows; nothing was written."]


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.rows.formats.MAX_LINE", 1 << 20)
    source = tmp_path / "a.jsonl"
    source.write_bytes(b"x" * (5 << 20) + b'\n{"text": "good"}\n')
    with pytest.raises(UserError, match="line 1: longer than 1 MiB"):
        convert(source, tmp_path / "a")
    report = convert(source, tmp_path / "a", skip_bad=True)
    assert (report.documents, report.skipped) == (1, 1)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"bad\n", b"\xff\xfd{}"])
def test_no_documents_is_an_error(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(content)
    with pytest.raises(UserError, match="no documents"):
        convert(source, tmp_path / "a", skip_bad=True)
    assert names(tmp_path) == ["a.jsonl"]


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path / "none.jsonl", tmp_path / "a")
    with pytest.raises(UserError, match="folder"):
        convert(tmp_path, tmp_path / "a")


@pytest.mark.parametrize("half", [".bin", ".idx"])
def test_an_existing_pair_needs_force(tmp_path: Path, half: str) -> None:
    source = jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    (tmp_path / f"a{half}").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"\.(bin|idx) already exists"):
        convert(source, tmp_path / "a")
    assert (tmp_path / f"a{half}").read_bytes() == b"mine"
    convert(source, tmp_path / "a", force=True)
    assert len(BinIdx(tmp_path / "a")) == 1000


def test_numbers_below_one_and_a_target_without_a_name(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    wrong: list[dict[str, Any]] = [{"repeat": 0}, {"ctx_len": 0}]
    for values in wrong:
        with pytest.raises(UserError, match="at least 1"):
            convert(source, tmp_path / "a", **values)
    with pytest.raises(UserError, match="folder"):
        convert(source, Path(), force=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        convert(source, tmp_path / "file" / "a")


def test_progress_counts_bytes_and_then_tokens(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    told: list[tuple[str, int, int]] = []
    report = convert(source, tmp_path / "a", progress=lambda *event: told.append(event))
    assert ("reading", source.stat().st_size, source.stat().st_size) in told
    assert told[-1] == ("writing", report.tokens, report.tokens)
    assert [phase for phase, _, _ in told] == sorted(phase for phase, _, _ in told)


@given(st.integers(1, 600_000), st.integers(1, 4096))
def test_the_magic_prime(tokens: int, ctx_len: int) -> None:
    prime = magic_prime(tokens, ctx_len)
    assert (prime is None) == (tokens < 3 * ctx_len)
    if prime is not None:
        limit = tokens // ctx_len - 1
        candidates = [p for p in range(prime, min(limit, prime + 200) + 1) if p % 3 == 2]
        assert prime == [p for p in candidates if all(p % d for d in range(2, int(p**0.5) + 1))][-1]


def test_everything_of_a_folder_is_converted_and_told_beside_the_pair(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.csv").write_text("prompt,completion\na,b\n")
    (folder / "b.json").write_text('[{"instruction": "c", "output": "d"}]')
    (folder / "c.md").write_text("# e\n\nf\n")
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "g"}'))
    (tmp_path / "t").write_text(
        "User: {user}\n\nAssistant: {assistant}\n\nUser: {instruction}\n\nAssistant: {response}"
    )
    report = convert(folder, tmp_path / "p", repeat=2, template=tmp_path / "t", ctx_len=4)
    written = ["User: a\n\nAssistant: b", "User: c\n\nAssistant: d", "# e\n\nf", "g"]
    assert sorted(texts(BinIdx(tmp_path / "p"))) == sorted(written * 2)
    origin = read_origin(tmp_path / "p")
    assert origin is not None and origin.template == (tmp_path / "t").read_text()
    (source,) = origin.sources
    assert (source.path, source.files, source.documents, report.documents) == (str(folder), 4, 4, 4)
    assert source.kind.startswith("4 files, CSV and JSON and text and jsonl (gzip): ")
    whole = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    assert (source.bytes, source.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_sources_of_several_kinds_are_mixed_by_weight(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "a", "r": "b"}\n' * 30)
    (tmp_path / "b.csv").write_text("q,r\n" + "c,d\n" * 30)
    sources = [tmp_path / "a.jsonl", tmp_path / "b.csv"]
    convert(sources, tmp_path / "p", repeat=1, weights=(3, 1), fields="prompt=q,answer=r")
    found = texts(BinIdx(tmp_path / "p"))
    assert found.count("User: a\n\nAssistant: b") == 30 and found.count("User: c\n\nAssistant: d") == 10


def test_a_folder_is_converted_again_with_its_own_pair_in_it(tmp_path: Path) -> None:
    """What is told of the pair is JSON, but no data."""
    jsonl(tmp_path / "a.jsonl", ["one", "two"])
    for _time in range(2):
        assert convert(tmp_path, tmp_path / "pair", repeat=1, force=True).documents == 2
