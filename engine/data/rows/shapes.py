"""What rows are made of: which fields hold what, found out from their names or told by hand."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.contract.errors import UserError

Group = dict[str, str]
"""What one block of the template says or several together do: texts by the names of their places."""

USER, ASSISTANT, SYSTEM, THINK = "user", "assistant", "system", "think"

ROLES = {
    "system": SYSTEM, "user": USER, "human": USER, "prompter": USER,
    "assistant": ASSISTANT, "gpt": ASSISTANT, "bot": ASSISTANT, "chatgpt": ASSISTANT, "model": ASSISTANT,
}  # fmt: skip
"""Whose turn it is, by the names that chat files use."""

_OPTIONAL = ("system", "input", "think")
_THOUGHTS = ("think", "thinking", "reasoning_content", "reasoning")


class RowError(ValueError):
    """Why a row cannot be a document; `code` sorts it among the findings."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Shape:
    """A kind of row: the field that each part is read from."""

    name: str
    fields: Mapping[str, str]

    def fits(self, columns: Collection[str]) -> bool:
        """Whether a row with these fields is of this kind."""
        return self._needed.issubset(columns)

    @functools.cached_property
    def _needed(self) -> frozenset[str]:
        return frozenset(field for part, field in self.fields.items() if part not in _OPTIONAL)


def _pair(question: str, answer: str) -> Shape:
    fields = {"system": "system", "prompt": question, "think": "think", "answer": answer}
    return Shape(f"{question} and {answer}", fields)


SHAPES = (
    Shape("text", {"text": "text"}),
    Shape("chat", {"system": "system", "messages": "messages"}),
    Shape("ShareGPT", {"system": "system", "messages": "conversations"}),
    Shape(
        "instructions",
        {"system": "system", "instruction": "instruction", "input": "input", "output": "output"},
    ),
    *(_pair(*both) for both in (
        ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"),
        ("input", "output"),
    )),
)  # fmt: skip
"""The kinds, the first that fits a row being the one it is."""

_PARTS = ({"text"}, {"messages"}, {"instruction", "output"}, {"prompt", "answer"})


def read_fields(text: str) -> Shape | None:
    """The kind that `prompt=question,answer=reply` describes; None for nothing.

    Parts are text; messages (and system); instruction, input, output (and system); prompt, answer (and
    system, think). Raises UserError for anything else.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    fields = {part.strip(): field.strip() for part, _, field in pairs}
    if not fields:
        return None
    needed = set(fields) - set(_OPTIONAL)
    if needed not in _PARTS or not all(fields.values()) or len(fields) != len(pairs):
        raise UserError(
            f"--fields {text} does not say what a row is made of.",
            "Write text=FIELD, messages=FIELD, prompt=FIELD,answer=FIELD or instruction=FIELD,output=FIELD; "
            "system=, input= and think= may be added.",
        )
    return Shape("fields " + ",".join(f"{part}={field}" for part, field in fields.items()), fields)


def shape_of(row: Mapping[str, Any]) -> Shape:
    """The kind of a row; RowError naming the fields it has when it is none."""
    for shape in SHAPES:
        if shape.fits(row):
            return shape
    has = ", ".join(f'"{name}"' for name in list(row)[:8]) or "nothing"
    raise RowError("fields", f"none of text, messages, prompt and completion is in it; it has {has}")


def groups_of(row: Mapping[str, Any], shape: Shape) -> list[Group]:
    """What a row that is no plain text says, turn by turn; RowError when it is no conversation."""
    if not shape.fits(row):
        lacking = [f for part, f in shape.fields.items() if f not in row and part not in _OPTIONAL]
        raise RowError("fields", f'no "{lacking[0]}" in it')
    part = {name: row.get(field) for name, field in shape.fields.items()}
    system = _text(part.get("system"), "system", optional=True)
    before = [{SYSTEM: system}] if system else []
    if "messages" in part:
        return before + _conversation(part["messages"], begun=bool(before))
    if "instruction" in part:
        given = _text(part.get("input"), "input", optional=True)
        return [*before, {
            "instruction": _text(part["instruction"], shape.fields["instruction"]),
            **({"input": given} if given else {}),
            "response": _text(part["output"], shape.fields["output"], answer=True),
        }]  # fmt: skip
    thought = _text(part.get("think"), "think", optional=True)
    answer = _text(part["answer"], shape.fields["answer"], answer=True)
    return [
        *before,
        {USER: _text(part["prompt"], shape.fields["prompt"])},
        {**({THINK: thought} if thought else {}), ASSISTANT: answer},
    ]


def _conversation(messages: object, begun: bool) -> list[Group]:
    """Messages with role and content or from and value: questions and answers in turn, an answer last."""
    if not isinstance(messages, list) or not messages:
        raise RowError("fields", f"its messages are {kind(messages)}, not a list of messages")
    groups: list[Group] = []
    last = SYSTEM if begun else ""
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise RowError("fields", f"message {number} is {kind(message)} instead of an object")
        role, value = (
            (message.get("from"), message.get("value"))
            if "from" in message
            else (message.get("role"), message.get("content"))
        )
        who = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
        if who is None:
            raise RowError("role", f"message {number} is from {role!r}, who is no system, user or assistant")
        _check_turn(number, last, who)
        last = who
        group = {who: _text(value, f"message {number}", answer=who == ASSISTANT)}
        thought = next((message[name] for name in _THOUGHTS if message.get(name)), None)
        thought = _text(thought, f"the thoughts of message {number}", optional=True)
        if who == ASSISTANT and thought:
            group = {THINK: thought, **group}
        groups.append(group)
    if last != ASSISTANT:
        raise RowError("answer", "its last message has no answer")
    return groups


def _check_turn(number: int, last: str, who: str) -> None:
    if who == last:
        raise RowError("role", f"message {number} is from the {who}, as the one before it")
    if who == SYSTEM and last:
        raise RowError("role", f"message {number} is from the system, in the middle of the conversation")
    if who == ASSISTANT and last != USER:
        raise RowError("role", f"message {number} answers, but nothing was asked before it")


def _text(value: object, name: str, *, answer: bool = False, optional: bool = False) -> str:
    """A text as it is, or the texts of a list of parts; "" for nothing only when it is `optional`."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        if any(not isinstance(part.get("text"), str) for part in value):
            raise RowError("fields", f"{name} has parts that are no text")
        value = "\n".join(part["text"] for part in value)
    if value is None and optional:
        return ""
    if value is None and answer:
        raise RowError("answer", f"{name} is missing")
    if not isinstance(value, str):
        raise RowError("fields", f"{name} is {kind(value)} instead of a text")
    if value.strip():
        return value
    if optional:
        return ""
    raise RowError("answer" if answer else "empty", f"{name} is {'blank' if value else 'empty'}")


def kind(value: object) -> str:
    """A JSON value in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
