"""What a person has chosen about the program itself: how it looks (remembered), and its keys (their file)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import write_atomic
from engine.contract.i18n import _

THEME_NAMES = ("dark", "light", "contrast")
KEY = re.compile(r"[a-z]+(\+[a-z]+)*\+\S|[A-Za-z][a-z0-9_+]*|\S")
LARGEST = 1 << 16  # bytes


@dataclass(frozen=True)
class Look:
    """`theme` is one of THEME_NAMES; `ascii` draws with signs that any font has."""

    theme: str = "dark"
    ascii: bool = False


def read_look(folder: Path) -> Look:
    """The look that was chosen last; the usual one where nothing readable tells."""
    try:
        told = _mapping(folder / "look.yaml")
    except UserError:
        return Look()
    theme = told.get("theme")
    return Look(theme if theme in THEME_NAMES else "dark", told.get("ascii") is True)


def write_look(folder: Path, look: Look) -> None:
    """Remembers it. Raises UserError where that cannot be written."""
    import yaml  # which takes a moment, and most have no such file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "look.yaml", yaml.safe_dump(asdict(look)))
    except OSError as error:
        raise UserError(
            _(
                "The look is not remembered: cannot write to {folder} ({reason}).",
                folder=folder,
                reason=error.strerror,
            ),
            _("Check its permissions, or give --theme and --ascii each time."),
        ) from None


def keys_file(folder: Path) -> Path:
    """Where a person writes keys of their own, a line `id: key,key` each."""
    return folder / "keys.yaml"


def read_keys(folder: Path) -> dict[str, str]:
    """Keys by the id of what they do; empty without a file. Raises UserError for one that cannot be meant."""
    path = keys_file(folder)
    keys = {}
    for name, given in _mapping(path).items():
        words = [str(word).strip() for word in (given if isinstance(given, list) else str(given).split(","))]
        wrong = next((word for word in words if not KEY.fullmatch(word)), None)
        if wrong is not None or not words:
            raise UserError(
                _("{path}: {name}: {wrong!r} is no key.", path=path, name=name, wrong=wrong),
                _("Write keys like f5, ctrl+k, shift+left, x or ?."),
            )
        keys[str(name)] = ",".join(words)
    return keys


def _mapping(path: Path) -> dict[Any, Any]:
    """What a small YAML file of `key: value` lines holds; nothing where there is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST)
    except FileNotFoundError:
        return {}
    except OSError as error:
        where = f" ({error.strerror})"
        raise UserError(
            _("Cannot read {path}{where}.", path=path, where=where), _("Write one `name: value` a line.")
        ) from None
    import yaml

    try:
        told = yaml.safe_load(raw.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        where = _(" in line {line}", line=place.line + 1) if place else f" ({_('not UTF-8')})"
        raise UserError(
            _("Cannot read {path}{where}.", path=path, where=where), _("Write one `name: value` a line.")
        ) from None
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise UserError(_("Cannot read {path}.", path=path), _("Write one `name: value` a line."))
    return told
