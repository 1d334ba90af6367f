"""`rwkv-tune preset ...`"""

from __future__ import annotations

import argparse

from engine.contract.errors import UserError, why
from engine.contract.i18n import _
from engine.contract.paths import UserPaths
from engine.contract.plain import say, say_file
from engine.contract.presets import PresetStore
from rwkv_tui.plain import column


def _store() -> PresetStore:
    return PresetStore(UserPaths.of_user().presets)


def show_list(args: argparse.Namespace) -> int:
    for preset in _store().all():
        whose = _("shipped") if preset.shipped else _("yours")
        say(f"{preset.name:<20} {column(whose, 8)} {_(preset.summary)}")
    return 0


def show(args: argparse.Namespace) -> int:
    say_file(_store().get(args.name).text)
    return 0


def save(args: argparse.Namespace) -> int:
    try:
        text = args.source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            _("Cannot read {source} ({error}).", source=args.source, error=why(error)),
            _("Give a YAML file of settings."),
        ) from None
    say(str(_store().save(args.name, text)))
    return 0


def import_script(args: argparse.Namespace) -> int:
    """Tells line by line what the script's commands would not do here; saves only what could run."""
    from rwkv_tui.services.scripts import read_script_file, save_script

    script = read_script_file(args.script)
    for note in script.notes:
        say(note)
    for name, path in save_script(script, args.script, _store(), args.name or "").items():
        say(_("saved as {name}: {path}", name=name, path=path))
    return 0


def export(args: argparse.Namespace) -> int:
    from engine.contract.script import write_script

    preset = _store().get(args.name)
    say_file(write_script(preset.values, preset.summary or preset.name))
    return 0


def delete(args: argparse.Namespace) -> int:
    _store().delete(args.name)
    say(_("deleted {name}", name=args.name))
    return 0
