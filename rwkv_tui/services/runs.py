"""Which runs there are, how they stand, stopping one and removing one."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.contract.errors import LONGEST_LINE, UserError
from engine.contract.files import opened, read_json, write_atomic
from engine.contract.glance import Ending, glance
from engine.contract.i18n import N_, _, p_
from engine.contract.process import Process
from engine.contract.rundir import RunDir, RunList, Status
from rwkv_tui.plain import moment
from rwkv_tui.services.postmortem import shortage

RESUMABLE: tuple[Status, ...] = ("stopped", "failed", "died")
STATUS_WORDS: dict[Status, str] = {
    "starting": N_("starting"), "running": N_("running"), "stopping": N_("stopping"),
    "finished": N_("finished"), "stopped": N_("stopped"), "failed": N_("failed"), "died": N_("died"),
}  # fmt: skip
ENGINE_LOG_BYTES = 1 << 13


@dataclass(frozen=True)
class RunSummary:
    """One run in a list. `steps` is 0 and `method`, `version` are "" while its plan is unknown;
    `started` and `updated` are seconds since the epoch."""

    name: str
    proj_dir: Path
    status: Status
    method: str
    version: str
    step: int
    steps: int
    loss: float | None
    started: float | None
    updated: float | None


def status_word(status: Status) -> str:
    """How a run stands, as a word for people."""
    return _(STATUS_WORDS[status])


def summarise_runs(folder: Path) -> list[RunSummary]:
    """All runs listed under `folder` (UserPaths.runs), newest first."""
    return [summarise(name, run) for name, run in RunList(folder).all()]


def find_run(folder: Path, wanted: str) -> tuple[str, RunDir]:
    """The run of a name, of the only name that begins so, or of a folder; "" is the newest.

    Raises UserError when there is none, or several.
    """
    runs = RunList(folder).all()
    if not wanted:
        if runs:
            return runs[0]
        raise UserError(_("There are no runs yet."), _("Start one with `rwkv-tune train`."))
    path = Path(wanted).expanduser().absolute()
    begin_so = [(name, run) for name, run in runs if name.startswith(wanted)]
    for name, run in runs:
        if name == wanted or run.path == path:
            return name, run
    if len(begin_so) == 1:
        return begin_so[0]
    run = RunDir(path)
    if run.process.is_file():
        return run.name(), run
    for name, gone in RunList(folder).all(gone=True):
        if wanted == name or gone.path == path:
            raise UserError(
                _("The folder of the run {name}, {folder}, is gone.", name=name, folder=gone.path),
                _("Put it back, or forget the run with `rwkv-tune rm {name}`.", name=name),
            )
    names = ", ".join(name for name, _run in begin_so or runs[:8]) or p_("runs", "none")
    if begin_so:
        raise UserError(
            _("Several runs begin with {wanted}: {names}.", wanted=wanted, names=names),
            _("Give one of these names."),
        )
    raise UserError(
        _("There is no run {wanted}.", wanted=wanted), _("Your newest runs: {names}.", names=names)
    )


def summarise(name: str, run: RunDir) -> RunSummary:
    """How one run stands, from the first and the last part of its events."""
    alive = is_alive(run)  # before reading: a run that ends in between has then told so
    told = glance(run.events)
    return RunSummary(
        name=name,
        proj_dir=run.path,
        status=status_of(run, alive=alive, began=told.began, ending=told.ending),
        method=told.method,
        version=told.version,
        step=told.step,
        steps=told.steps,
        loss=told.loss,
        started=told.first_t,
        updated=told.last_t,
    )


def is_alive(run: RunDir) -> bool | None:
    """Whether its process runs; None while that has not begun, and whoever is to start it lives.

    No clock and no age of a file decides: a process is known by its start since the machine's boot.
    """
    owner = run.owner()
    if owner is not None:
        return owner.alive()
    launcher = run.launcher()
    return None if launcher is not None and launcher.alive() else False


def status_of(run: RunDir, *, alive: bool | None, began: bool, ending: Ending) -> Status:
    """One word for a run: what it said last, else whether its process (`is_alive`) is still there."""
    if ending:
        return ending
    if alive is False:
        return "died"
    if stop_asked(run):
        return "stopping"
    return "running" if began else "starting"


def stop_asked(run: RunDir) -> bool:
    """True when the run's present process was asked to stop through `stop_run`."""
    who = Process.from_record(read_json(run.stop_mark))
    return who is not None and who == run.owner()


