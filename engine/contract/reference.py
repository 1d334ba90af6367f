"""The page of parameters in each language, made of their declarations by `command()`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from engine.contract.flags import spell
from engine.contract.i18n import N_, _, choose, p_, sentences, spoken
from engine.contract.incumbent import DEFAULTS_THERE, FOREIGN, MEANINGS, RENAMED, RESPELLED, SPREADING
from engine.contract.params import GROUPS, Param
from engine.contract.settings import train_params

PAGES = {"en": "docs/parameters.md", "zh": "docs/parameters.zh.md"}
KINDS = {"int": N_("whole number"), "float": N_("number"), "bool": N_("0 or 1"), "choice": N_("choice"),
         "path": N_("path"), "text": N_("text"), "json": N_("JSON object")}  # fmt: skip


def command() -> str:
    """What makes the page in the language of this process."""
    return f"python -m engine.contract.reference --lang {spoken()} > {PAGES[spoken()]}"


def render() -> str:
    """The whole page, in the language of this process."""
    return "\n".join([*_head(), *_groups(), *_incumbent()]) + "\n"


def _head() -> Iterable[str]:
    yield from (
        f"# {_('Parameters of a training run')}",
        "",
        _("Made by `{command}`; change the declarations, not this page.", command=command()),
        "",
        _(
            "A parameter's name is its flag of `rwkv-tune train`, its key in a preset and its field "
            "in the form."
        ),
        _('Where "this release" restricts the values, anything else is refused before the run starts.'),
    )


def _groups() -> Iterable[str]:
    columns = (_("Flag"), _("Type"), _("Default"), _("Values"), _("Applies to"),
               _("What it does, and advice"))  # fmt: skip
    for group in GROUPS:
        title = _(group)
        yield from ("", f"## {title[0].upper()}{title[1:]}", "")
        yield from _table(columns, [_row(p) for p in train_params().values() if p.group == group])


def _row(p: Param) -> tuple[str, ...]:
    default = spell(p.default)
    return (
        f"`{p.flag}`",
        _(KINDS[p.kind]),
        f"`{default}`" if default else _("required") if p.required else p_("value", "empty"),
        ", ".join(p.choices) or p.limits,
        ", ".join(p.methods) or _("all"),
        sentences(p.help, p.advice),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _incumbent() -> Iterable[str]:
    defaults = ", ".join(f"{name} {value}" for name, value in DEFAULTS_THERE.items())
    yield from (
        "",
        f"## {_('Coming from RWKV-PEFT')}",
        "",
        _(
            "`rwkv-tune train` takes what follows `python train.py` in a script for RWKV-PEFT as it is (June "
            "2025 and January 2026); `rwkv-tune preset import SCRIPT.sh` makes a preset of the script. Flags "
            "above keep their name. What is different is said when it is met; any other flag is refused."
        ),
        "",
        _(
            "In a script for one device {strategies} are imported as auto: they spread a run over devices. "
            "One that offloads to the host's memory does more than that and stays as it is, and so does "
            "any on the command line.",
            strategies=", ".join(SPREADING),
        ),
        "",
        _(
            "Where a script says nothing, train.py's own defaults are taken over by an import: {defaults}. "
            "On the command line the defaults above hold.",
            defaults=defaults,
        ),
        "",
    )
    yield from _table((_("There"), _("Here")), [
        *((f"`--{old}`", f"`--{new} {value or ''}".rstrip() + "`") for old, (new, value) in RENAMED.items()),
        *((f"`--{name} {old}`", f"`--{name} {new}`") for (name, old), new in RESPELLED.items()),
        *((f"`--{name} {value}`", _(text)) for (name, value), text in MEANINGS.items()),
    ])  # fmt: skip
    yield ""
    yield from _table((_("Flag there"), _("What it did"), _("Here"), _("It is")), [
        (f"`--{name}`", _(f.there), _(f.here), _fate(f.harmless)) for name, f in FOREIGN.items()
    ])  # fmt: skip


def _fate(harmless: tuple[str, ...] | None) -> str:
    if harmless is None:
        return _("refused")
    if not harmless:
        return _("left out")
    return _("left out when {values}, else refused", values=" | ".join(harmless))


if __name__ == "__main__":
    choose(sys.argv[1:], os.environ)
    print(render(), end="")
