"""`rwkv-tune attach`: looks at a run, in the monitor or without screens, and never touches it."""

from __future__ import annotations

import argparse
import sys

from engine.contract.paths import UserPaths
from rwkv_tui.commands.app import in_tmux
from rwkv_tui.services.runs import find_run


def attach(args: argparse.Namespace) -> int:
    """Exit status without screens: as for train; 130 as well when Ctrl-C left the run to itself."""
    paths = UserPaths.of_user()
    name, run = find_run(paths.runs, args.run)
    if sys.stdin.isatty() and sys.stdout.isatty() and not args.json and not args.plain:
        from rwkv_tui.app import TuneApp

        TuneApp(paths, run=(name, run), theme=args.theme, ascii=args.ascii, tmux=in_tmux()).run()
        return 0
    from rwkv_tui.commands.follow import follow, renderer

    return follow(name, run, renderer(args.json), owning=False)
