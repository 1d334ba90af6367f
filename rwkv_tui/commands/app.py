"""`rwkv-tune` without a command: the application."""

from __future__ import annotations

import argparse
import gc
import os
import sys

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.paths import UserPaths


def require_terminal() -> None:
    """Raises UserError where no screen can be shown."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            _("The screens need a terminal."),
            _("Without one use `rwkv-tune train --help` or `rwkv-tune demo --headless`."),
        )


def in_tmux() -> bool:
    return "TMUX" in os.environ


def open_app(args: argparse.Namespace) -> int:
    require_terminal()
    gc.disable()  # until the first frame: looking for garbage where there is none takes a tenth of the time
    from rwkv_tui.app import TuneApp

    TuneApp(UserPaths.of_user(), theme=args.theme, ascii=args.ascii, tmux=in_tmux()).run()
    return 0
