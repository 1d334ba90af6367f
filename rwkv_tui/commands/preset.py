"""`rwkv-tune preset ...`"""

from __future__ import annotations

import argparse

from engine.contract.errors import UserError
from engine.contract.paths import UserPaths
from engine.contract.presets import PresetStore


def _store() -> PresetStore:
    return PresetStore(UserPaths.of_user().presets)


def show_list(args: argparse.Namespace) -> int:
    for preset in _store().all():
        print(f"{preset.name:<20} {'shipped' if preset.shipped else 'yours':<8} {preset.summary}")
    return 0


def show(args: argparse.Namespace) -> int:
    print(_store().get(args.name).text, end="")
    return 0


def save(args: argparse.Namespace) -> int:
    try:
        text = args.source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {args.source} ({error}).", "Give a YAML file of settings.") from None
    print(_store().save(args.name, text))
    return 0


def delete(args: argparse.Namespace) -> int:
    _store().delete(args.name)
    print(f"deleted {args.name}")
    return 0
