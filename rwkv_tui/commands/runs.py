"""`rwkv-tune runs`, `stop`, `logs` and `rm`: a person's runs without screens."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from engine.contract.errors import UserError
from engine.contract.events import dump_json
from engine.contract.files import opened
from engine.contract.i18n import _, n_, p_
from engine.contract.paths import UserPaths
from engine.contract.plain import one_line, say, say_json
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.commands.follow import describe
from rwkv_tui.plain import duration, moment, size
from rwkv_tui.services.removal import Removal, plan_removal, remove
from rwkv_tui.services.run_tail import RunModel, RunTail
from rwkv_tui.services.runs import (
    RESUMABLE,
    RunSummary,
    ending_of,
    find_run,
    is_alive,
    stop_run,
    summarise,
    summarise_runs,
)

POLL = 0.1  # seconds
GRACE_S = 5.0
"""How long a run that is to end now may take to end by itself."""
TOLD = 5  # runs of which more is said than the table does
PIPE_WIDTH = 200  # columns of a table nobody's terminal limits


def show_list(args: argparse.Namespace) -> int:
    """Newest first; below the table a line for each of the newest runs that wait to be resumed."""
    runs = summarise_runs(UserPaths.of_user().runs)
    if args.json:
        say_json(dump_json([{**asdict(run), "proj_dir": str(run.proj_dir)} for run in runs]))
        return 0
    if not runs:
        say(_("There are no runs yet. Start one with `rwkv-tune` or `rwkv-tune train`."))
        return 0
    console = Console(
        highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH
    )
    console.print(_table(runs, time.time()))
    waiting = [run for run in runs if run.status in RESUMABLE]
    for run in waiting[:TOLD]:
        say(one_line(ending_of(run)))
    if older := len(waiting[TOLD:]):
        say(n_("{n} older run can be resumed, too.", "{n} older runs can be resumed, too.", older))
    return 0


def _table(runs: list[RunSummary], now: float) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(p_("column", "run"), overflow="fold")
    table.add_column(_("status"))
    table.add_column(_("step"), justify="right")
    table.add_column(_("loss"), justify="right")
    table.add_column(_("trains"))
    table.add_column(_("last news"), justify="right")
    for run in runs:
        table.add_row(
            one_line(run.name), _(run.status),
            f"{run.step:,}/{run.steps:,}" if run.steps else "",
            f"{run.loss:.4f}" if run.loss is not None else "",
            f"{run.method} {run.version}".strip(),
            _("{time} ago", time=duration(now - run.updated)) if run.updated else "",
        )  # fmt: skip
    return table


def stop(args: argparse.Namespace) -> int:
    """Waits until the run has ended and says how. Ctrl-C leaves it to end by itself."""
    name, run = find_run(UserPaths.of_user().runs, args.run)
    while (alive := is_alive(run)) is None:
        time.sleep(POLL)
    if not alive:
        say(_("It had ended already. {ending}", ending=one_line(ending_of(summarise(name, run)))))
        return 0
    told = RunTail(run, run.events.stat().st_size if run.events.exists() else 0)
    stop_run(run)
    say(_("Asked to stop: it finishes its step and saves."), error=True)
    asked, killed = time.monotonic(), False
    try:
        alive = True
        while alive:
            alive = bool(is_alive(run))  # before reading: what is told last is read, too
            if args.now and not killed and time.monotonic() - asked > GRACE_S:
                killed = stop_run(run, now=True)
            for line in filter(None, map(describe, told.poll(steps=False))):
                say(line, error=True)
            time.sleep(POLL)
    except KeyboardInterrupt:
        say(_("It still stops; `rwkv-tune logs {name}` tells how it ended.", name=name), error=True)
        return 130
    ending = one_line(ending_of(summarise(name, run)))
    if killed:
        ending = _("It did not end within five seconds and was ended at once. {ending}", ending=ending)
    say(ending)
    return 0


def logs(args: argparse.Namespace) -> int:
    """What the process printed, then what the run told; with -f until it ends."""
    _name, run = find_run(UserPaths.of_user().runs, args.run)
    told, model, printed, shown = RunTail(run), RunModel(), 0, 0
    while True:
        alive = is_alive(run) is not False  # before reading: a run that ends in between is read to its end
        printed = _more_printed(run, printed)
        for event in told.poll(steps=False):
            model.apply(event)
            fresh = model.log_count - shown
            shown = model.log_count
            for line in list(model.log)[len(model.log) - fresh :] if fresh else ():
                say(f"{moment(line.t)}  {line.text}")
        sys.stdout.flush()
        if not (args.follow and alive):
            return 0
        time.sleep(POLL)


def _more_printed(run: RunDir, start: int) -> int:
    """Prints what has been added to engine.log as whole lines; gives where it ends."""
    try:
        with opened(run.log) as file:
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")
    except OSError:
        return start
    for line in whole.decode("utf-8", "replace").splitlines():
        say(f"{run.log.name}: {line}")
    return start + len(whole) + len(newline)


def rm(args: argparse.Namespace) -> int:
    """Says what goes and what stays, and asks unless --yes was given."""
    runs = RunList(UserPaths.of_user().runs)
    name, run = next(
        ((name, run) for name, run in runs.all(gone=True) if name == args.run and not run.path.is_dir()),
        None,
    ) or find_run(runs.folder, args.run)
    removal = plan_removal(name, run, trained=args.trained)
    say(_describe(removal))
    if not args.yes and not _agreed():
        say(_("Nothing was deleted."))
        return 1
    remove(removal, runs)
    say(_("{name} is removed.", name=one_line(name)))
    return 0


def _describe(removal: Removal) -> str:
    if not removal.run.path.is_dir():
        return _(
            "The folder {path} is gone; only the run's name is forgotten.",
            path=one_line(str(removal.run.path)),
        )
    lines = [
        _("To be deleted in {path} ({size}):", path=one_line(str(removal.run.path)), size=size(removal.size))
    ]
    lines += [f"  {one_line(path.name)}" for path in removal.doomed]
    if removal.kept:
        lines += [_("Kept:"), *(f"  {one_line(path.name)}" for path in removal.kept)]
    return "\n".join(lines)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError(_("Nobody can be asked here; nothing was deleted."), _("Add --yes to delete."))
    return input(_("Delete them? [y/N] ")).strip().lower() in ("y", "yes")
