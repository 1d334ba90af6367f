"""`rwkv-tune train`: starts a run and shows it without screens."""

from __future__ import annotations

import argparse

from engine.contract.check import require_settings, risks
from engine.contract.flags import given_flags
from engine.contract.incumbent import on_one_device
from engine.contract.paths import UserPaths
from engine.contract.presets import PresetStore
from rwkv_tui.commands.follow import follow, renderer
from rwkv_tui.services.launch import launch


def train(args: argparse.Namespace) -> int:
    paths = UserPaths.of_user()
    values: dict[str, object] = {}
    if args.preset:
        values.update(PresetStore(paths.presets).get(args.preset).values)
    values.update(given_flags(args))
    values, replaced = on_one_device(values)
    settings = require_settings(values)
    show = renderer(args.json)
    for note in (*args.notes, *replaced, *risks(settings)):
        show.note(f"{note}")
    name, run = launch(settings, paths)
    return follow(name, run, show)
