"""Why a process ended without a word, as far as anybody but the kernel can tell. No widgets in here."""

from __future__ import annotations

import shutil

from engine.contract.i18n import _, n_
from engine.contract.rundir import RunDir

LEAST_FREE = 1 << 20  # bytes; a disk with less is as good as full


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
