"""What rows are made of: which fields hold what, found out from their names or told by hand."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.contract.errors import UserError
from engine.contract.i18n import N_, _

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

    def reach(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with those fields of objects in it that are called like `answer.text`."""
        for field in self.fields.values():
            if "." in field and field not in row:
                value: Any = row
                for name in field.split("."):
                    value = value.get(name) if isinstance(value, Mapping) else None
                if value is not None:
                    row = {**row, field: value}
        return row

    @functools.cached_property
    def _needed(self) -> frozenset[str]:
        return frozenset(field for part, field in self.fields.items() if part not in _OPTIONAL)


def _pair(name: str) -> Shape:
    question, answer = name.split(" and ")
    return Shape(name, {"system": "system", "prompt": question, "think": "think", "answer": answer})


SHAPES = (
    Shape(N_("text"), {"text": "text"}),
    Shape(N_("chat"), {"system": "system", "messages": "messages"}),
    Shape("ShareGPT", {"system": "system", "messages": "conversations"}),
    Shape(
        N_("instructions"),
        {"system": "system", "instruction": "instruction", "input": "input", "output": "output"},
    ),
    _pair(N_("prompt and completion")),
    _pair(N_("prompt and response")),
    _pair(N_("question and answer")),
    _pair(N_("query and response")),
    _pair(N_("input and output")),
)
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
            _("--fields {text} does not say what a row is made of.", text=text),
            _(
                "Write text=FIELD, messages=FIELD, prompt=FIELD,answer=FIELD or "
                "instruction=FIELD,output=FIELD; system=, input= and think= may be added, and FIELD may be "
                "one of an object, like reply.text."
            ),
        )
    return Shape("fields " + ",".join(f"{part}={field}" for part, field in fields.items()), fields)


def shape_of(row: Mapping[str, Any]) -> Shape:
    """The kind of a row; RowError naming the fields it has when it is none."""
    for shape in SHAPES:
        if shape.fits(row):
            return shape
    none = _("none of text, messages, prompt and completion is in it; it has {has}", has=_names(row))
    raise RowError("fields", none)


def lacks(field: str, row: Mapping[str, Any]) -> str:
    """Says that a row has no such field, and which it has."""
    return _('no "{field}" in it; it has {has}', field=field, has=_names(row))


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(itertools.islice(_fields(row), 8)) or _("nothing")


def _fields(row: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a row and, instead of an object, those in it."""
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from (f'"{name}.{inner}"' for inner in value)
        else:
            yield f'"{name}"' + (f" ({kind(value)})" if isinstance(value, list) else "")


def groups_of(row: Mapping[str, Any], shape: Shape) -> list[Group]:
    """What a row that is no plain text says, turn by turn; RowError when it is no conversation."""
    if not shape.fits(row):
        lacking = [f for part, f in shape.fields.items() if f not in row and part not in _OPTIONAL]
        raise RowError("fields", lacks(lacking[0], row))
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
        raise RowError("fields", _("its messages are {what}, not a list of messages", what=kind(messages)))
    groups: list[Group] = []
    last = SYSTEM if begun else ""
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise RowError(
                "fields",
                _("message {number} is {what} instead of an object", number=number, what=kind(message)),
            )
        role, value = (
            (message.get("from"), message.get("value"))
            if "from" in message
            else (message.get("role"), message.get("content"))
        )
        who = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
        if who is None:
            raise RowError(
                "role",
                _(
                    "message {number} is from {role!r}, who is no system, user or assistant",
                    number=number,
                    role=role,
                ),
            )
        _check_turn(number, last, who)
        last = who
        group = {who: _text(value, message=number, answer=who == ASSISTANT)}
        thought = next((message[name] for name in _THOUGHTS if message.get(name)), None)
        thought = _text(thought, THINK, message=number, optional=True)
        if who == ASSISTANT and thought:
            group = {THINK: thought, **group}
        groups.append(group)
    if last != ASSISTANT:
        raise RowError("answer", _("its last message has no answer"))
    return groups


def _check_turn(number: int, last: str, who: str) -> None:
    if who == last:
        raise RowError(
            "role", _("message {number} is from the {who}, as the one before it", number=number, who=who)
        )
    if who == SYSTEM and last:
        raise RowError(
            "role", _("message {number} is from the system, in the middle of the conversation", number=number)
        )
    if who == ASSISTANT and last != USER:
        raise RowError("role", _("message {number} answers, but nothing was asked before it", number=number))


def _text(
    value: object, name: str = "", *, message: int = 0, answer: bool = False, optional: bool = False
) -> str:
    """A text as it is, or the texts of a list of parts; "" for nothing only when it is `optional`.

    It is called by its field's name or by the number of its message, whose thoughts have a name, too.
    """
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        if any(not isinstance(part.get("text"), str) for part in value):
            raise RowError("fields", _("{name} has parts that are no text", name=_called(name, message)))
        value = "\n".join(part["text"] for part in value)
    if value is None and optional:
        return ""
    if value is None and answer:
        if message:
            raise RowError("answer", _("{name} has no text", name=_called(name, message)))
        raise RowError("answer", _("{name} is missing", name=name))
    if not isinstance(value, str):
        called = _called(name, message)
        raise RowError("fields", _("{name} is {what} instead of a text", name=called, what=kind(value)))
    if value.strip():
        return value
    if optional:
        return ""
    raise RowError("answer" if answer else "empty", blank(_called(name, message), value))


def _called(name: str, message: int) -> str:
    if not message:
        return name
    if name:
        return _("the thoughts of message {number}", number=message)
    return _("message {number}", number=message)


def blank(name: str, text: str) -> str:
    """Says that a text has nothing but space in it, or nothing at all."""
    return _("{name} is blank", name=name) if text else _("{name} is empty", name=name)


def kind(value: object) -> str:
    """A JSON value in words."""
    names = {
        dict: N_("an object"), list: N_("a list"), str: N_("a string"), bool: N_("true or false"),
        type(None): "null",
    }  # fmt: skip
    return _(names.get(type(value), N_("a number")))
