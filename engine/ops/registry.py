"""Which operator computes a recurrence here, and why not another one."""

from __future__ import annotations

from dataclasses import dataclass

from engine.contract.errors import UserError
from engine.ops.wkv7 import WKV7
from engine.ops.wkv7.chunked import wkv7_chunked
from engine.ops.wkv7.reference import wkv7_reference

WKV7_OPERATORS: dict[str, WKV7] = {"chunked": wkv7_chunked, "reference": wkv7_reference}
NOT_YET = ("cuda", "fla", "triton")


@dataclass(frozen=True)
class Selected:
    """The chosen operator; `reasons` says of every other one why it was not."""

    name: str
    function: WKV7
    reasons: dict[str, str]


def select_wkv7(op: str, device_type: str) -> Selected:
    """The operator that `op` asks for, or with "auto" the fastest one that works on `device_type`.

    Raises UserError when it does not exist or is not available.
    """
    if op in NOT_YET:
        raise UserError(f"op: {op} is not available in this release.", f"Use {_choices()}.")
    if op != "auto" and op not in WKV7_OPERATORS:
        raise UserError(f"op: there is no operator {op!r}.", f"Use {_choices()}.")
    name = "chunked" if op == "auto" else op
    declined = {"reference": f"step by step: slower than chunked on {device_type}", "chunked": ""}
    if op != "auto":
        declined = dict.fromkeys(WKV7_OPERATORS, f"{op} was asked for")
    reasons = {other: why for other, why in declined.items() if other != name}
    reasons |= dict.fromkeys(NOT_YET, "not in this release")
    return Selected(name, WKV7_OPERATORS[name], reasons)


def _choices() -> str:
    return ", ".join(["auto", *WKV7_OPERATORS])
