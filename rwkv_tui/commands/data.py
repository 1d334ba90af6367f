"""`rwkv-tune data ...`"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from engine.contract.plain import say, say_file, say_json
from engine.contract.reports import DataSummary, DocumentTokens, PairReport
from rwkv_tui.marks import LEVEL_SIGNS, TOKEN_SIGNS, TOKEN_WORDS, rest, stretches, title
from rwkv_tui.plain import one_line, plain

if TYPE_CHECKING:
    from engine.data.plan import DataPlan

COLOURS = {
    "trained": ("black on green", "black on bright_green"),
    "masked": ("", "reverse"),
    "cut": ("strike red", "strike bright_red"),
    "end": ("white on magenta", "white on magenta"),
}
LEVELS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_BAR = 40


def convert(args: argparse.Namespace) -> int:
    """Converts in this process: it needs neither torch nor a screen. SIGTERM cancels as Ctrl-C does."""
    from engine.data.convert import convert as run

    with _progress() as progress:
        report = run(
            args.source, args.out, repeat=args.repeat, ctx_len=args.ctx_len, seed=args.seed,
            weights=args.weights, held_out=args.held_out, fields=args.fields, template=args.template,
            skip_bad=args.skip_bad, force=args.force, progress=progress,
        )  # fmt: skip
    if args.json:
        say_json(report.model_dump_json(indent=2))
        return 0
    say(f"{report.prefix}.bin and .idx: {report.documents:,} documents, {report.items:,} items, "
        f"{report.tokens:,} tokens in {report.seconds:.1f} s")  # fmt: skip
    if report.held_out_prefix:
        say(f"{report.held_out_prefix}.bin and .idx: {report.held_out_documents:,} documents held out")
    if report.skipped:
        say(f"{report.skipped:,} lines could not be read and were left out.")
    if report.magic_prime:
        say(f"magic_prime {report.magic_prime} (for ctx_len {args.ctx_len})")
    return 0


def lint(args: argparse.Namespace) -> int:
    """Reads everything and writes nothing; exit status 1 when conversion would refuse it."""
    from engine.data.plan import plan_of
    from engine.data.summary import summarise

    plan = plan_of(args)
    with _progress() as progress:
        report = summarise(
            args.source, plan, fields=args.fields, template=args.template, samples=0, limit_bytes=None,
            progress=progress,
        )  # fmt: skip
    if args.json:
        say_json(report.model_dump_json(indent=2))
    else:
        Console(soft_wrap=True, highlight=False).print(_linted(report))
    return 1 if report.bad_count else 0


def show(args: argparse.Namespace) -> int:
    """Prints a document token by token."""
    from engine.data.plan import plan_of
    from engine.data.show import show_document

    plan = plan_of(args)
    document = show_document(args.source, args.number, plan, fields=args.fields, template=args.template)
    if args.json:
        say_json(document.model_dump_json(indent=2))
    else:
        Console(soft_wrap=True, highlight=False).print(_shown(document, plan))
    return 0


def template(args: argparse.Namespace) -> int:
    """Prints the template that is used when none is given."""
    from engine.data.rows.template import TEXT

    say_file(TEXT)
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr when that is a terminal. SIGTERM interrupts as Ctrl-C does."""
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

        yield progress


def _linted(report: DataSummary) -> Text:
    """What was found, in a page: numbers, lengths, findings with places and remedies."""
    text = Text(f"{plain(report.path)}: {plain(report.described)}\n")
    text.append(f"{report.documents:,} documents, {report.tokens:,} tokens; each ends with token 0\n")
    shortest, longest = plain(report.shortest_at), plain(report.longest_at)
    text.append(
        f"lengths {report.shortest:,} ({shortest}) to {report.longest:,} ({longest}), "
        f"{report.tokens / report.documents:,.0f} on average\n"
    )
    if report.scripts:
        shares = [f"{name} {count / report.documents:.0%}" for name, count in report.scripts]
        text.append(f"scripts: {', '.join(shares)} of the documents\n")
    text.append_text(_bars(report))
    for finding in report.findings:
        text.append(f"\n{LEVEL_SIGNS[finding.level]} {finding.what}\n", LEVELS[finding.level])
        for found in finding.places:
            text.append(f"    {one_line(found.where)}: {one_line(found.reason)}\n")
        if finding.count > len(finding.places) > 1:
            text.append(f"    and {finding.count - len(finding.places):,} more\n")
        text.append(f"  {finding.remedy}\n", "italic")
    if report.bad_count:
        text.append("\nConversion refuses this as it is.", "bold red")
    elif not report.findings:
        text.append("\n✓ Nothing to mend.", "green")
    else:
        text.append("\nConversion takes this as it is.")
    return text


