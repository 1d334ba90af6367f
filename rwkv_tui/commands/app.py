"""`rwkv-tune` without a command: the application."""

from __future__ import annotations

import argparse
import sys

from engine.contract.errors import UserError
from engine.contract.paths import UserPaths


def open_app(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "The screens need a terminal.", "Without one use `rwkv-tune train --help` or `rwkv-tune demo --headless`."
        )
    from rwkv_tui.app import TuneApp

    TuneApp(UserPaths.of_user()).run()
    return 0
