"""Which tokens of a conversation are learned."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.masks import has_answer, trained_mask, turns_of
from engine.data.tokenizer import Tokenizer

TOKENIZER = Tokenizer()


def learned(text: str, loss_mask: str = "qa") -> tuple[str, bool]:
    """The text of the learned tokens, and whether the closing token 0 is one of them."""
    tokens = np.array([*TOKENIZER.encode(text), 0])
    mask = trained_mask(tokens, loss_mask)
    assert mask.shape == tokens.shape
    return TOKENIZER.decode(tokens[mask].tolist()), bool(mask[-1])


@pytest.mark.parametrize(
    "text, answer, end",
    [
        ("User: Hi 🙂\n\nAssistant: 你好！🎉", " 你好！🎉", True),
        ("User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: d", " b\n\n d", True),
        ("User: a\n\nAssistant: b\n\nUser: c", " b\n\n", False),
        ("User: a\r\nAssistant: b\r\nUser: c", " b\r\n", False),
        ("Assistant: only", " only", True),
        ("Assistant:", "", True),
        ("Assistant:\nnext line\nUser:", "\nnext line\n", False),
        ("no markers at all", "", False),
        ("", "", False),
        ("The Assistant: is not at a line start", "", False),
        ("User: a\n\nAssistant: see User: b and Assistant: c", " see User: b and Assistant: c", True),
        ("assistant: b\n ASSISTANT: c\n Assistant: d\nAssistants: e", "", False),
        ("User: a\n\nAssistant: Users: are many\nUser", " Users: are many\nUser", True),
        ("User: a\nAssistant: x\n\nAssistant: b\nUser: c", " b\nUser: c", True),
        ("User: a\nAssistant: b\n\nUser: c\nAssistant: d", " b\n\n d", True),
        ("User: a\r\n\r\nAssistant: b\r\nUser: c", " b\r\nUser: c", True),
        ("User: a\n\nAssistant: b\n\nSystem: s\n\nUser: c", " b\n\n", False),
        ("User: a\n\nAssistant: b\n\nInput: 5", " b\n\nInput: 5", True),
        ("Instruction: a\n\nInput: b\n\nResponse: c\nInput: d", " c\nInput: d", True),
        ("Instruction: a\n\nResponse: b\n\nInstruction: c\n\nResponse: d", " b\n\n d", True),
        ("User: a\n\nResponse: b", "", False),
    ],
)
def test_qa_learns_answers_with_what_ends_them(text: str, answer: str, end: bool) -> None:
    assert learned(text) == (answer, end)
    assert has_answer(text) == bool(answer or end)


@given(
    st.lists(st.tuples(st.text("ab:🙂 \n"), st.text("ab:🙂 \n")), min_size=1),
)
def test_qa_learns_every_answer(turns: list[tuple[str, str]]) -> None:
    """`x` and `y` keep a marker from being made by the drawn text itself."""
    text = "".join(f"User: x{q}\n\nAssistant: y{a}\n\n" for q, a in turns)
    assert learned(text) == ("".join(f" y{a}\n\n" for _, a in turns), True)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_none_and_pad_learn_everything(text: str) -> None:
    assert learned(text, "none") == learned(text, "pad") == (text, True)


@pytest.mark.parametrize(
    "tokens, targets",
    [
        ([1, 8, 2, 3, 9, 4], [2, 3, 9]),
        ([8, 9, 8, 1], [9, 1]),
        ([1, 9, 2, 8], []),
        ([8, 1, 8, 2, 9, 9], [1, 2, 9]),
        ([1, 2, 3], []),
    ],
)
def test_se_learns_between_two_ids_and_what_ends(tokens: list[int], targets: list[int]) -> None:
    ids = np.array(tokens)
    assert ids[trained_mask(ids, "se", (8, 9))].tolist() == targets


def test_no_tokens() -> None:
    for loss_mask in ("none", "pad", "qa"):
        assert trained_mask(np.array([], np.uint16), loss_mask).shape == (0,)
    assert trained_mask(np.array([], np.uint16), "se", (1, 2)).shape == (0,)


def test_an_unknown_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="se"):
        trained_mask(np.array([1]), "se")


PARTS = [
    "User:",
    "Assistant:",
    "System:",
    "Instruction:",
    "Input:",
    "Response:",
    "\n",
    "\n\n",
    "\r\n",
    "a",
    "🙂",
    ":",
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


def read_in_order(tokens: list[int]) -> list[bool]:
    """The same rule of qa as one reads it: from marker to marker."""
    text, begins = b"", []
    for token in tokens:
        begins.append(len(text))
        text += TOKENIZER.token_bytes(token)
    apart = rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))"
    first = re.search(apart + rb"(?:(Instruction)|User|Assistant):", text)
    turns = rb"(?m)^(?:(Assistant)|User):"
    if first and first[1]:
        turns = apart + rb"(?:(Response)|Instruction|Input|System):"
    elif re.search(rb"\n\r?\nAssistant:", text):
        turns = apart + rb"(?:(Assistant)|User|System):"
    learned = [False] * len(tokens)
    for marker in re.finditer(turns, text):
        place = marker.end() if marker[1] else marker.start()
        learned = [bool(marker[1]) if b >= place else old for b, old in zip(begins, learned, strict=True)]
    return learned


@given(st.lists(st.tuples(TEXTS, st.lists(st.sampled_from([0, 65535]), max_size=2)), min_size=1, max_size=4))
def test_qa_is_read_of_many_documents_at_once_as_of_each(drawn: list[tuple[str, list[int]]]) -> None:
    """Also of empty ones, and of ones that do not end with token 0."""
    documents = [[*TOKENIZER.encode(text), *end] for text, end in drawn]
    tokens = np.array([token for document in documents for token in document], np.uint16)
    starts = np.cumsum([0, *map(len, documents)])
    found = turns_of(tokens, starts, "qa", None, lambda i: np.array(documents[i])).between(0, len(tokens))
    expected = [read_in_order(document) for document in documents]
    assert found.tolist() == [learned for each in expected for learned in each]
    assert has_answer(drawn[0][0]) == any(read_in_order([*TOKENIZER.encode(drawn[0][0]), 0]))
