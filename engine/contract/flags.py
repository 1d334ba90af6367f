"""The settings as command-line flags, and back."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import TYPE_CHECKING, Any

from engine.contract.i18n import _, sentences

if TYPE_CHECKING:
    from engine.contract.params import Param
    from engine.contract.settings import TrainSettings

_METAVARS = {"bool": "{0,1}", "int": "N", "float": "X"}
# Flags of the command itself, beside a run's parameters, and whether they take a value.
OWN_FLAGS = {"--preset": True, "--json": False, "--detach": False, "--help": False, "-h": False}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each parameter. Values stay text: `check` turns them into settings and explains errors."""
    groups: dict[str, Any] = {}
    for p in _params().values():
        group = groups.setdefault(p.group, parser.add_argument_group(_(p.group)))
        choices = "{" + ",".join(p.choices) + "}"
        long = len(choices) > 40  # a list that would not fit a line goes into the text
        metavar = "CHOICE" if long else choices if p.choices else _METAVARS.get(p.kind, p.kind.upper())
        one_of = _("One of {choices}.", choices=", ".join(p.choices)) if long else ""
        text = sentences(p.help, p.advice, one_of).replace("%", "%%")
        shown = _("required") if p.required else _("default: {value}", value=spell(p.default) or _("empty"))
        group.add_argument(
            p.flag, metavar=metavar, default=argparse.SUPPRESS,
            help=_("{text} ({shown})", text=text, shown=shown),
        )  # fmt: skip


def given_flags(namespace: argparse.Namespace) -> dict[str, str]:
    """The parameters that were given on the command line, as text."""
    return {name: value for name, value in vars(namespace).items() if name in _params()}


def changed(settings: TrainSettings) -> dict[str, Any]:
    """The settings that differ from their default."""
    return {
        name: getattr(settings, name) for name, p in _params().items() if getattr(settings, name) != p.default
    }


def spell(value: Any) -> str:
    """A value as one writes it behind its flag or into a form."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return json.dumps(value) if isinstance(value, dict) and value else "" if value == {} else str(value)


def flag_words(name: str, text: str) -> list[str]:
    """A flag and its value; in one word when the value would itself be taken for a flag."""
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def command(settings: TrainSettings) -> str:
    """The `rwkv-tune train` command that does the same."""
    words = ["rwkv-tune", "train"]
    for name, value in changed(settings).items():
        words += flag_words(name, spell(value))
    return shlex.join(words)


def _params() -> dict[str, Param]:
    """All parameters. pydantic takes a moment to load, and to spell a value it is not needed."""
    from engine.contract.settings import train_params

    return train_params()
