"""RWKV-PEFT's training scripts as files: read, and kept as presets. Nothing in them is run."""

from __future__ import annotations

import re
from pathlib import Path

from engine.contract.errors import Problem, SettingsError, UserError, why
from engine.contract.i18n import _
from engine.contract.presets import PresetStore
from engine.contract.script import Script, read_script

LARGEST = 1 << 16  # bytes


def read_script_file(path: Path) -> Script:
    """What its training commands would do here. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            data: bytes = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            told = _("{path} is larger than a script would be.", path=path)
            raise UserError(told, _("Give a shell script."))
        return read_script(data.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        told = _("Cannot read {path} ({reason}).", path=path, reason=why(error))
        raise UserError(told, _("Give a shell script.")) from None


def save_script(script: Script, path: Path, store: PresetStore, name: str = "") -> dict[str, Path]:
    """A preset for each training command, by name (without one the script's), and where it lies.

    Raises SettingsError, saving nothing, when a command could not run here.
    """
    problems = [problem for run in script.runs for problem in run.problems]
    if problems:
        raise SettingsError([*problems, Problem("", _("nothing was saved"))], str(path))
    name = name or re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "imported"
    saved = {}
    for number, run in enumerate(script.runs, 1):
        own = name if number == 1 else f"{name}-{number}"
        saved[own] = store.save(own, run.to_yaml(_("Imported from {name}.", name=path.name)))
    return saved
