"""A run of several processes on this machine: one parent starts them, passes on their words, and buries them.

The parent trains nothing and loads no torch. Its children, the ranks, are in its session and die with it.
Their output goes to the parent's, marked. How one of them failed comes over a pipe of its own and is told
by the parent: a rank that dies takes the others along, and only who watches all knows which was the first.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.glance import glance
from engine.contract.i18n import _, sentences, spoken
from engine.contract.plain import say
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.train.logs import RunLog
from engine.train.machines import Machines
from engine.train.stop import STOPPING, StopRequest

FINISHED, FAILED, STOPPED = 0, 1, 130  # exit statuses of a run
GRACE = 5.0  # seconds that the others have to end by themselves, once one has
PATIENCE = 1.0  # seconds of waiting for other machines that need no word
TAIL = 30  # lines of a rank's last words


@dataclass(frozen=True)
class Place:
    """Where a process stands: `rank` of `size` in the run, `local` of `here` on its machine.

    `meeting` is the address where they find each other, as torch.distributed reads it.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    here: int = 1
    meeting: str = ""

    @property
    def leads(self) -> bool:
        """Whether it writes the files of its machine's proj_dir."""
        return self.local == 0

    @classmethod
    def of(cls, settings: TrainSettings, local: int, meeting: str) -> Place:
        here = settings.devices
        return cls(settings.node_rank * here + local, settings.processes, local, here, meeting)


def processes_here(run: RunDir) -> int:
    """How many processes the run has on this machine, 0 when one, this one, is all of it."""
    try:
        s = run.read_settings()
    except UserError:
        return 0  # whoever trains will tell
    return s.devices if s.processes > 1 else 0


class Rank:
    """One child. `reported` is when it said how it failed, `overdue` that it had to be killed in the end."""

    def __init__(self, run: RunDir, local: int, rank: int, meeting: str, on_finish: str) -> None:
        self.rank = rank
        self.words: deque[str] = deque(maxlen=TAIL)
        self.failure: events.Failed | None = None
        self.reported = 0.0
        self.overdue = False
        self._line, self._report = b"", b""
        self.report, sent = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "--lang", spoken(), "rank", str(run.path), str(local),
                 meeting, str(sent), str(os.getpid()), f"--on_finish={on_finish}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[sent],
            )  # fmt: skip
        finally:
            os.close(sent)
        assert self.process.stdout
        self.output = self.process.stdout.fileno()

    def hear(self, data: bytes) -> None:
        """Passes on whole lines; no data: it will say no more."""
        *lines, self._line = (self._line + data).split(b"\n")
        if not data and self._line:
            lines, self._line = [self._line], b""
        for line in lines:
            self.words.append(line.decode(errors="replace"))
            sys.stdout.buffer.write(b"[rank %d] %s\n" % (self.rank, line))
        sys.stdout.buffer.flush()

    def note(self, data: bytes) -> None:
        """Takes a piece of its report."""
        self.reported = self.reported or time.monotonic()
        self._report += data
        event = events.parse_event(self._report)
        if isinstance(event, events.Failed):
            self.failure = event

    @property
    def status(self) -> int | None:
        return self.process.poll()

    @property
    def bereft(self) -> bool:
        """Whether it ended for want of the others."""
        said = self.failure.reason if self.failure else ""
        return self.overdue or "closed by peer" in said or "reset by peer" in said  # unsaid

    def account(self, size: int) -> events.Failed:
        """How it ended, as an event of the run."""
        who = _(
            "Process {rank} of {size} (rank {rank}, pid {pid})",
            rank=self.rank,
            size=size,
            pid=self.process.pid,
        )
        if self.failure and self.failure.detail:
            told = {"reason": _("{who} failed: {reason}", who=who, reason=self.failure.reason)}
            if self.bereft:
                told["remedy"] = _("Another machine's process has ended: its engine.log says why.")
            return self.failure.model_copy(update=told)
        if self.failure:  # an error of the person's, which all processes share
            return self.failure
        status = self.process.returncode
        reason = _("{who} ended with status {status} and said nothing.", who=who, status=status)
        if status < 0:
            reason = _("{who} was killed by {name}.", who=who, name=signal.Signals(-status).name)
        remedy = _("`rwkv-tune resume` goes on from the last saved step.")
        if status == -signal.SIGKILL:
            remedy = _(
                "If nobody did that, memory ran out: lower micro_bsz or ctx_len. {remedy}", remedy=remedy
            )
        return events.Failed(reason=reason, remedy=remedy, detail="\n".join(self.words))


