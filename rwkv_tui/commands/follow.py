"""Follows a run without screens: a progress bar on a terminal, lines in a pipe, or its events as JSON."""

from __future__ import annotations

import signal
import sys
import time
from abc import ABC, abstractmethod
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from engine.contract import events
from engine.contract.i18n import N_, _, n_, sentences
from engine.contract.plain import one_line, plain, say
from engine.contract.rundir import RunDir
from rwkv_tui.commands.app import in_tmux
from rwkv_tui.plain import amount, announcement, nats
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
            show.note(_("stopping: the step is finished and saved first"))
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
        show.note(_("The run goes on; `rwkv-tune attach {name}` comes back to it.", name=name))
        return STOPPED
    if watched:
        show.ended(name, last.status if isinstance(last, events.Finished) else "failed" if last else "died")
    return _status(name, run, last)


def _status(name: str, run: RunDir, last: events.Event | None) -> int:
    if isinstance(last, events.Finished):
        return 0 if last.status == "finished" else STOPPED
    if isinstance(last, events.Failed):
        said = sentences(last.reason, last.remedy)
    elif not run.process.is_file():
        saved = ", ".join(sorted(path.name for path in run.path.glob("rwkv-*"))) or _("nothing")
        said = _(
            "The folder of the run {name}, {path}, was deleted while it ran; saved since: {saved}.",
            name=name,
            path=run.path,
            saved=saved,
        )
    else:
        said = ending_of(summarise(name, run))
        if words := engine_log_tail(run).strip().splitlines():
            said = _("{ending} Its last words in {log}: {words}", ending=said, log=run.log, words=words[-1])
    say(f"rwkv-tune: {one_line(said)}", error=True)
    return 1


def describe(event: events.Event) -> str | None:
    """An event as a line for people; None for those that only move a bar."""
    match event:
        case events.Started(plan=plan):
            return _started(plan)
        case events.Resumed():
            return (
                _("going on after step {step:,}", step=event.step)
                if event.step
                else _("starting from the beginning")
            )
        case events.Evaluated():
            said = N_("loss before tuning {loss} ({documents} documents)")
            if event.when == "after":
                said = N_("loss after tuning {loss} ({documents} documents)")
            return _(said, loss=nats(event.loss), documents=event.documents)
        case events.Epoch():
            return _(
                "epoch {epoch}: loss {loss}, lr {lr:g}, {seconds:.1f} s",
                epoch=event.epoch + 1, loss=nats(event.loss), lr=event.lr, seconds=event.seconds,
            )  # fmt: skip
        case events.Validated():
            return _(
                "validation loss {loss} after epoch {epoch}; best {best_loss} in epoch {best_epoch}",
                loss=nats(event.loss),
                epoch=event.epoch + 1,
                best_loss=nats(event.best_loss),
                best_epoch=event.best_epoch + 1,
            )
        case events.Checkpoint():
            return _("saved {path}", path=event.path)
        case events.Sample():
            return _(
                "Q: {prompt}\n  base:  {base}\n  tuned: {tuned}",
                prompt=event.prompt, base=event.base, tuned=event.tuned,
            )  # fmt: skip
        case events.Log():
            return event.text
        case events.Warned():
            return _("warning: {text}", text=event.text)
        case events.Finished():
            n, s = event.step, event.seconds
            if event.status == "stopped":
                return n_(
                    "stopped after {n:,} step, {s:.0f} s", "stopped after {n:,} steps, {s:.0f} s", n, s=s
                )
            return n_("finished after {n:,} step, {s:.0f} s", "finished after {n:,} steps, {s:.0f} s", n, s=s)
    return None


def _started(p: events.Plan) -> str:
    """What a run is going to do, in two lines."""
    model = _(
        "{version} {n_layer}x{n_embd}, {method}: {trainable:,} trainable of {parameters:,} parameters on "
        "{device}, {precision}, op {op}",
        version=p.version, n_layer=p.n_layer, n_embd=p.n_embd, method=p.method, trainable=p.trainable,
        parameters=p.parameters, device=p.device, precision=p.precision, op=p.op,
    )  # fmt: skip
    if p.windows:
        cut = _("{windows:,} windows of ctx_len {ctx_len}", windows=p.windows, ctx_len=p.ctx_len)
    else:
        cut = _(
            "{documents:,} documents cut at ctx_len {ctx_len} ({tokens:,} tokens)",
            documents=p.cut_documents, ctx_len=p.ctx_len, tokens=p.cut_tokens,
        )  # fmt: skip
    data = _(
        "{documents:,} documents, {tokens:,} tokens, {cut}; {steps:,} steps x {micro_bsz} = "
        "{passes:.2f} passes",
        documents=p.documents,
        tokens=p.tokens,
        cut=cut,
        steps=p.steps,
        micro_bsz=p.micro_bsz,
        passes=p.passes,
    )
    if p.held_out:
        data = n_(
            "{data}; {n:,} document held out", "{data}; {n:,} documents held out", p.held_out, data=data
        )
    return f"{model}\n{data}"


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
            self.note(_(
                "step {step}/{steps} loss {loss} smoothed {smooth} lr {lr:.3g} {speed:.2f} kt/s",
                step=event.step, steps=self.steps, loss=nats(event.loss), smooth=nats(event.loss_smooth),
                lr=event.lr, speed=event.kt_s,
            ))  # fmt: skip
        line = describe(event)
        if line is not None:
            self.note(line)

    def note(self, text: str) -> None:
        say(text)


class _Amounts(ProgressColumn):
    """How much of how much: bytes as sizes, all else counted."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        return Text(f"{amount(int(task.completed), unit)}/{amount(int(task.total or 0), unit)}")


class BarShow(Show):
    """A bar that moves, and the lines above it."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(),
            _Amounts(),
            TimeRemainingColumn(table_column=Column(min_width=len("0:00:00"), no_wrap=True)),
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
            self._move(N_("training"), self.begun, event.plan.steps)
        elif isinstance(event, events.Progress):
            self._move(event.phase, event.done, event.total, unit=event.unit)
        elif isinstance(event, events.Step):
            note = _(
                "loss {loss}  lr {lr:.3g}  {speed:.2f} kt/s",
                loss=nats(event.loss_smooth), lr=event.lr, speed=event.kt_s,
            )  # fmt: skip
            self._move("training", event.step, None, note)
        line = describe(event)
        if line is not None:
            self.note(line)

    def _move(self, phase: str, done: int, total: int | None, note: str = "", unit: str = "") -> None:
        """Moves the bar of a phase; `total` None leaves it as it was. Beside training one other is shown."""
        if phase not in self.tasks:
            for name, task in self.tasks.items():
                self.bar.update(task, visible=name == "training")
            self.tasks[phase] = self.bar.add_task(one_line(_(phase)), total=total, note="", unit=unit)
        self.bar.update(self.tasks[phase], completed=done, total=total, note=note)

    def note(self, text: str) -> None:
        self.console.print(plain(text), markup=False)
