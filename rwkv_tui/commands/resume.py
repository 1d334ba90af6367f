"""`rwkv-tune resume`: goes on with a run that was stopped, killed or failed, and shows it."""

from __future__ import annotations

import argparse

from engine.contract.paths import UserPaths
from rwkv_tui.commands.follow import follow, renderer
from rwkv_tui.services.launch import resume as relaunch
from rwkv_tui.services.runs import find_run


def resume(args: argparse.Namespace) -> int:
    name, run = find_run(UserPaths.of_user().runs, args.run)
    told = relaunch(name, run)
    return follow(name, run, renderer(args.json), since=told)
