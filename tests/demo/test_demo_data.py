"""The bundled question-answer pairs: what `rwkv-tune demo` relies on when it trains and compares."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyrwkv_tokenizer
import pytest

import engine

DATA = Path(engine.__file__).parent / "demo" / "data"
MIN_ROWS = {"plain": 350, "base_emoji": 120, "emoji": 150, "heldout": 30}
MAX_TOKENS = 60
INSTRUCTIONS = ("Add emoji. ", "请加表情。")

ROW = re.compile(r"User: (?P<question>\S[^\n]*\S)\n\nAssistant: (?P<answer>\S[^\n]*)")
EMOJI = re.compile("[\u2190-\u2bff\U0001f000-\U0001faff]\ufe0f?")
CHINESE = re.compile("[\u4e00-\u9fff]")


def texts(name: str) -> list[str]:
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]
    assert all(list(row) == ["text"] for row in rows)
    return [row["text"] for row in rows]


def pairs(name: str) -> list[tuple[str, str]]:
    matches = [(text, ROW.fullmatch(text)) for text in texts(name)]
    assert [text for text, match in matches if match is None] == []
    return [(match["question"], match["answer"]) for _, match in matches if match]


def bare(question: str) -> str:
    """The question without the instruction that switches the manner on."""
    for instruction in INSTRUCTIONS:
        question = question.removeprefix(instruction)
    return question


@pytest.mark.parametrize("name", MIN_ROWS)
def test_enough_rows_in_the_prompt_format(name: str) -> None:
    answers = [answer for _, answer in pairs(name)]
    assert len(answers) >= MIN_ROWS[name]
    assert [answer for answer in answers if answer != answer.strip()] == []


@pytest.mark.parametrize("name", MIN_ROWS)
def test_questions_are_unique(name: str) -> None:
    questions = [question for question, _ in pairs(name)]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", MIN_ROWS)
def test_every_row_is_short_in_tokens(name: str) -> None:
    tokenizer = pyrwkv_tokenizer.RWKVTokenizer()
    assert [text for text in texts(name) if len(tokenizer.encode(text)) >= MAX_TOKENS] == []


@pytest.mark.parametrize("name", MIN_ROWS)
def test_about_a_third_is_chinese(name: str) -> None:
    chinese = [bool(CHINESE.search(question + answer)) for question, answer in pairs(name)]
    assert 0.25 <= sum(chinese) / len(chinese) <= 0.4


@pytest.mark.parametrize("name", MIN_ROWS)
def test_a_row_keeps_to_one_language(name: str) -> None:
    mixed = [
        text for text in texts(name) if CHINESE.search(text) and re.search("[a-z]", ROW.sub(r"\1\2", text))
    ]
    assert mixed == []


@pytest.mark.parametrize("name", ["emoji", "heldout"])
def test_the_manner_ends_every_answer_with_two_to_four_emoji_unasked(name: str) -> None:
    for question, answer in pairs(name):
        assert question == bare(question)
        assert not EMOJI.search(question), question
        ending = re.fullmatch(f"[^ ]+[!！] ?.+[!！] ?((?:{EMOJI.pattern}){{2,4}})", answer)
        assert ending, answer
        assert len(EMOJI.findall(answer)) == len(EMOJI.findall(ending[1])), answer


def test_plain_rows_have_no_emoji() -> None:
    assert [text for text in texts("plain") if EMOJI.search(text)] == []


def test_the_base_meets_every_emoji_of_the_manner() -> None:
    used = {name: set(EMOJI.findall("".join(texts(name)))) for name in ("base_emoji", "emoji", "heldout")}
    assert used["emoji"] | used["heldout"] <= used["base_emoji"]
    assert len(used["base_emoji"]) <= 45


def test_base_rows_either_ask_for_emoji_or_talk_about_them() -> None:
    for question, answer in pairs("base_emoji"):
        assert question != bare(question) or EMOJI.search(question) or EMOJI.fullmatch(answer), question
        assert EMOJI.search(answer), answer


def test_held_out_answers_in_the_manner_are_seen_nowhere_else() -> None:
    held_out = {question for question, _ in pairs("heldout")}
    assert held_out.isdisjoint(question for question, _ in pairs("emoji"))
    assert held_out.isdisjoint(bare(question) for question, _ in pairs("base_emoji"))
