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

from engine.contract.i18n import N_, _, n_
from engine.contract.plain import say, say_file, say_json
from engine.contract.reports import Converted, DataOrigin, DataSummary, DocumentTokens, PairReport
from rwkv_tui.marks import LEVEL_SIGNS, TOKEN_SIGNS, TOKEN_WORDS, left_out, rest, stretches, title, windows
from rwkv_tui.plain import one_line, plain

if TYPE_CHECKING:
    from engine.data.plan import DataPlan

COLOURS = {
    "trained": ("black on green", "black on bright_green"),  # unsaid
    "masked": ("", "reverse"),
    "cut": ("strike red", "strike bright_red"),  # unsaid
    "end": ("white on magenta", "white on magenta"),  # unsaid
    "padding": ("dim", "dim reverse"),  # unsaid
}
LEVELS = {"error": "bold red", "warning": "yellow", "note": "cyan"}  # unsaid
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
    else:
        say("\n".join(_converted(report, args.ctx_len)))
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
    """Prints a document or window token by token."""
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


def inspect(args: argparse.Namespace) -> int:
    """Checks a pair and tells how it was made; exit status 1 when its description is another pair's."""
    from engine.data.origin import inspect_pair
    from engine.data.summary import pair_prefix

    report = inspect_pair(pair_prefix(args.prefix) or args.prefix, args.ctx_len)
    if args.json:
        say_json(report.model_dump_json(indent=2))
    else:
        say("\n".join(_inspected(report, args.ctx_len)))
    return 1 if report.differs else 0


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
                tasks[phase] = bar.add_task(_(phase), total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield progress


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _converted(report: Converted, ctx_len: int) -> Iterator[str]:
    yield _(
        "{prefix}.bin and .idx: {documents:,} documents, {items:,} items, {tokens:,} tokens "
        "in {seconds:.1f} s",
        prefix=report.prefix, documents=report.documents, items=report.items, tokens=report.tokens,
        seconds=report.seconds,
    )  # fmt: skip
    if report.held_out_prefix:
        yield n_(
            "{prefix}.bin and .idx: {n:,} document held out",
            "{prefix}.bin and .idx: {n:,} documents held out",
            report.held_out_documents, prefix=report.held_out_prefix,
        )  # fmt: skip
    if report.skipped:
        yield left_out(report.skipped)
    if report.magic_prime:
        yield _prime(report.magic_prime, ctx_len)


def _prime(magic_prime: int | None, ctx_len: int) -> str:
    if magic_prime is None:
        return _("too few tokens for a magic_prime (for ctx_len {ctx_len})", ctx_len=ctx_len)
    return _("magic_prime {magic_prime} (for ctx_len {ctx_len})", magic_prime=magic_prime, ctx_len=ctx_len)


def _linted(report: DataSummary) -> Text:
    """What was found, in a page: numbers, lengths, findings with places and remedies."""
    text = Text(_("{what}: {kinds}", what=plain(report.path), kinds=plain(report.described)) + "\n")
    if report.documents:
        text.append_text(_numbers(report))
    for finding in report.findings:
        text.append(f"\n{LEVEL_SIGNS[finding.level]} {finding.what}\n", LEVELS[finding.level])
        for found in finding.places:
            where, reason = one_line(found.where), one_line(found.reason)
            text.append("    " + _("{where}: {reason}", where=where, reason=reason) + "\n")
        if finding.count > len(finding.places) > 1:
            more = finding.count - len(finding.places)
            text.append("    " + _("and {n:,} more", n=more) + "\n")
        text.append(f"  {finding.remedy}\n", "italic")
    if report.bad_count:
        text.append("\n" + _("Conversion refuses this as it is."), "bold red")  # unsaid
    elif not report.findings:
        text.append("\n✓ " + _("Nothing to mend."), "green")
    else:
        text.append("\n" + _("Conversion takes this as it is."))
    return text


def _numbers(report: DataSummary) -> Text:
    """How many documents there are, how long, and in which scripts."""
    documents = n_("{n:,} document", "{n:,} documents", report.documents)
    tokens = n_("{n:,} token", "{n:,} tokens", report.tokens)
    told = _("{documents}, {tokens}; each ends with token 0", documents=documents, tokens=tokens)
    text = Text(told + "\n")
    shortest, longest = plain(report.shortest_at), plain(report.longest_at)
    text.append(
        _(
            "lengths {shortest:,} ({shortest_at}) to {longest:,} ({longest_at}), {mean:,.0f} on average",
            shortest=report.shortest,
            shortest_at=shortest,
            longest=report.longest,
            longest_at=longest,
            mean=report.tokens / report.documents,
        )
        + "\n"
    )
    if report.scripts:
        shares = [f"{_(name)} {count / report.documents:.0%}" for name, count in report.scripts]
        text.append(_("scripts: {shares} of the documents", shares=", ".join(shares)) + "\n")
    return text.append_text(_bars(report))


def _bars(report: DataSummary) -> Text:
    """The histogram of lengths; what ctx_len cuts is yellow."""
    most = max(count for _, count in report.histogram) or 1
    wide = len(f"{report.histogram[-1][0]:,}")
    text = Text()
    for bound, count in report.histogram:
        style = "yellow" if not report.windows and bound > report.ctx_len + 1 else "green"
        text.append(f"  ≤ {bound:>{wide},} ").append("█" * -(-count * _BAR // most), style)
        text.append(f" {count:,}\n")
    if report.windows:
        text.append(f"  {windows(report)}\n")
    if report.cut_documents:
        told = n_(
            "ctx_len {length:,} cuts {n:,} document; tokens lost: {tokens:,} ({share:.1%})",
            "ctx_len {length:,} cuts {n:,} documents; tokens lost: {tokens:,} ({share:.1%})",
            report.cut_documents, length=report.ctx_len, tokens=report.cut_tokens,
            share=report.cut_tokens / report.tokens,
        )  # fmt: skip
        text.append(f"  {told}\n")
    return text


def _shown(document: DocumentTokens, plan: DataPlan) -> Text:
    """A line of facts, the tokens, a legend. Signs say what colours say, for pipes and the colour-blind."""
    text = Text(
        _(
            "{path}: {title}, ctx_len {ctx_len:,}, loss_mask {loss_mask}",
            path=plain(document.path), title=title(document), ctx_len=plan.ctx_len, loss_mask=plan.loss_mask,
        ) + "\n"
    )  # fmt: skip
    for place, (sign, kind, written) in enumerate(stretches(document)):
        text.append(sign and f"\n{sign} ", "dim").append(written, COLOURS[kind][place % 2])
    text.append(
        "\n\n" + "  ".join(f"{sign} {_(TOKEN_WORDS[kind])}" for kind, sign in TOKEN_SIGNS.items()), "dim"
    )
    return text.append("\n" + rest(document), "dim")


def _inspected(report: PairReport, ctx_len: int) -> Iterator[str]:
    lengths = _(
        "{items:,} items of {shortest:,} to {longest:,} tokens",
        items=report.items, shortest=report.shortest, longest=report.longest,
    )  # fmt: skip
    yield _(
        "{prefix}.bin and .idx belong together: {lengths}, {tokens:,} in all",
        prefix=plain(report.prefix), lengths=lengths, tokens=report.tokens,
    )  # fmt: skip
    yield _(
        "{dtype}, largest id {largest_id:,}; {prime}",
        dtype=report.dtype, largest_id=report.largest_id, prime=_prime(report.magic_prime, ctx_len),
    )  # fmt: skip
    if report.unended:
        yield n_(
            "! {n:,} item does not end with token 0, the end of a document",
            "! {n:,} items do not end with token 0, the end of a document",
            report.unended,
        )
    if report.origin is None:
        yield _("How it was made is not known: there is no description beside it.")
        return
    for difference in report.differs:
        yield _("! The description beside it is of another pair: {difference}", difference=difference)
    yield from _made(report.origin)


def _made(origin: DataOrigin) -> Iterator[str]:
    """How a pair was made, and of what."""
    yield _(
        "made by {made_by} with {tokenizer}: repeat {repeat}, seed {seed}",
        made_by=origin.made_by, tokenizer=origin.tokenizer, repeat=origin.repeat, seed=origin.seed,
    )  # fmt: skip
    if origin.held_out:
        said = N_("the documents held out by --held-out {share:g}")
        if origin.part == "train":
            said = N_("what --held-out {share:g} has left")
        yield _(said, share=origin.held_out)
    if origin.template:
        yield _("template") + f"\n{plain(origin.template).strip()}"
    if origin.fields:
        yield _("fields {fields}", fields=plain(origin.fields))
    for source in origin.sources:
        parts = [
            n_("{n:,} document", "{n:,} documents", source.documents),
            n_("{n:,} token", "{n:,} tokens", source.tokens),
        ]
        if source.weight is not None:
            parts.append(_("weight {weight:g}", weight=source.weight))
        if source.skipped:
            parts.append(_("{n:,} bad rows left out", n=source.skipped))
        kind = f" ({source.kind})" if source.kind else ""
        yield f"  {plain(source.path)}{plain(kind)}: {_(', ').join(parts)}"
        yield "    " + _("{bytes:,} bytes, sha256 {sha256}", bytes=source.bytes, sha256=source.sha256)
