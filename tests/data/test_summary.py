"""The summary of a data file: what it recognises, its counts and its samples."""

from __future__ import annotations

import gzip
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.contract.reports import DataSummary
from engine.data.binidx import BinIdx, write_pair
from engine.data.convert import convert
from engine.data.dataset import WindowDataset
from engine.data.plan import DataPlan
from engine.data.summary import Lengths
from engine.data.summary import summarise as look
from engine.data.tokenizer import Tokenizer

TEXTS = [f"User: 问 {i} 🙂\n\nAssistant: " + "word " * i for i in range(60)]


def summarise(path: Path, ctx_len: int, loss_mask: str = "qa", **how: Any) -> DataSummary:
    ids = how.pop("mask_ids", None)
    return look([path], DataPlan(ctx_len, loss_mask, ids), **how)


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    return path


def kinds(summary: DataSummary, sample: int = 0) -> list[tuple[str, str]]:
    return [(segment.kind, segment.text) for segment in summary.samples[sample].segments]


def test_a_jsonl_file_is_counted(tmp_path: Path) -> None:
    summary = summarise(jsonl(tmp_path / "a.txt", TEXTS), ctx_len=40)
    sizes = [len(Tokenizer().encode(t)) + 1 for t in TEXTS]
    assert (summary.kind, summary.complete, summary.bad_count) == ("rows", True, 0)
    assert (summary.documents, summary.tokens) == (60, sum(sizes))
    assert (summary.shortest, summary.longest) == (min(sizes), max(sizes))
    assert summary.cut_documents == sum(size > 41 for size in sizes) > 0
    assert summary.cut_tokens == sum(max(0, size - 41) for size in sizes)
    assert [s.number for s in summary.samples] == [1, 2, 3]
    assert [s.tokens for s in summary.samples] == sizes[:3]


@pytest.mark.parametrize("given_as", ["a", "a.bin", "a.idx"])
def test_a_pair_is_recognised_by_any_of_its_names(tmp_path: Path, given_as: str) -> None:
    source = jsonl(tmp_path / "source", TEXTS)
    convert(source, tmp_path / "a", repeat=2)
    summary = summarise(tmp_path / given_as, ctx_len=40)
    plain = summarise(source, ctx_len=40)
    assert (summary.kind, summary.complete, summary.documents) == ("binidx", True, 120)
    assert (summary.tokens, summary.cut_tokens) == (2 * plain.tokens, 2 * plain.cut_tokens)
    assert (summary.longest, summary.shortest) == (plain.longest, plain.shortest)
    assert dict(summary.histogram) == {bound: 2 * count for bound, count in plain.histogram}
    first = Tokenizer().decode(BinIdx(tmp_path / "a").item(0).tolist())
    assert first.startswith("".join(text for _, text in kinds(summary))[:40])