def stop_run(run: RunDir, *, now: bool = False) -> bool:
    """Asks a run to finish its step, save and end; with `now` ends it without saving. Asking twice is once.

    False when it runs no more. Raises UserError when it belongs to somebody else.
    """
    owner = run.owner()
    if owner is None or not owner.alive():
        return False
    with suppress(OSError):  # only a note for the lists: the signal counts
        write_atomic(run.stop_mark, json.dumps(asdict(owner)))
    try:
        return owner.kill() if now else owner.interrupt()
    except ProcessLookupError:
        return False
    except OSError as error:
        raise UserError(
            _("Cannot stop the run in {folder} ({reason}).", folder=run.path, reason=error.strerror),
            _("Ask whoever started it, or end process {pid} yourself.", pid=owner.pid),
        ) from None


def ending_of(run: RunSummary) -> str:
    """How a run stands, as a sentence for people; one that can go on says so."""
    name, status, step = run.name, status_word(run.status), place_of(run.step, run.steps)
    match run.status:
        case "finished":
            return _("The run {name} finished at {step}; its files are in {folder}.",
                     name=name, step=step, folder=run.proj_dir)  # fmt: skip
        case "starting" | "running" | "stopping" if run.step:
            return _("The run {name} is {status}, at {step}.", name=name, status=status, step=step)
        case "starting" | "running" | "stopping":
            return _("The run {name} is {status}.", name=name, status=status)
    folder = RunDir(run.proj_dir)
    ended = _how_it_ended(run, folder, status, step)
    steps = folder.resume_steps()
    said = (
        _("{ended}; `rwkv-tune resume {name}` goes on from step {step:,}.", ended=ended, name=name,
          step=steps[0])
        if steps
        else _("{ended}; `rwkv-tune resume {name}` goes on from the beginning.", ended=ended, name=name)
    )  # fmt: skip
    why = _shortage(folder) if run.status == "died" else ""
    if run.status == "failed" and (reason := glance(folder.events).reason):
        why = _("Why: {reason}", reason=reason[:LONGEST_LINE])
    return f"{said} {why}".rstrip()


def place_of(step: int, steps: int) -> str:
    """Where in a run one is; `steps` is 0 while its length is unknown."""
    if not steps:
        return _("step {step:,}", step=step)
    return _("step {step:,} of {steps:,}", step=step, steps=steps)


def _how_it_ended(run: RunSummary, folder: RunDir, status: str, step: str) -> str:
    """The first half of the sentence on a run that did not finish."""
    if run.step:
        ended = _("The run {name} {status} at {step}", name=run.name, status=status, step=step)
    else:
        ended = _("The run {name} {status} before its first step", name=run.name, status=status)
    if run.status != "died" or not run.updated:
        return ended
    when, owner = moment(run.updated), folder.owner()
    if owner and owner.before_restart():
        return _("{ended} when the machine was restarted (last seen {when})", ended=ended, when=when)
    return _("{ended} (last seen {when})", ended=ended, when=when)


def _shortage(run: RunDir) -> str:
    """What the run lacked, with what to change, as far as that can be known; "" where it cannot."""
    found = shortage(run, glance(run.events).device)
    return f"{found.said} {found.remedy}" if found else ""


def engine_log_tail(run: RunDir) -> str:
    """The last part of what the process printed, "" when it printed nothing."""
    try:
        with opened(run.log) as file:
            start = max(0, file.seek(0, 2) - ENGINE_LOG_BYTES)
            file.seek(start)
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[2] if start else text
