"""`rwkv-tune model ...`, `rwkv-tune eval` and `rwkv-tune export`."""

from __future__ import annotations

import argparse

from engine.contract.plain import say, say_json
from rwkv_tui.services.engine import become_engine


def inspect(args: argparse.Namespace) -> int:
    from engine.checkpoints.inspect import inspect_model

    info = inspect_model(args.file)
    if args.json:
        say_json(info.model_dump_json(indent=2))
    else:
        for name, value in info.model_dump().items():
            say(f"{name:<12} {value:,}" if isinstance(value, int) else f"{name:<12} {value}")
    return 0


def init(args: argparse.Namespace) -> int:
    return become_engine("init", args.given)


def evaluate(args: argparse.Namespace) -> int:
    return become_engine("evaluate", args.given)


def export(args: argparse.Namespace) -> int:
    return become_engine("export", args.given)
