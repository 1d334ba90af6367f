"""Which operator computes a recurrence here, and why not another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.contract.errors import UserError
from engine.ops.wkv6 import WKV6
from engine.ops.wkv6.chunked import wkv6_chunked
from engine.ops.wkv6.reference import wkv6_reference
from engine.ops.wkv7 import WKV7
from engine.ops.wkv7.chunked import wkv7_chunked
from engine.ops.wkv7.reference import wkv7_reference

WKV6_OPERATORS: dict[str, WKV6] = {"chunked": wkv6_chunked, "reference": wkv6_reference}
WKV7_OPERATORS: dict[str, WKV7] = {"chunked": wkv7_chunked, "reference": wkv7_reference}
NOT_YET = ("cuda", "fla", "triton")

Operator = TypeVar("Operator")


@dataclass(frozen=True)
class Selected(Generic[Operator]):
    """The chosen operator; `reasons` says of every other one why it was not."""

    name: str
    function: Operator
    reasons: dict[str, str]


def select_wkv6(op: str, device_type: str) -> Selected[WKV6]:
    """The operator that `op` asks for, or with "auto" the fastest one that works on `device_type`.

    Raises UserError when it does not exist or is not available.
    """
    return _select(WKV6_OPERATORS, op, device_type)


def select_wkv7(op: str, device_type: str) -> Selected[WKV7]:
    """As `select_wkv6`."""
    return _select(WKV7_OPERATORS, op, device_type)


def select_for(version: str, op: str, device_type: str) -> Selected[Any]:
    """The operator of a version's recurrence."""
    return (select_wkv7 if version == "x070" else select_wkv6)(op, device_type)


def _select(operators: Mapping[str, Operator], op: str, device_type: str) -> Selected[Operator]:
    choices = ", ".join(["auto", *operators])
    if op in NOT_YET:
        raise UserError(f"op: {op} is not available in this release.", f"Use {choices}.")
    if op != "auto" and op not in operators:
        raise UserError(f"op: there is no operator {op!r}.", f"Use {choices}.")
    name = "chunked" if op == "auto" else op
    declined = {"reference": f"step by step: slower than chunked on {device_type}", "chunked": ""}
    if op != "auto":
        declined = dict.fromkeys(operators, f"{op} was asked for")
    reasons = {other: why for other, why in declined.items() if other != name}
    reasons |= dict.fromkeys(NOT_YET, "not in this release")
    return Selected(name, operators[name], reasons)
