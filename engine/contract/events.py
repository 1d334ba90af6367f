"""What a job tells whoever watches it: one JSON object a line, appended to a file and never changed.

A reader must live with a torn last line and with events of a newer version: `parse_event` gives
None for what it cannot understand, and unknown keys are dropped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.contract import reports
from engine.contract.plain import plain_json

VERSION = 1


# A file may come from anybody: what cannot be a time or a number of things makes a line no event.
Whole = Annotated[int, Field(ge=-(1 << 53), le=1 << 53)]
Time = Annotated[float, Field(ge=0, le=1e11)]


_BOOT = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> float:
    """Seconds since the epoch, by the clock as it was when this process began: setting it later moves no
    event, so that the time between two events of a process is the time that has passed."""
    return _BOOT + time.clock_gettime(time.CLOCK_BOOTTIME)


class Base(BaseModel):
    """`v` is the version of this format, `t` seconds since the epoch."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    v: Whole = VERSION
    t: Time = Field(default_factory=now)


class Plan(BaseModel):
    """What a run is going to do, as found in its files; lengths in tokens.

    `documents` are those trained on, `held_out` those it is measured by. `windows` is 0 where documents
    are the examples; else it counts the stretches of ctx_len they are cut into. A step takes `micro_bsz` of
    them for each of `devices`, which are those of all machines; `device` is what one of them is, and `gpus`
    are the UUIDs of those of this machine.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    version: str
    n_layer: Whole
    n_embd: Whole
    head_size: Whole
    vocab_size: Whole
    parameters: Whole
    trainable: Whole
    method: str
    documents: Whole
    tokens: Whole
    cut_documents: Whole
    cut_tokens: Whole
    windows: Whole = 0
    held_out: Whole = 0
    ctx_len: Whole
    micro_bsz: Whole
    epoch_begin: Whole
    epoch_count: Whole
    epoch_steps: Whole
    passes: float
    device: str
    devices: int = 1
    gpus: tuple[str, ...] = ()
    precision: str
    op: str
    op_reasons: dict[str, str] = {}

    @property
    def steps(self) -> int:
        return self.epoch_count * self.epoch_steps


class Started(Base):
    """The run is about to take its first step."""

    type: Literal["started"] = "started"
    name: str
    pid: Whole
    plan: Plan


class Resumed(Base):
    """The run goes on after `step`; what was told of later steps is void. 0: from its beginning."""

    type: Literal["resumed"] = "resumed"
    step: Whole


class Progress(Base):
    """Something other than training takes time: `done` of `total` `unit`s (total 0: unknown)."""

    type: Literal["progress"] = "progress"
    phase: str
    done: Whole
    total: Whole
    unit: str = ""


class Step(Base):
    """One optimisation step. `loss` is the batch's mean cross-entropy in nats, `tokens` all so far."""

    type: Literal["step"] = "step"
    step: Whole
    epoch: Whole
    loss: float | None
    loss_smooth: float | None
    lr: float
    kt_s: float
    step_s: float
    grad_norm: float | None
    tokens: Whole


class Epoch(Base):
    """An epoch is over; `loss` is the mean over its steps."""

    type: Literal["epoch"] = "epoch"
    epoch: Whole
    loss: float | None
    lr: float
    seconds: float


class Validated(Base):
    """The loss on the documents held out, after an epoch; `best_epoch` has had the lowest so far."""

    type: Literal["validated"] = "validated"
    epoch: Whole
    step: Whole
    loss: float | None
    best_loss: float | None
    best_epoch: Whole
    documents: Whole
    seconds: float


class Checkpoint(Base):
    """A file was written, whole; `sha256` is its checksum in hexadecimal digits."""

    type: Literal["checkpoint"] = "checkpoint"
    path: str
    epoch: Whole
    step: Whole
    sha256: str = ""


class Evaluated(Base):
    """Mean cross-entropy over `documents` documents, before or after training; None when it is no number."""

    type: Literal["evaluated"] = "evaluated"
    when: Literal["before", "after"]
    loss: float | None
    tokens: Whole
    documents: Whole


class Sample(Base):
    """The same prompt answered by the base model and by the tuned one."""

    type: Literal["sample"] = "sample"
    step: Whole
    prompt: str
    base: str
    tuned: str


class StateHealth(Base):
    """The norm of each head's initial state after `step`, layer by layer: norms[layer * heads + head]."""

    type: Literal["state"] = "state"
    step: int
    heads: int
    norms: tuple[float, ...]


class Log(Base):
    """A line worth reading."""

    type: Literal["log"] = "log"
    text: str


class Warned(Base):
    """Something the person should know; the run goes on. `about` is a word for programs: "state", or ""."""

    type: Literal["warning"] = "warning"
    text: str
    about: str = ""


class Failed(Base):
    """The run ended by an error: what happened and what to do. `fix` says the remedy by parameters: the value
    that each would better have, as one types it. `cause` is a word for programs, in no language: "memory",
    "diverged", "precision", "disk", "file", or "" where only the words tell."""

    type: Literal["failed"] = "failed"
    reason: str
    remedy: str = ""
    detail: str = ""
    fix: dict[str, str] = {}
    cause: str = ""


class Finished(Base):
    """The run ended as planned, or because it was asked to stop."""

    type: Literal["finished"] = "finished"
    status: Literal["finished", "stopped"]
    step: Whole
    seconds: float
    loss_before: float | None = None
    loss_after: float | None = None
    files: tuple[str, ...] = ()


class Converted(Base):
    """A conversion is complete."""

    type: Literal["converted"] = "converted"
    report: reports.Converted


class Summarised(Base):
    """Data was looked at, all of it."""

    type: Literal["summarised"] = "summarised"
    report: reports.DataSummary


Who = Literal["base", "tuned"]


class Ready(Base):
    """A model is loaded and can be asked, as each of `who`."""

    type: Literal["ready"] = "ready"
    who: tuple[Who, ...]


class Piece(Base):
    """A part of an answer."""

    type: Literal["piece"] = "piece"
    who: Who
    text: str


class Answered(Base):
    """An answer is complete: the model ended it, it had its `length`, or it was halted."""

    type: Literal["answered"] = "answered"
    who: Who
    tokens: Whole
    seconds: float
    end: Literal["turn", "length", "halted"]


Event = (
    Started | Resumed | Progress | Step | Epoch | Validated | Checkpoint | Evaluated | Sample
    | StateHealth | Log | Warned | Failed | Finished | Converted | Summarised | Ready | Piece | Answered
)  # fmt: skip
Emit = Callable[[Event], None]

_ADAPTER: TypeAdapter[Event] = TypeAdapter(
    Annotated[Event, Field(discriminator="type")], config=ConfigDict(defer_build=True)
)


def parse_event(line: str | bytes) -> Event | None:
    """The event of one line, or None when the line is torn, foreign or of an unknown type."""
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError:
        return None


def dump_event(event: Event) -> str:
    """The line of an event, with its newline. NaN and infinity become null: JSON has neither."""
    return plain_json(event.model_dump_json()) + "\n"


def dump_json(document: object) -> str:
    """The one JSON document a command prints with --json."""
    return json.dumps(document, ensure_ascii=False, indent=2)
