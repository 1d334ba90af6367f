"""Reads a run's events as they are appended, and folds them into what can be shown."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import lt
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from engine.contract import events as ev
from engine.contract.files import opened
from engine.contract.glance import STEP_MARK, Ending
from engine.contract.i18n import N_, _, n_
from engine.contract.rundir import RunDir
from rwkv_tui.plain import duration, nats, short
from rwkv_tui.series import Columns, Series
from rwkv_tui.services.eta import Pace

STEP_INTEGERS = ("v", "epoch", "tokens")
STEP_REALS = ("lr", "kt_s", "step_s", "t")
STEP_CURVES = ("loss", "loss_smooth", "lr", "kt_s", "grad_norm", "tokens")
STEP_MAYBE = ("loss", "loss_smooth", "grad_norm")
ENDED = {
    "finished": N_("finished at step {step} after {time}"),
    "stopped": N_("stopped at step {step} after {time}"),
}  # fmt: skip


class RunTail:
    """An incremental reader of events.ndjson, from its first `since` bytes on.

    `restarts` counts how often the file was found shorter than what had been read of it: then it
    is read from its start again, and what was folded from it before is to be thrown away. `behind` says
    whether a read with a limit has left something.
    """

    def __init__(self, run: RunDir, since: int = 0) -> None:
        self._path = run.events
        self._offset = since
        self._partial = b""
        self.restarts = 0
        self.behind = False

    def poll(self, limit: int | None = None, *, steps: bool = True) -> list[ev.Event]:
        """The events that have become complete since the last call, oldest first.

        Reads at most `limit` bytes. Without `steps` the step events are left out, which makes a long file
        some ten times quicker to read. Lines that are no event of this version are skipped.
        """
        lines = self.lines(limit)
        wanted = lines if steps else [line for line in lines if STEP_MARK not in line]
        return [event for line in wanted if line and (event := ev.parse_event(line)) is not None]

    def lines(self, limit: int | None = None) -> list[bytes]:
        """As `poll`, before they are parsed. A line without its newline waits for it."""
        try:
            with opened(self._path) as file:
                end = file.seek(0, 2)
                if end < self._offset:
                    self._offset, self._partial = 0, b""
                    self.restarts += 1
                file.seek(self._offset)
                fresh = file.read(-1 if limit is None else limit)
        except OSError:
            self.behind = False
            return []
        self._offset += len(fresh)
        self.behind = self._offset < end
        *lines, self._partial = (self._partial + fresh).split(b"\n")
        return lines


class RunWatch:
    """All that a run has told, kept up to date by `poll`: 100,000 steps take some 0.3 s."""

    def __init__(self, run: RunDir) -> None:
        self._tail = RunTail(run)
        self._restarts = 0
        self.model = RunModel()

    @property
    def behind(self) -> bool:
        """Whether the last `poll` has left something."""
        return self._tail.behind

    def poll(self, limit: int | None = None) -> None:
        """Takes in what has been told since, at most `limit` bytes of it."""
        lines = self._tail.lines(limit)
        if self._tail.restarts != self._restarts:
            self._restarts, self.model = self._tail.restarts, RunModel()
        for are_steps, group in groupby(lines, _is_step):
            batch = list(group)
            if are_steps and (rows := _step_rows(batch)):
                self.model.apply_steps(rows)
                continue
            for line in batch:
                if line and (event := ev.parse_event(line)) is not None:
                    self.model.apply(event)


def _is_step(line: bytes) -> bool:
    return STEP_MARK in line


def _step_rows(lines: list[bytes]) -> list[dict[str, Any]]:
    """The step events of these lines without the care of `parse_event`, or [] when any needs it."""
    try:
        rows: list[dict[str, Any]] = from_json(b"[" + b",".join(lines) + b"]")
        steps = array("q", [row["step"] for row in rows])
        whole = array("q", [row[name] for name in STEP_INTEGERS for row in rows])
        real = array("d", [row[name] for name in STEP_REALS for row in rows])
        real.extend([y for name in STEP_MAYBE for row in rows if (y := row[name]) is not None])
        steps_only = all(row["type"] == "step" for row in rows)
    except (ValueError, TypeError, KeyError, OverflowError):
        return []
    fit = steps_only and len(rows) == len(lines) and math.isfinite(sum(real) + sum(whole))
    return rows if fit and all(map(lt, steps, steps[1:])) else []


@dataclass(frozen=True)
class LogLine:
    """A line for a reader; `level` is "info", "good", "warning" or "error". What is no mere remark, but a
    turn of the run, has `mark`: the sign that stands for it in the time line. `about`: see `ev.Warned`."""

    t: float
    text: str
    level: str = "info"
    mark: str = ""
    about: str = ""


@dataclass(frozen=True)
class StateNorms:
    """The norm of each head's state after `step`, layer by layer: `norms[layer * heads + head]`."""

    step: int
    heads: int
    norms: array[float]


