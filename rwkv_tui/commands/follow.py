"""Follows a run without screens: a progress bar on a terminal, lines in a pipe, or its events as JSON."""

from __future__ import annotations

import signal
import sys
import time
from abc import ABC, abstractmethod
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from engine.contract import events
from engine.contract.plain import one_line, plain, say
from engine.contract.rundir import RunDir
from rwkv_tui.commands.app import in_tmux
from rwkv_tui.plain import announcement
from rwkv_tui.services.run_tail import RunTail
from rwkv_tui.services.runs import ending_of, engine_log_tail, is_alive, stop_run, summarise

POLL = 0.1  # seconds
STOPPED = 130  # the exit status of what somebody ended
LINE_EVERY = 2.0  # seconds between two lines about steps in a pipe


class Show(ABC):
    """One way of showing a run."""

    def open(self) -> None:  # noqa: B027 not every way has something to open
        """Called before the first event."""

    def close(self) -> None:  # noqa: B027
        """Called after the last one, whatever happened."""

    def ended(self, name: str, status: str) -> None:  # noqa: B027
        """Called when a run has ended that was watched until then."""

    @abstractmethod
    def event(self, event: events.Event) -> None: ...

    @abstractmethod
    def note(self, text: str) -> None:
        """A line for the person."""


def renderer(json: bool) -> Show:
    """The way that fits where the output goes."""
    if json:
        return JsonShow()
    return BarShow() if sys.stdout.isatty() else LineShow()


def follow(name: str, run: RunDir, show: Show, since: int = 0, *, owning: bool = True) -> int:
    """Shows a run until it ends, and returns the exit status of the command.

    Ctrl-C and SIGTERM stop it; without `owning` they only end the watching. `since` leaves out the first
    bytes of its events.
    """
    asked, owner = False, run.owner()  # known to us even when its folder is deleted

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if owning and (stop_run(run) or (owner and owner.interrupt())) and not asked:
            show.note("stopping: the step is finished and saved first")
        asked = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    tail, last, watched = RunTail(run, since), None, False
    show.open()
    try:
        alive = True
        while alive and (owning or not asked):
            owner = run.owner() or owner
            # before the poll: events written last are read
            alive = is_alive(run) is not False or bool(owner and owner.alive())
            watched |= alive
            for event in tail.poll():
                show.event(event)
                last = event if isinstance(event, events.Finished | events.Failed) else last
            if alive:
                time.sleep(POLL)
    finally:
        show.close()
    if alive:
        show.note(f"The run goes on; `rwkv-tune attach {name}` comes back to it.")
        return STOPPED
    if watched:
        show.ended(name, last.status if isinstance(last, events.Finished) else "failed" if last else "died")
    return _status(name, run, last)


def _status(name: str, run: RunDir, last: events.Event | None) -> int:
    if isinstance(last, events.Finished):
        return 0 if last.status == "finished" else STOPPED
    if isinstance(last, events.Failed):
        said = f"{last.reason} {last.remedy}"
    elif not run.process.is_file():
        saved = ", ".join(sorted(path.name for path in run.path.glob("rwkv-*"))) or "nothing"
        said = f"The folder of the run {name}, {run.path}, was deleted while it ran; saved since: {saved}."
    else:
        words = engine_log_tail(run).strip().splitlines()[-1:] or ["nothing"]
        said = f"{ending_of(summarise(name, run))} Its last words in {run.log}: {words[0]}"
    say(f"rwkv-tune: {one_line(said)}", error=True)
    return 1


