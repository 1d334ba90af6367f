"""`rwkv-tune merge`."""

from __future__ import annotations

import argparse

from rwkv_tui.services.engine import become_engine


def merge(args: argparse.Namespace) -> int:
    return become_engine("merge", args.given)
