"""The page docs/parameters.md, made of the declarations by the command below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.contract.flags import spell
from engine.contract.incumbent import DEFAULTS_THERE, FOREIGN, MEANINGS, RENAMED, RESPELLED, SPREADING
from engine.contract.params import GROUPS, Param
from engine.contract.settings import train_params

COMMAND = "python -m engine.contract.reference > docs/parameters.md"
KINDS = {"int": "whole number", "float": "number", "bool": "0 or 1", "choice": "choice", "path": "path",
         "text": "text", "json": "JSON object"}  # fmt: skip


def render() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_groups(), *_incumbent()]) + "\n"


def _head() -> Iterable[str]:
    yield from (
        "# Parameters of a training run",
        "",
        f"Made by `{COMMAND}`; change the declarations, not this page.",
        "",
        "A parameter's name is its flag of `rwkv-tune train`, its key in a preset and its field in the form.",
        'Where "this release" restricts the values, anything else is refused before the run starts.',
    )  # fmt: skip


def _groups() -> Iterable[str]:
    for group in GROUPS:
        yield from ("", f"## {group[0].upper()}{group[1:]}", "")
        yield from _table(
            ("Flag", "Type", "Default", "Values", "Applies to", "What it does, and advice"),
            [_row(p) for p in train_params().values() if p.group == group],
        )


def _row(p: Param) -> tuple[str, ...]:
    default = spell(p.default)
    return (
        f"`{p.flag}`",
        KINDS[p.kind],
        f"`{default}`" if default else "required" if p.required else "empty",
        ", ".join(p.choices) or p.limits,
        ", ".join(p.methods) or "all",
        f"{p.help} {p.advice}".strip(),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _incumbent() -> Iterable[str]:
    yield from (
        "",
        "## Coming from RWKV-PEFT",
        "",
        "`rwkv-tune train` takes what follows `python train.py` in a script for RWKV-PEFT as it is (June",
        "2025 and January 2026); `rwkv-tune preset import SCRIPT.sh` makes a preset of the script.",
        "Flags above keep their name. What is different is said when it is met; any other flag is refused.",
        "",
        f"In a script for one device {', '.join(SPREADING)} are imported as auto: they spread a run over",
        "devices. One that offloads to the host's memory does more than that and stays as it is, and so does",
        "any on the command line.",
        "",
        "Where a script says nothing, train.py's own defaults are taken over by an import: "
        + ", ".join(f"{name} {value}" for name, value in DEFAULTS_THERE.items()) + ".",
        "On the command line the defaults above hold.",
        "",
    )  # fmt: skip
    yield from _table(("There", "Here"), [
        *((f"`--{old}`", f"`--{new} {value or ''}".rstrip() + "`") for old, (new, value) in RENAMED.items()),
        *((f"`--{name} {old}`", f"`--{name} {new}`") for (name, old), new in RESPELLED.items()),
        *((f"`--{name} {value}`", text) for (name, value), text in MEANINGS.items()),
    ])  # fmt: skip
    yield ""
    yield from _table(("Flag there", "What it did", "Here", "It is"), [
        (f"`--{name}`", f.there, f.here, _fate(f.harmless)) for name, f in FOREIGN.items()
    ])  # fmt: skip


def _fate(harmless: tuple[str, ...] | None) -> str:
    if harmless is None:
        return "refused"
    return f"left out when {' or '.join(harmless)}, else refused" if harmless else "left out"


if __name__ == "__main__":
    print(render(), end="")
