"""How one declaration of a parameter is written down and read back.

`param(...)` declares a pydantic field with what flags, forms, presets and documentation need;
`Param` is that declaration as those four readers see it. Its sentences need no mark: docs/messages.py
takes them from here.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from engine.contract.i18n import _

Kind = Literal["int", "float", "bool", "choice", "path", "text", "json"]
Group = Literal["files", "important", "learning rate", "data", "model", "method", "hardware", "log"]  # unsaid
GROUPS: tuple[Group, ...] = get_args(Group)


def param(
    default: Any,
    help: str,
    *,
    group: Group,
    advice: str = "",
    methods: tuple[str, ...] = (),
    required: bool = False,
    typed_only: bool = False,
    **limits: Any,
) -> Any:
    """A settings field. `help` says what it does, `advice` how to choose it, `methods` who reads it
    (empty: all of them), `required` that a run cannot start while it is unset, `typed_only` that no file may
    bring it, `limits` go to pydantic."""
    extra: Any = {"group": group, "advice": advice, "methods": list(methods), "required": required,
                  "typed_only": typed_only}  # fmt: skip
    return Field(default, description=help, json_schema_extra=extra, **limits)


@dataclass(frozen=True)
class Param:
    """One parameter as flags, forms, presets and documentation see it."""

    name: str
    kind: Kind
    default: Any
    english: tuple[str, str]
    group: Group
    choices: tuple[str, ...]
    methods: tuple[str, ...]
    required: bool
    typed_only: bool
    limits: str

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def help(self) -> str:
        """What it does, in the language of this process; `english` as it was declared."""
        return _(self.english[0])

    @property
    def advice(self) -> str:
        """How to choose it, in the language of this process."""
        return _(self.english[1])


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return inner[0]
    return annotation


def _kind(annotation: Any) -> Kind:
    if get_origin(annotation) is Literal:
        return "choice"
    if get_origin(annotation) is dict:
        return "json"
    kinds: dict[Any, Kind] = {int: "int", float: "float", bool: "bool", Path: "path", str: "text"}
    return kinds[annotation]


def _limits(info: FieldInfo) -> str:
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    found = [
        f"{sign} {getattr(m, name):g}" for m in info.metadata for name, sign in signs if hasattr(m, name)
    ]
    return ", ".join(found)


def params_of(model: type[BaseModel]) -> dict[str, Param]:
    """Every declared parameter of a settings model, in order of declaration."""
    return {name: _param(name, info) for name, info in model.model_fields.items()}


def _param(name: str, info: FieldInfo) -> Param:
    annotation = _without_none(info.annotation)
    extra: Any = info.json_schema_extra
    default = info.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        raise TypeError(f"parameter {name} has no default")  # unsaid
    return Param(
        name=name,
        kind=_kind(annotation),
        default=default,
        english=(info.description or "", extra["advice"]),
        group=extra["group"],
        choices=tuple(map(str, get_args(annotation))) if _kind(annotation) == "choice" else (),
        methods=tuple(extra["methods"]),
        required=extra["required"],
        typed_only=extra["typed_only"],
        limits=_limits(info),
    )
