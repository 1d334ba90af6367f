"""`rwkv-tune resume`: goes on with a run that was stopped, killed or failed, and shows it."""

from __future__ import annotations

import argparse
from contextlib import suppress

from engine.contract.paths import UserPaths
from engine.contract.rundir import RunList
from rwkv_tui.commands.follow import follow, renderer
from rwkv_tui.commands.train import tell_started
from rwkv_tui.services.launch import resume as relaunch
from rwkv_tui.services.runs import find_run


def resume(args: argparse.Namespace) -> int:
    runs = UserPaths.of_user().runs
    name, run = find_run(runs, args.run)
    told = relaunch(name, run, RunList(runs))
    if all(listed.path != run.path for _name, listed in RunList(runs).all()):  # from another machine or home
        with suppress(OSError):
            name = RunList(runs).add(run.path)
    if args.detach:
        return tell_started(name, run, json=args.json)
    return follow(name, run, renderer(args.json), since=told)