def describe(event: events.Event) -> str | None:
    """An event as a line for people; None for those that only move a bar."""
    match event:
        case events.Started(plan=p):
            return (f"{p.version} {p.n_layer}x{p.n_embd}, {p.method}: {p.trainable:,} trainable of "
                    f"{p.parameters:,} parameters on {p.device}, {p.precision}, op {p.op}\n"
                    f"{p.documents:,} documents, {p.tokens:,} tokens, {_cut(p)}; "
                    f"{p.steps:,} steps x {p.micro_bsz} = {p.passes:.2f} passes"
                    + (f"; {p.held_out:,} documents held out" if p.held_out else ""))  # fmt: skip
        case events.Resumed():
            return f"going on after step {event.step:,}" if event.step else "starting from the beginning"
        case events.Evaluated():
            return f"loss {event.when} tuning {event.loss:.4f} ({event.documents} documents)"
        case events.Epoch():
            loss = "n/a" if event.loss is None else f"{event.loss:.4f}"
            return f"epoch {event.epoch}: loss {loss}, lr {event.lr:g}, {event.seconds:.1f} s"
        case events.Validated():
            return (f"validation loss {number(event.loss)} after epoch {event.epoch}; best "
                    f"{number(event.best_loss)} in epoch {event.best_epoch}")  # fmt: skip
        case events.Checkpoint():
            return f"saved {event.path}"
        case events.Sample():
            return f"Q: {event.prompt}\n  base:  {event.base}\n  tuned: {event.tuned}"
        case events.Log():
            return event.text
        case events.Warned():
            return f"warning: {event.text}"
        case events.Finished():
            return f"{event.status} after {event.step:,} steps, {event.seconds:.0f} s"
    return None


def _cut(plan: events.Plan) -> str:
    if plan.windows:
        return f"{plan.windows:,} windows of ctx_len {plan.ctx_len}"
    return f"{plan.cut_documents:,} documents cut at ctx_len {plan.ctx_len} ({plan.cut_tokens:,} tokens)"


class JsonShow(Show):
    """The events themselves; notes go to stderr."""

    def event(self, event: events.Event) -> None:
        sys.stdout.write(events.dump_event(event))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        say(text, error=True)


class LineShow(Show):
    """Plain lines; those about steps at most every two seconds."""

    def __init__(self) -> None:
        self.last = 0.0
        self.steps = 0

    def event(self, event: events.Event) -> None:
        if isinstance(event, events.Started):
            self.steps = event.plan.steps
        if isinstance(event, events.Step) and (
            time.monotonic() - self.last > LINE_EVERY or event.step == self.steps
        ):
            self.last = time.monotonic()
            self.note(f"step {event.step}/{self.steps} loss {number(event.loss)} smoothed "
                      f"{number(event.loss_smooth)} lr {event.lr:.3g} {event.kt_s:.2f} kt/s")  # fmt: skip
        line = describe(event)
        if line is not None:
            self.note(line)

    def note(self, text: str) -> None:
        say(text)


class BarShow(Show):
    """A bar that moves, and the lines above it."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,}"), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=self.console,
        )  # fmt: skip
        self.tasks: dict[str, TaskID] = {}
        self.begun = 0

    def open(self) -> None:
        self.bar.start()

    def close(self) -> None:
        self.bar.stop()

    def ended(self, name: str, status: str) -> None:
        self.console.file.write(announcement(name, status, tmux=in_tmux()))
        self.console.file.flush()

    def event(self, event: events.Event) -> None:
        if isinstance(event, events.Resumed):
            self.begun = event.step
        elif isinstance(event, events.Started):
            self._move("training", self.begun, event.plan.steps)
        elif isinstance(event, events.Progress):
            self._move(event.phase, event.done, event.total)
        elif isinstance(event, events.Step):
            note = f"loss {number(event.loss_smooth)}  lr {event.lr:.3g}  {event.kt_s:.2f} kt/s"
            self._move("training", event.step, None, note)
        line = describe(event)
        if line is not None:
            self.note(line)

    def _move(self, phase: str, done: int, total: int | None, note: str = "") -> None:
        """Moves the bar of a phase; `total` None leaves it as it was."""
        if phase not in self.tasks:
            self.tasks[phase] = self.bar.add_task(one_line(phase), total=total, note="")
        self.bar.update(self.tasks[phase], completed=done, total=total, note=note)

    def note(self, text: str) -> None:
        self.console.print(plain(text), markup=False)


def number(value: float | None) -> str:
    """A loss, or n/a where it is not finite."""
    return "n/a" if value is None else f"{value:.4f}"
