"""The World tokenizer against the reference implementation, and decoding of whatever a model may emit."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.data.tokenizer import VOCAB_SIZE, StreamDecoder, Tokenizer

TEXTS = [
    "User: How are you? 🙂\n\nAssistant: 很好，谢谢！\n\n",
    "\x00\x01\x7f tabs\t\t\tand   spaces\r\n\r\n",
    "Ünïcödé ß ﷺ ｆｕｌｌ 한국어 日本語 עברית हिन्दी",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 e\u0301 \u2028\u2029\ufeff",
    "def f(x):\n    return {'a': [x**2 for x in range(10)]}\n" * 3,
    "#" * 500 + " " * 500 + "0123456789" * 20,
]


@pytest.fixture(scope="module")
def reference() -> Any:
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    return TRIE_TOKENIZER(str(resources.files("rwkv") / "rwkv_vocab_v20230424.txt"))


def test_ids_and_bytes_are_the_references(reference: Any) -> None:
    tokenizer = Tokenizer()
    for text in TEXTS:
        assert tokenizer.encode(text) == reference.encode(text)
    ids, sizes = tokenizer.encode_documents(TEXTS, len("".join(TEXTS).encode()))
    assert ids.tolist() == [i for text in TEXTS for i in [*reference.encode(text), 0]]
    assert sizes == [len(reference.encode(text)) + 1 for text in TEXTS]
    for token in range(1, 65530):
        assert tokenizer.token_bytes(token) == reference.idx2token[token]


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("")
@example("\ufffd\ufffd")
def test_decoding_undoes_encoding(text: str) -> None:
    tokenizer = Tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert 0 not in ids


@given(st.text(st.sampled_from("ab \n=-🙂你好é\u0301"), max_size=600), st.integers(1, 200))
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(text: str, size: int) -> None:
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    found = [token for ids in Tokenizer().encode_long(pieces) for token in ids.tolist()]
    assert found == Tokenizer().encode(text)


@given(st.lists(st.integers(-5, VOCAB_SIZE + 5)))
def test_many_ids_at_once_have_the_same_bytes(ids: list[int]) -> None:
    for some in (np.array(ids, np.int64), np.array(ids, np.int64).astype(np.uint16)):
        assert Tokenizer().bytes_of(some) == Tokenizer().decode_bytes(some.tolist())
        assert Tokenizer().lengths_of(some).tolist() == [
            len(Tokenizer().token_bytes(i)) for i in some.tolist()
        ]


def test_ids_that_do_not_stand_for_the_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[66, 67][: len(text)] for text in texts]

    monkeypatch.setattr("engine.data.tokenizer._encoder", Wrong)
    assert Tokenizer().encode_documents(["AB", "A"], 3)[1] == [3, 2]
    for texts in (["BA"], ["AB", "ABC"]):
        with pytest.raises(ValueError, match="do not stand"):
            Tokenizer().encode_documents(texts, len("".join(texts)))


def test_without_the_quick_library_the_ids_are_the_same() -> None:
    """In a process of its own, where importing it fails as it does under Python 3.14."""
    code = """
import json, sys
sys.modules["pyrwkv_tokenizer"] = None
from engine.data.tokenizer import Tokenizer
t = Tokenizer()
texts = json.load(sys.stdin)
ids, sizes = t.encode_documents(texts, len("".join(texts).encode()))
assert t.bytes_of(ids).decode() == t.decode(ids.tolist())
print(json.dumps([ids.tolist(), sizes]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(TEXTS), capture_output=True, text=True, check=True
    )
    ids, sizes = Tokenizer().encode_documents(TEXTS, len("".join(TEXTS).encode()))
    assert json.loads(done.stdout) == [ids.tolist(), sizes]


def test_without_any_tokenizer_a_person_is_told_what_to_install() -> None:
    code = """
import sys
sys.modules["pyrwkv_tokenizer"] = sys.modules["rwkv"] = None
from engine.data.tokenizer import Tokenizer
Tokenizer().encode("a")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: No tokenizer is installed. Install pyrwkv-tokenizer" in done.stderr


@given(st.lists(st.integers(-5, VOCAB_SIZE + 5)))
def test_any_ids_decode(ids: list[int]) -> None:
    """A model may emit every id, also those that are half a character or not in the vocabulary."""
    tokenizer, stream = Tokenizer(), StreamDecoder()
    streamed = "".join(stream.feed(i) for i in ids) + stream.finish()
    assert streamed == tokenizer.decode(ids)


def test_unused_ids_and_the_end_of_document() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.token_bytes(0) == b""
    for token in (-1, 65530, 65535, 65536, 10**9):
        assert tokenizer.decode([token]) == "\ufffd"


def test_the_stream_holds_back_half_a_character() -> None:
    stream = StreamDecoder()
    ids = [byte + 1 for byte in "🎉".encode()]  # ids 1 to 256 are the single bytes
    assert [stream.feed(i) for i in ids] == ["", "", "", "🎉"]
    assert stream.feed(*ids[:2]) == ""
    assert stream.finish() == "\ufffd"


def test_a_lone_surrogate_has_no_ids() -> None:
    with pytest.raises(UnicodeEncodeError):
        Tokenizer().encode("a\ud83c")


def test_nothing_is_loaded_at_import() -> None:
    code = (
        "import sys, engine.data.tokenizer as t; t.Tokenizer();"
        "assert 'pyrwkv_tokenizer' not in sys.modules; assert t._table.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
