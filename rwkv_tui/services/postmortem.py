"""Why a process ended without a word, as far as anybody but the kernel can tell. No widgets in here."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

from engine.contract.errors import UserError
from engine.contract.i18n import _, n_
from engine.contract.rundir import RunDir

LEAST_FREE = 1 << 20  # bytes; a disk with less is as good as full


@dataclass(frozen=True)
class Shortage:
    """What a run is known to have lacked, in a sentence; what to do, in another one and, as far as that
    would do, as `changes` of its settings."""

    said: str
    remedy: str
    changes: dict[str, str] = field(default_factory=dict)


def shortage(run: RunDir, device: str) -> Shortage | None:
    """Of a run that died; `device` is what it computed with, "" where it died before that was chosen."""
    if memory := short_of_memory(run):
        return Shortage(memory, *_less_memory(run, device))
    if disk := short_of_disk(run):
        return Shortage(disk, _("Free some space, then resume the run."))
    return None


def _less_memory(run: RunDir, device: str) -> tuple[str, dict[str, str]]:
    """What would fit into this computer's memory, the cheapest first; of a run on a GPU that holds little
    but the model while it is loaded."""
    from engine.checkpoints.inspect import with_size
    from engine.contract.memory import (  # pydantic: a list of runs does without
        advice,
        on_cpu,
        savings,
        without_gpu,
    )
    from engine.estimate import needed_of_host, what_fits

    try:
        s = run.read_settings(files=False)
        if device and not on_cpu(device):
            offload = s.strategy.endswith("_offload")
            changes = {"strategy": s.strategy.removesuffix("_offload")} if offload else {}
            changes |= {"grad_cp": "1"} if s.grad_cp == 2 else {}  # whose inputs wait there
            return _("Close other programs, or take a smaller model: the run was on a GPU, and of the "
                     "computer's memory it takes what its model needs to be loaded."), changes  # fmt: skip
        kills = run.oom_kills()
        room = kills.room() // max(1, s.devices) if kills else 0
        s = without_gpu(s)
        found = what_fits(with_size(s), room, needed_of_host) if room else None
    except UserError:
        return _("Close other programs, or take a smaller model."), {}
    return found or (advice(s), next((saving.changes for saving in savings(s)), {}))


def short_of_memory(run: RunDir) -> str:
    """A sentence when the kernel has ended processes for lack of memory since the run began, else "".

    It says as much as is known: the one that was ended may have been another.
    """
    kills = run.oom_kills()
    count = kills.since() if kills else 0
    owner = run.owner()
    if not count or kills is None or owner is None or owner.before_restart():
        return ""
    if kills.of_all:
        return n_(
            "Most likely the kernel killed it because the computer's memory was full: since the run began "
            "that has happened once on this machine.",
            "Most likely the kernel killed it because the computer's memory was full: since the run began "
            "that has happened {n} times on this machine.",
            count,
        )
    return n_(
        "Most likely the kernel killed it because the computer's memory was full: since the run began that "
        "has happened once in its memory group.",
        "Most likely the kernel killed it because the computer's memory was full: since the run began that "
        "has happened {n} times in its memory group.",
        count,
    )


def short_of_disk(run: RunDir) -> str:
    """A sentence when there is no space left for the run's files, else ""."""
    try:
        full = shutil.disk_usage(run.path).free < LEAST_FREE
    except OSError:
        return ""
    return _("The disk that holds {folder} is full.", folder=run.path) if full else ""
