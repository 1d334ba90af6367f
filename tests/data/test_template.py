"""What conversations become, and that the mask finds in it exactly the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.data.masks import trained_mask
from engine.data.rows.shapes import RowError, Shape, groups_of, read_fields, shape_of
from engine.data.rows.template import TEXT, Template, clean, read_template
from engine.data.tokenizer import Tokenizer

MARKERS = ["User:", "Assistant:", "System:", "Instruction:", "Input:", "Response:", "{user}", "<think>"]
TEXTS = (
    st.lists(
        st.sampled_from([*MARKERS, "\n", "\n\n", "\r\n", " ", "\t", "a", "说", "👩‍👩‍👧", "\x0b", "\u2028"])
    ).map("".join)
    | st.text(st.characters(exclude_categories=["Cs"]))
).filter(str.strip)
TURNS = st.lists(st.tuples(TEXTS, st.none() | TEXTS, TEXTS), min_size=1, max_size=3)


def learned(text: str, limit: int | None = None) -> str:
    """What loss_mask qa calls the answers, the closing token left out."""
    tokens = np.array([*Tokenizer().encode(text), 0])
    return (
        Tokenizer()
        .decode_bytes(tokens[:limit][trained_mask(tokens, "qa", limit=limit)].tolist())
        .decode("utf-8", "replace")
    )


def render(row: dict[str, Any]) -> str:
    return Template().render(groups_of(row, shape_of(row)))


@given(st.none() | TEXTS, TURNS)
@example(None, [("a\nAssistant: x", None, "b\nUser: c"), ("\n\nUser: d", "\n\n", "e\r\n\r\nSystem: f")])
def test_what_is_learned_of_a_chat_is_its_answers(
    system: str | None, turns: list[tuple[str, Any, str]]
) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    answers = []
    for question, thought, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer, "reasoning_content": thought})
        thoughts = f"<think>\n{clean(thought)}\n</think>\n" if thought and thought.strip() else ""
        answers.append(f" {thoughts}{clean(answer)}")
    text = render({"messages": messages})
    assert learned(text) == "\n\n".join(answers)
    assert "\r" not in text and text.count("\n\n") == len(messages) - 1


@given(TEXTS, st.none() | st.just("") | TEXTS, TEXTS)
def test_what_is_learned_of_instructions_is_the_response(told: str, given_: str | None, answer: str) -> None:
    text = render({"instruction": told, "input": given_, "output": answer})
    assert learned(text) == f" {clean(answer)}"
    assert ("\n\nInput: " in text) == bool(given_ and given_.strip())


@given(TURNS, st.integers(1, 60))
def test_a_cut_changes_nothing_about_what_comes_before_it(
    turns: list[tuple[str, Any, str]], limit: int
) -> None:
    text = render({"conversations": [
        {"from": who, "value": value} for q, _, a in turns for who, value in (("human", q), ("gpt", a))
    ]})  # fmt: skip
    tokens = np.array([*Tokenizer().encode(text), 0])
    whole = trained_mask(tokens, "qa")
    assert (trained_mask(tokens, "qa", limit=limit) == whole[:limit]).all()


@given(TEXTS)
def test_cleaning_is_done_once(text: str) -> None:
    once = clean(text)
    assert clean(once) == once and "\n\n" not in once
    assert [*filter(str.strip, once.split("\n"))] == once.split("\n")


def test_lines_keep_their_indentation() -> None:
    assert clean("\n def f():\r\n\r\n  \n    return 1\n\n") == "def f():\n    return 1"


@pytest.mark.parametrize(
    "row, text",
    [
        ({"prompt": "a", "completion": "b"}, "User: a\n\nAssistant: b"),
        ({"question": "a", "answer": "b", "system": "s"}, "System: s\n\nUser: a\n\nAssistant: b"),
        ({"input": "a", "output": "b"}, "User: a\n\nAssistant: b"),
        ({"instruction": "a", "output": "b"}, "Instruction: a\n\nResponse: b"),
        (
            {"instruction": "a", "input": "x", "output": "b", "system": "s"},
            "System: s\n\nInstruction: a\n\nInput: x\n\nResponse: b",
        ),
        ({"prompt": "a", "response": "b", "think": "t"}, "User: a\n\nAssistant: <think>\nt\n</think>\nb"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
                          {"role": "assistant", "content": "c"}]},
            "User: a\nb\n\nAssistant: c",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"},
                               {"from": "gpt", "value": "b"}], "system": "s"},
            "System: s\n\nUser: a\n\nAssistant: b",
        ),
    ],
)  # fmt: skip
def test_each_kind_of_row(row: dict[str, Any], text: str) -> None:
    assert render(row) == text


def chat(*turns: tuple[object, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    "row, code, reason",
    [
        ({"x": 1}, "fields", 'it has "x"'),
        ({"messages": "hi"}, "fields", "a string, not a list"),
        ({"messages": []}, "fields", "a list, not a list of messages"),
        ({"messages": ["hi"]}, "fields", "message 1 is a string instead of an object"),
        (chat(("user", "a")), "answer", "last message has no answer"),
        (chat(("user", "a"), ("assistant", " ")), "answer", "message 2 is blank"),
        (chat(("user", "a"), ("assistant", None)), "answer", "message 2 has no text"),
        (chat(("user", "a"), ("user", "b")), "role", "message 2 is from the user, as the one before it"),
        (chat(("assistant", "a")), "role", "nothing was asked"),
        (chat(("system", "a"), ("assistant", "a")), "role", "nothing was asked"),
        (chat(("user", "a"), ("assistant", "b"), ("system", "c")), "role", "in the middle"),
        (chat(("user", "a"), ("tool", "b")), "role", "message 2 is from 'tool'"),
        (chat(("user", ""), ("assistant", "b")), "empty", "message 1 is empty"),
        (chat(("user", [{"image": 1}]), ("assistant", "b")), "fields", "parts that are no text"),
        ({"prompt": "a", "completion": ""}, "answer", "completion is empty"),
        ({"prompt": 3, "completion": "a"}, "fields", "prompt is a number"),
        ({"instruction": "a", "output": None}, "answer", "output is missing"),
    ],
)
def test_what_is_no_conversation_says_why(row: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        render(row)
    assert caught.value.code == code and reason in str(caught.value)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Human: {user}\r\n\r\n\r\nBot ({x}): {assistant}\n", "utf-8")
    template = read_template(tmp_path / "t.txt")
    assert (
        template.render([{"user": "{assistant}"}, {"assistant": "b"}]) == "Human: {assistant}\n\nBot ({x}): b"
    )
    assert not template.learned_by_qa() and Template().learned_by_qa()
    with pytest.raises(RowError, match=r"no block for its \{system\}"):
        template.render([{"system": "s"}])
    both = Template("User: {instruction}\n{input}\n\nUser: {instruction}\n\nAssistant: {response}")
    assert both.render([{"instruction": "i", "response": "r"}]) == "User: i\n\nAssistant: r"
    assert both.render([{"instruction": "i", "input": "x", "response": "r"}]) == "User: i\nx\n\nAssistant: r"


@pytest.mark.parametrize(
    "text, said",
    [("", "no template"), ("User: {user}", "place for an answer"), ("Hello\n\n" + TEXT, "'Hello'"),
     ("{assistant}{assistant}", "twice"), ("{assistant} " * 9000, "no template")],
)  # fmt: skip
def test_what_is_no_template_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(UserError, match=said):
        read_template(tmp_path / "t")


def test_fields_by_hand() -> None:
    shape = read_fields("prompt=q, answer=a")
    assert shape and groups_of({"q": "x", "a": "y", "text": "z"}, shape) == [
        {"user": "x"},
        {"assistant": "y"},
    ]
    assert read_fields("") is None and isinstance(read_fields("text=body"), Shape)
    for wrong in ("prompt=q", "text", "text=", "text=a,text=b", "foo=a", "text=a,answer=b", "system=s"):
        with pytest.raises(UserError, match="does not say"):
            read_fields(wrong)
