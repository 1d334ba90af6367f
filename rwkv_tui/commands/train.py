"""`rwkv-tune train`: starts a run and shows it without screens."""

from __future__ import annotations

import argparse

from engine.contract.check import require_settings
from engine.contract.events import dump_json
from engine.contract.flags import given_flags
from engine.contract.paths import UserPaths
from engine.contract.plain import say, say_json
from engine.contract.presets import PresetStore
from engine.contract.risks import risks
from engine.contract.rundir import RunDir
from rwkv_tui.commands.follow import follow, renderer
from rwkv_tui.services.launch import launch


def train(args: argparse.Namespace) -> int:
    paths = UserPaths.of_user()
    values: dict[str, object] = {}
    if args.preset:
        values.update(PresetStore(paths.presets).get(args.preset).values)
    values.update(given_flags(args))
    settings = require_settings(values)
    show = renderer(args.json)
    for note in (*args.notes, *risks(settings)):
        if args.detach:
            say(str(note), error=True)
        else:
            show.note(f"{note}")
    name, run = launch(settings, paths)
    return tell_started(name, run, json=args.json) if args.detach else follow(name, run, show)


def tell_started(name: str, run: RunDir, *, json: bool) -> int:
    """Prints the run's name, or a document about it, and leaves it to itself."""
    owner = run.owner()
    document = {"name": name, "proj_dir": str(run.path), "pid": owner.pid if owner else None}
    if json:
        say_json(dump_json(document))
    else:
        say(name)
    return 0