@dataclass
class RunModel:
    """All that a run has told so far. Steps count from 1; `closing` is its last word."""

    plan: ev.Plan | None = None
    started: float | None = None
    first_t: float | None = None
    last_t: float | None = None
    step: int = 0
    epoch: int = 0
    tokens: int = 0
    loss: Series = field(init=False)
    loss_smooth: Series = field(init=False)
    lr: Series = field(init=False)
    kt_s: Series = field(init=False)
    grad_norm: Series = field(init=False)
    tokens_at: Series = field(init=False)
    seconds_at: Series = field(init=False)
    valid_loss: Series = field(default_factory=Series)
    step_s: float = 0.0
    epoch_marks: list[int] = field(default_factory=list)
    checkpoints: list[ev.Checkpoint] = field(default_factory=list)
    validations: list[ev.Validated] = field(default_factory=list)
    samples: list[ev.Sample] = field(default_factory=list)
    states: list[StateNorms] = field(default_factory=list)
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=2000))
    log_count: int = 0
    before: ev.Evaluated | None = None
    after: ev.Evaluated | None = None
    phases: dict[str, ev.Progress] = field(default_factory=dict)
    activity: ev.Progress | None = None
    closing: ev.Finished | ev.Failed | None = None
    _curves: Columns = field(default_factory=lambda: Columns("fffffdd"))
    _pace: Pace | None = None
    _phase_began: float = 0.0
    _phase_first: ev.Progress | None = None
    _probe_began: float = 0.0
    _per_document: float = 0.0

    def __post_init__(self) -> None:
        (self.loss, self.loss_smooth, self.lr, self.kt_s, self.grad_norm,
         self.tokens_at, self.seconds_at) = self._curves.series  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps of the whole run, 0 while unknown."""
        return self.plan.steps if self.plan else 0

    @property
    def ending(self) -> Ending:
        """How the run ended, "" while it goes on."""
        if isinstance(self.closing, ev.Finished):
            return self.closing.status
        return "failed" if self.closing else ""

    @property
    def gain(self) -> tuple[float | None, float | None] | None:
        """The loss before and after a run that has ended, each None when it is no number; None when it was
        not measured."""
        closing = self.closing
        if isinstance(closing, ev.Finished) and (self.after or closing.loss_after is not None):
            return closing.loss_before, closing.loss_after
        return None

    @property
    def elapsed(self) -> float:
        """Seconds from the first word of the run to its last one so far."""
        return self.last_t - self.first_t if self.first_t is not None and self.last_t is not None else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace of the steps and the pauses so far; None when there is no basis."""
        return self._pace.left() if self._pace and not self.closing else None

    def apply(self, event: ev.Event) -> None:
        """Takes in one event."""
        if self.first_t is None:
            self.first_t = event.t
        elif isinstance(event, ev.Resumed) and self.last_t is not None:
            self.first_t += event.t - self.last_t  # nobody trained in between
        self.last_t = event.t
        if self._pace and not isinstance(
            event, ev.Step | ev.StateHealth | ev.Log | ev.Warned
        ):  # those cost nothing
            self._pace.pause()
        handler: Any = _HANDLERS.get(type(event))
        if handler:
            handler(self, event)

    def _say(self, t: float, text: str, level: str = "info", mark: str = "", about: str = "") -> None:
        self.log.append(LogLine(t, text, level, mark, about))
        self.log_count += 1

    def _started(self, event: ev.Started) -> None:
        self.plan, self.started, self.activity, self.closing = event.plan, event.t, None, None
        plan = event.plan
        self._pace = Pace(plan.steps, plan.epoch_steps, plan.held_out)
        self._pace.per_document = self._per_document
        self._pace.after = event.t - self._probe_began if self._probe_began else 0.0
        self._pace.start(self.step)
        where = plan.device if plan.devices == 1 else f"{plan.devices} x {plan.device}"
        self._say(
            event.t,
            _("training starts: {steps:,} steps on {where}, {precision}, op {op}",
              steps=plan.steps, where=where, precision=plan.precision, op=plan.op),
            mark="▶",
        )  # fmt: skip

    def _resumed(self, event: ev.Resumed) -> None:
        """Forgets what was told of later steps: they are taken again."""
        step = event.step
        self.step, self.activity, self.closing, self.after, self._pace = step, None, None, None, None
        self.phases.clear()
        self._curves.cut_after(step)
        self.valid_loss.cut_after(step)
        self.states = [state for state in self.states if state.step <= step]
        self.epoch_marks = [mark for mark in self.epoch_marks if mark <= step]
        self.checkpoints = [c for c in self.checkpoints if c.step <= step]
        self.samples = [s for s in self.samples if s.step <= step]
        if step:
            self._say(event.t, _("resumed after step {step}", step=step), mark="▶")
        else:
            self._say(event.t, _("starts from the beginning"), mark="▶")

    def _stepped(self, event: ev.Step) -> None:
        self.apply_steps([vars(event)])

    def apply_steps(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes in step events, given as their fields; their steps rise."""
        last = rows[-1]
        began = self.first_t = rows[0]["t"] if self.first_t is None else self.first_t
        self.last_t, self.activity = last["t"], None
        self.step, self.epoch, self.tokens, self.step_s = (
            last[name] for name in ("step", "epoch", "tokens", "step_s")
        )
        steps = [row["step"] for row in rows]
        self._curves.cut_after(steps[0] - 1)
        # clocks are set back at times, an axis is not
        times = accumulate((row["t"] - began for row in rows), max, initial=self.seconds_at.last or 0.0)
        told = [[row[name] for row in rows] for name in STEP_CURVES]
        self._curves.extend(steps, *told, list(times)[1:])
        if self._pace:
            self._pace.walk(rows)

    def _progressed(self, event: ev.Progress) -> None:
        if self.activity is None or self.activity.phase != event.phase:
            self._phase_began, self._phase_first = event.t, event
        self.phases[event.phase] = event
        self.activity = event

    @property
    def phase_left(self) -> float | None:
        """Seconds until what is under way is over, at the pace it has had; None while that is not known."""
        first, now = self._phase_first, self.activity
        if first is None or now is None or now.t < first.t + 1 or now.done <= first.done:
            return None
        return (now.total - now.done) * (now.t - first.t) / (now.done - first.done)

    def _epoch_over(self, event: ev.Epoch) -> None:
        self.epoch_marks.append(self.step)
        plan = self.plan
        self._say(
            event.t,
            _("epoch {n} of {all} is over: mean loss {loss}, lr {lr}, {time}",
              n=self._epoch(event.epoch), all=plan.epoch_count if plan else "?",
              loss=nats(event.loss), lr=short(event.lr), time=duration(event.seconds)),
            mark="┊",
        )  # fmt: skip

    def _epoch(self, epoch: int) -> int:
        """From 1, as in the bars; an event's `epoch`, as the number of a file, begins with epoch_begin."""
        return epoch + 1 - (self.plan.epoch_begin if self.plan else 0)

    def _validated(self, event: ev.Validated) -> None:
        self.validations.append(event)
        self.valid_loss.append(event.step, event.loss)
        loss, epoch = nats(event.loss), self._epoch(event.epoch)
        best = epoch - (event.epoch - event.best_epoch)
        if best == epoch:
            said = _("validation loss {loss} after epoch {epoch}, the best so far", loss=loss, epoch=epoch)
        else:
            said = _("validation loss {loss} after epoch {epoch}, best was epoch {best}",
                     loss=loss, epoch=epoch, best=best)  # fmt: skip
        self._say(event.t, said, "good", "•")

    def _saved(self, event: ev.Checkpoint) -> None:
        self.checkpoints.append(event)
        name = Path(event.path).name
        self._say(event.t, _("saved {name} at step {step}", name=name, step=event.step), "good", "◆")

    def _evaluated(self, event: ev.Evaluated) -> None:
        n, loss = event.documents, nats(event.loss)
        if event.when == "before":
            said = n_("loss before training: {loss} over {n} document",
                      "loss before training: {loss} over {n} documents", n, loss=loss)  # fmt: skip
            self.before, self._probe_began = event, self._phase_began
            self._per_document = (event.t - self._phase_began) / max(1, event.documents)
        else:
            said = n_("loss after training: {loss} over {n} document",
                      "loss after training: {loss} over {n} documents", n, loss=loss)  # fmt: skip
            self.after = event
        self._say(event.t, said, "good", "•")

    def _sampled(self, event: ev.Sample) -> None:
        self.samples.append(event)
        self._say(event.t, _("answered a sample prompt at step {step}", step=event.step), mark="“")

    def _state_told(self, event: ev.StateHealth) -> None:
        self.states.append(StateNorms(event.step, event.heads, array("f", event.norms)))

    def _logged(self, event: ev.Log) -> None:
        self._say(event.t, event.text)

    def _warned(self, event: ev.Warned) -> None:
        self._say(event.t, event.text, "warning", "!", event.about)

    def _failed(self, event: ev.Failed) -> None:
        self.closing, self.activity = event, None
        self._say(event.t, event.reason, "error", "✗")

    def _finished(self, event: ev.Finished) -> None:
        self.closing, self.activity = event, None
        self.step = event.step
        said = _(ENDED[event.status], step=event.step, time=duration(event.seconds))
        self._say(event.t, said, "good", "■")


_HANDLERS: dict[type, Any] = {
    ev.Started: RunModel._started,
    ev.Resumed: RunModel._resumed,
    ev.Step: RunModel._stepped,
    ev.Progress: RunModel._progressed,
    ev.Epoch: RunModel._epoch_over,
    ev.Validated: RunModel._validated,
    ev.Checkpoint: RunModel._saved,
    ev.Evaluated: RunModel._evaluated,
    ev.Sample: RunModel._sampled,
    ev.StateHealth: RunModel._state_told,
    ev.Log: RunModel._logged,
    ev.Warned: RunModel._warned,
    ev.Failed: RunModel._failed,
    ev.Finished: RunModel._finished,
}
