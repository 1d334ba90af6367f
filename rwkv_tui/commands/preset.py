"""`rwkv-tune preset ...`"""

from __future__ import annotations

import argparse
import re

from engine.contract.errors import Problem, SettingsError, UserError
from engine.contract.paths import UserPaths
from engine.contract.plain import say, say_file
from engine.contract.presets import PresetStore

LARGEST_SCRIPT = 1 << 16  # bytes


def _store() -> PresetStore:
    return PresetStore(UserPaths.of_user().presets)


def show_list(args: argparse.Namespace) -> int:
    for preset in _store().all():
        say(f"{preset.name:<20} {'shipped' if preset.shipped else 'yours':<8} {preset.summary}")
    return 0


def show(args: argparse.Namespace) -> int:
    say_file(_store().get(args.name).text)
    return 0


def save(args: argparse.Namespace) -> int:
    try:
        text = args.source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {args.source} ({error}).", "Give a YAML file of settings.") from None
    say(str(_store().save(args.name, text)))
    return 0


def import_script(args: argparse.Namespace) -> int:
    """Tells line by line what the script's commands would not do here; saves only what could run."""
    from engine.contract.script import read_script

    script = read_script(_read_script(args))
    for note in script.notes:
        say(note)
    problems = [problem for run in script.runs for problem in run.problems]
    if problems:
        raise SettingsError([*problems, Problem("", "nothing was saved")], str(args.script))
    name = args.name or re.sub(r"[^\w.-]+", "-", args.script.stem).strip("-.") or "imported"
    store, title = _store(), f"Imported from {args.script.name}."
    for number, run in enumerate(script.runs, 1):
        own = name if number == 1 else f"{name}-{number}"
        say(f"saved as {own}: {store.save(own, run.to_yaml(title))}")
    return 0


def _read_script(args: argparse.Namespace) -> str:
    try:
        with args.script.open("rb") as file:
            data: bytes = file.read(LARGEST_SCRIPT + 1)
        if len(data) > LARGEST_SCRIPT:
            raise UserError(f"{args.script} is larger than a script would be.", "Give a shell script.")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {args.script} ({error}).", "Give a shell script.") from None


def export(args: argparse.Namespace) -> int:
    from engine.contract.script import write_script

    preset = _store().get(args.name)
    say_file(write_script(preset.values, preset.summary or preset.name))
    return 0


def delete(args: argparse.Namespace) -> int:
    _store().delete(args.name)
    say(f"deleted {args.name}")
    return 0