def _bars(report: DataSummary) -> Text:
    """The histogram of lengths; what ctx_len cuts is yellow."""
    most = max(count for _, count in report.histogram) or 1
    wide = len(f"{report.histogram[-1][0]:,}")
    text = Text()
    for bound, count in report.histogram:
        style = "yellow" if bound > report.ctx_len + 1 else "green"
        text.append(f"  ≤ {bound:>{wide},} ").append("█" * -(-count * _BAR // most), style)
        text.append(f" {count:,}\n")
    if report.cut_documents:
        text.append(f"  ctx_len {report.ctx_len:,} cuts {report.cut_documents:,} documents and loses "
                    f"{report.cut_tokens:,} tokens ({report.cut_tokens / report.tokens:.1%})\n")  # fmt: skip
    return text


def _shown(document: DocumentTokens, plan: DataPlan) -> Text:
    """A line of facts, the tokens, a legend. Signs say what colours say, for pipes and the colour-blind."""
    text = Text(f"{plain(document.path)}: {title(document)}, ")
    text.append(f"ctx_len {plan.ctx_len:,}, loss_mask {plan.loss_mask}\n")
    for place, (sign, token, written) in enumerate(stretches(document)):
        text.append(sign and f"\n{sign} ", "dim").append(written, COLOURS[token.kind][place % 2])
    text.append(
        "\n\n" + "  ".join(f"{sign} {TOKEN_WORDS[kind]}" for kind, sign in TOKEN_SIGNS.items()), "dim"
    )
    return text.append("\n" + rest(document), "dim")


def inspect(args: argparse.Namespace) -> int:
    """Checks a pair and tells how it was made; exit status 1 when its description is another pair's."""
    from engine.data.origin import inspect_pair

    report = inspect_pair(args.prefix, args.ctx_len)
    if args.json:
        say_json(report.model_dump_json(indent=2))
    else:
        say("\n".join(_inspected(report, args.ctx_len)))
    return 1 if report.differs else 0


def _inspected(report: PairReport, ctx_len: int) -> Iterator[str]:
    lengths = f"{report.items:,} items of {report.shortest:,} to {report.longest:,} tokens"
    yield f"{plain(report.prefix)}.bin and .idx belong together: {lengths}, {report.tokens:,} in all"
    prime = f"magic_prime {report.magic_prime} (for ctx_len {ctx_len})"
    yield f"{report.dtype}, largest id {report.largest_id:,}; {prime}"
    if report.unended:
        yield f"! {report.unended:,} items do not end with token 0, the end of a document"
    origin = report.origin
    if origin is None:
        yield "How it was made is not known: there is no description beside it."
        return
    for difference in report.differs:
        yield f"! The description beside it is of another pair: {difference}"
    yield f"made by {origin.made_by} with {origin.tokenizer}: repeat {origin.repeat}, seed {origin.seed}"
    if origin.held_out:
        part = "documents held out" if origin.part == "held out" else "rest"
        yield f"the {part} of --held-out {origin.held_out:g}"
    if origin.template:
        yield f"template\n{plain(origin.template).strip()}"
    if origin.fields:
        yield f"fields {plain(origin.fields)}"
    for source in origin.sources:
        weight = "" if source.weight is None else f", weight {source.weight:g}"
        skipped = f", {source.skipped:,} bad lines left out" if source.skipped else ""
        counts = f"{source.documents:,} documents, {source.tokens:,} tokens"
        kind = f" ({source.kind})" if source.kind else ""
        yield f"  {plain(source.path)}{plain(kind)}: {counts}{weight}{skipped}"
        yield f"    {source.bytes:,} bytes, sha256 {source.sha256}"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
