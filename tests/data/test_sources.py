"""Data of every type becomes the same documents; what is wrong with a file is said."""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.contract.settings import TrainSettings
from engine.data import sources
from engine.data.dataset import check_vocabulary
from engine.data.documents import Stored
from engine.data.sources import open_data
from engine.data.tokenizer import Tokenizer

TEXTS = ["User: hi 🙂\n\nAssistant: 你好", "second", "third\nline"]


def opened(data_type: str, path: Path | None, **more: Any) -> Stored:
    settings = TrainSettings(data_type=data_type, data_file=path, **more)
    return open_data(settings, 65536, lambda *_: None)


def documents(data: Stored) -> list[list[int]]:
    assert data.tokens == sum(data.sizes) == len(data.stream)
    return [data.item(i).tolist() for i in range(len(data))]


@pytest.fixture
def ids() -> list[list[int]]:
    return [[*Tokenizer().encode(text), 0] for text in TEXTS]


def test_jsonl_numpy_and_uint16_hold_the_same_documents(tmp_path: Path, ids: list[list[int]]) -> None:
    import json

    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    flat = [token for document in ids for token in document]
    np.save(tmp_path / "a.npy", np.array(flat, np.int32))
    np.array(flat, "<u2").tofile(tmp_path / "a.bin")
    for data_type, name in (("jsonl", "a.jsonl"), ("numpy", "a.npy"), ("uint16", "a.bin")):
        data = opened(data_type, tmp_path / name, proj_dir=tmp_path)
        assert documents(data) == ids
        assert [data.item_at(i) for i in (0, len(ids[0]) - 1, len(ids[0]), len(flat) - 1)] == [0, 0, 1, 2]
        for outside in (-1, 3):
            with pytest.raises(IndexError):
                data.item(outside)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.jsonl", "a.npy"]  # nothing left behind


@pytest.mark.parametrize("last", [[], [0], [0, 0], [7]])
def test_ids_end_documents_at_zero(last: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BLOCK", 2)
    np.array([5, 6, 0, 7, *last], "<u2").tofile(tmp_path / "ids.bin")
    assert documents(opened("uint16", tmp_path / "ids.bin")) == {
        (): [[5, 6, 0], [7]], (0,): [[5, 6, 0], [7, 0]], (0, 0): [[5, 6, 0], [7, 0], [0]],
        (7,): [[5, 6, 0], [7, 7]],
    }[tuple(last)]  # fmt: skip


@pytest.mark.parametrize("data_type", ["utf-8", "utf-16le"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_text_file_is_one_document(data_type: str, mark: str, tmp_path: Path) -> None:
    text = "\r\n".join(TEXTS)
    (tmp_path / "t.txt").write_bytes((mark + text).encode(data_type))
    data = opened(data_type, tmp_path / "t.txt")
    assert documents(data) == [[*Tokenizer().encode(text), 0]]


@given(
    st.text(st.sampled_from("a🙂你é"), max_size=40), st.sampled_from(["utf-8", "utf-16le"]), st.integers(1, 5)
)
def test_characters_cut_by_a_block_are_put_together(text: str, encoding: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_BLOCK", size)
        file = io.BytesIO(codecs.BOM_UTF8 * (encoding == "utf-8") + text.encode(encoding))
        assert "".join(sources._characters(file, Path("x"), encoding)) == text


def test_a_long_text_keeps_to_little_memory(tmp_path: Path) -> None:
    text = "The quick brown fox jumps over the lazy dog. 你好\n" * 60_000  # three blocks
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    told: list[tuple[int, int]] = []
    settings = TrainSettings(data_type="utf-8", data_file=tmp_path / "t.txt")
    data = open_data(settings, 65536, lambda _, done, total: told.append((done, total)))
    assert data.item(0).tolist() == [*Tokenizer().encode(text), 0]
    assert told[-1] == (len(text.encode()), len(text.encode()))


def test_dummy_fills_the_context_with_ids_of_the_vocabulary() -> None:
    data = sources.dummy(100, 300, seed=1)
    assert set(data.sizes.tolist()) == {101}
    assert data.stream.min() >= 1 and data.stream.max() == 299
    check_vocabulary(data, 300)
    assert np.array_equal(data.stream, sources.dummy(100, 300, seed=1).stream)
    assert not np.array_equal(data.stream, sources.dummy(100, 300, seed=2).stream)
    assert sources.dummy(1 << 25, 70000, seed=1).tokens == (1 << 25) + 1


@pytest.mark.parametrize(
    ("data_type", "content", "says"),
    [
        ("jsonl", b"", "no documents"),
        ("jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: none of text"),
        ("utf-8", b"", "no text"),
        ("utf-8", b"\xef\xbb\xbf", "no text"),
        ("utf-8", b"ab\xff", "no utf-8 text"),
        ("utf-8", b"ab\xe4", "no utf-8 text"),
        ("utf-16le", b"a\x00b", "no utf-16le text"),
        ("utf-16le", b"\x00\xd8a\x00", "no utf-16le text"),
        ("numpy", b"hello", "no .npy file"),
        ("numpy", b"", "no .npy file"),
        ("uint16", b"abc", "3 bytes"),
        ("uint16", b"", "no tokens"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(data_type: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError) as caught:
        opened(data_type, tmp_path / "file")
    assert says in caught.value.message and caught.value.remedy


@pytest.mark.parametrize("array", [np.zeros((2, 3), int), np.ones(3), np.array(["a"]), np.zeros(0, int)])
def test_an_array_that_is_no_row_of_ids_is_refused(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=r"not a row of integers|no tokens"):
        opened("numpy", tmp_path / "a.npy")


@pytest.mark.parametrize("data_type", ["jsonl", "utf-8", "numpy", "uint16"])
def test_a_file_that_is_not_there(data_type: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        opened(data_type, tmp_path / "none")


def test_ids_beyond_the_vocabulary_name_their_document(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([1, 0, 2, 70000]))
    with pytest.raises(UserError, match=r"item 1 of .*a\.npy has the token id 70000"):
        check_vocabulary(opened("numpy", tmp_path / "a.npy"), 65536)
