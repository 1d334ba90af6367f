"""`rwkv-tune data ...`"""

from __future__ import annotations

import argparse
import signal
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from engine.contract.plain import say, say_json


def convert(args: argparse.Namespace) -> int:
    """Converts in this process: it needs neither torch nor a screen. SIGTERM cancels as Ctrl-C does."""
    from engine.data.convert import convert as run

    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, total=total)

        report = run(
            args.source, args.out, repeat=args.repeat, ctx_len=args.ctx_len, seed=args.seed,
            skip_bad=args.skip_bad, force=args.force, progress=progress,
        )  # fmt: skip
    if args.json:
        say_json(report.model_dump_json(indent=2))
        return 0
    say(f"{report.prefix}.bin and .idx: {report.documents:,} documents, {report.items:,} items, "
        f"{report.tokens:,} tokens in {report.seconds:.1f} s")  # fmt: skip
    if report.skipped:
        say(f"{report.skipped:,} lines could not be read and were left out.")
    if report.magic_prime:
        say(f"magic_prime {report.magic_prime} (for ctx_len {args.ctx_len})")
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