def test_windows_lose_nothing_and_are_counted(tmp_path: Path) -> None:
    source, plan = jsonl(tmp_path / "source", TEXTS), DataPlan(40, "qa", windows=True)
    convert(source, tmp_path / "a", repeat=2)
    for path in (source, tmp_path / "a"):
        summary = look([path], plan)
        assert (summary.cut_documents, summary.cut_tokens) == (0, 0)
        assert summary.windows == -(-(summary.tokens - 1) // 40)
        assert not [finding for finding in summary.findings if finding.code == "cut"]
    assert summary.windows == len(WindowDataset(BinIdx(tmp_path / "a"), 40, "qa"))
    assert summarise(source, 40).windows == 0
    whole = look([jsonl(tmp_path / "b", [TEXTS[0] * 9])], DataPlan(7, windows=True))
    assert {kind for kind, _ in kinds(whole)} == {"masked", "trained"}


def test_samples_show_what_is_learned_and_what_is_cut(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", ["User: Hi\n\nAssistant: one two three"])
    assert kinds(summarise(source, 512)) == [
        ("masked", "User: Hi\n\nAssistant:"),
        ("trained", " one two three"),
    ]
    assert kinds(summarise(source, 512, "pad")) == [("trained", "User: Hi\n\nAssistant: one two three")]
    cut = kinds(summarise(source, 7))
    assert [kind for kind, _ in cut] == ["masked", "trained", "cut"]
    assert "".join(text for _, text in cut) == "User: Hi\n\nAssistant: one two three"


@given(st.integers(1, 30), st.sampled_from(["none", "qa"]))
def test_a_sample_never_tears_a_character(ctx_len: int, loss_mask: str) -> None:
    text = "User: 👩‍👩‍👧‍👦\n\nAssistant: 🏳️‍🌈🇩🇪 𝔘𝔫"
    with tempfile.TemporaryDirectory() as folder:
        summary = summarise(jsonl(Path(folder) / "a", [text]), ctx_len, loss_mask)
    assert "".join(segment for _, segment in kinds(summary)) == text


def test_a_long_document_is_shown_in_part(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", ["word " * 10_000])
    summary = summarise(source, 16)
    kind, text = kinds(summary)[-1]
    assert (kind, text[-1]) == ("cut", "…")
    assert len(text) < 2000 < summary.samples[0].tokens


def test_only_the_first_part_of_a_big_file_is_read(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", TEXTS * 50)
    summary = summarise(source, 64, limit_bytes=source.stat().st_size // 10)
    assert not summary.complete
    assert 250 < summary.documents < 350
    assert summary.file_bytes == source.stat().st_size


def test_bad_lines_are_listed_and_counted(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("bad\n" * 12 + '{"text": "good"}\n')
    summary = summarise(source, 64)
    (finding,) = [finding for finding in summary.findings if finding.level == "error"]
    assert (summary.documents, summary.bad_count, len(finding.places)) == (1, 12, 10)
    assert finding.places[9].where == "line 10"


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.gz", gzip.compress(b'{"text": "a"}')[:-4], "unpacking it failed"),
        ("a.pth", b"PK\x03\x04rest", "zip archive"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "UTF-16"),
        ("a.jsonl", b"\x00" * 100, "not text"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.csv", b"question,answer\n", "no documents"),
        ("a.md", b"%PDF-1.7\n", "a PDF"),
        ("a.csv", b"PK\x03\x04", "as .docx, .xlsx"),
        ("a.bin", b"\x01\x02", r"no file .*a\.idx"),
        ("a.idx", b"MMIDIDX\x00\x00", r"no file .*a\.bin"),
        ("a.index", b"MMIDIDX\x00\x00", "another name"),
    ],
    ids=itertools.count(),
)
def test_what_is_neither_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        summarise(tmp_path / name, 64)
    assert Path(name).stem in caught.value.message
    assert caught.value.remedy


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        summarise(tmp_path / "none", 64)
    with pytest.raises(UserError, match="folder without data"):
        summarise(tmp_path, 64)
    (tmp_path / "half.bin").write_bytes(b"\x01\x00")
    with pytest.raises(UserError, match=r"half\.idx"):
        summarise(tmp_path / "half", 64)


@given(st.lists(st.integers(1, 10_000), min_size=1), st.integers(2, 2000))
def test_the_histogram_counts_every_document_once(sizes: list[int], limit: int) -> None:
    lengths, counted = Lengths(DataPlan(limit - 1)), Lengths(DataPlan(limit - 1))
    lengths.add_all(np.array(sizes, np.int32))
    for number, size in enumerate(sizes, 1):
        counted.add(size, f"document {number}")
    assert lengths.numbers() == counted.numbers()
    histogram = lengths.histogram()
    bounds = [bound for bound, _ in histogram]
    assert bounds == sorted(set(bounds))
    assert limit in bounds
    for i, (bound, count) in enumerate(histogram):
        below = bounds[i - 1] if i else 0
        assert count == sum(below < size <= bound for size in sizes)
    assert sum(count for _, count in histogram) == len(sizes)


def test_se_shows_what_stands_between_its_ids(tmp_path: Path) -> None:
    with write_pair(tmp_path / "d") as writer:
        writer.add(np.array([66, 67, 68, 69, 70, 0], "<u2").tobytes())  # ids 1 to 256 are the single bytes

    def shown(ids: tuple[int, int] | None) -> list[tuple[str, str]]:
        (sample,) = summarise(tmp_path / "d", 9, "se", mask_ids=ids).samples
        return [(s.text, s.kind) for s in sample.segments]

    assert shown((67, 69)) == [("AB", "masked"), ("CD", "trained"), ("E", "masked")]
    assert shown(None) == [("ABCDE", "trained")]