def train_in_ranks(run: RunDir, number: int, stop: StopRequest, on_finish: str = "") -> int:
    """Trains the run in `number` processes on this machine and returns the exit status.

    A failure of one ends all of them, and is told as that one's.
    """
    settings = run.read_settings()
    if run.owner() != Process.current():  # the launcher may have been killed before it could say so
        run.record_process(run.name(), Process.current())
    first = settings.node_rank * number
    try:
        machines = Machines(settings)
    except UserError as error:
        return _end(run, on_finish, events.Failed(reason=error.message, remedy=error.remedy))
    if (ended := _wait_for_all(run, machines, stop)) is not None:
        machines.leave()
        return _end(run, on_finish, ended)
    with tempfile.TemporaryDirectory(prefix="rwkv-tune-") as folder:
        meeting = f"file://{folder}/meeting"
        if settings.num_nodes > 1:
            meeting = f"tcp://{settings.main_address}:{settings.main_port}"
        ranks: list[Rank] = []
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # a rank takes them once it can heed them
            for local in range(number):
                ranks.append(Rank(run, local, first + local, meeting, on_finish))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            _watch(ranks, stop, machines)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.wait()
    leading = ranks[0].status
    if leading in (FINISHED, STOPPED):  # it has told so
        machines.leave()
        return leading
    culprit = _culprit(ranks)
    failed = culprit.account(settings.processes)
    theirs = machines.wait(2 * GRACE) if culprit.bereft else None
    if culprit.bereft and not theirs and (stop.requested or machines.stopping):  # the others stopped first
        machines.leave()
        return _end(run, on_finish, _stopped(run))
    machines.leave(theirs or failed)
    return _end(run, on_finish, theirs or failed)


def _wait_for_all(run: RunDir, machines: Machines, stop: StopRequest) -> events.Event | None:
    """Until all machines are there, or the run has ended before: then how."""
    said, patient = "", time.monotonic() + PATIENCE
    while True:
        if (failed := machines.news()) is not None:
            return failed
        if stop.requested:
            machines.stop()
        if machines.stopping:
            return _stopped(run)
        if machines.begun:
            return None
        if machines.waits_for != said and time.monotonic() > patient:
            said = machines.waits_for
            _tell(run, events.Log(text=said))
        time.sleep(0.1)


def _stopped(run: RunDir) -> events.Finished:
    told = glance(run.events)
    seconds = told.last_t - told.first_t if told.last_t and told.first_t else 0.0
    return events.Finished(status="stopped", step=told.step, seconds=max(0.0, seconds))


def _end(run: RunDir, on_finish: str, ended: events.Event) -> int:
    """Tells how the run has ended, which no rank has told; gives the exit status."""
    _tell(run, ended, on_finish)
    if isinstance(ended, events.Failed):
        say(sentences(ended.reason, ended.remedy))
        return FAILED
    return STOPPED


def _tell(run: RunDir, event: events.Event, on_finish: str = "") -> None:
    log = RunLog(run, on_finish)
    log(event)
    log.close()


def _watch(ranks: list[Rank], stop: StopRequest, machines: Machines) -> None:
    """Until all have ended: by themselves, but once the leading one has, or one has failed here or on another
    machine, within GRACE."""
    told, deadline = False, float("inf")
    with selectors.DefaultSelector() as pipes:
        for rank in ranks:
            pipes.register(rank.output, selectors.EVENT_READ, (rank.output, rank.hear))
            pipes.register(rank.report, selectors.EVENT_READ, (rank.report, rank.note))
        while (heard := pipes.select(0.2)) or any(rank.status is None for rank in ranks):
            for key, _ in heard:
                pipe, take = key.data
                data = os.read(pipe, 1 << 16)
                take(data)
                if not data:
                    pipes.unregister(pipe)
            if (stop.requested or machines.stopping) and not told:
                told = True
                machines.stop()
                for rank in ranks:
                    rank.process.terminate()
            lost = machines.news() is not None
            over = ranks[0].status is not None or any(
                r.status not in (None, FINISHED, STOPPED) for r in ranks
            )
            if (over or lost) and deadline == float("inf"):
                deadline = time.monotonic() + GRACE
            if time.monotonic() > deadline:
                for rank in ranks:
                    rank.overdue |= rank.status is None
                    rank.process.kill()


def _culprit(ranks: list[Rank]) -> Rank:
    """Who was the first to fail: a rank that died without a report tore the connections of the others, so
    what they report is its death; else who reported first."""
    for rank in ranks:
        if not rank.failure and not rank.overdue and rank.status not in (FINISHED, STOPPED):
            return rank
    return min((r for r in ranks if r.failure), key=lambda r: r.reported, default=ranks[0])
