"""How the threads that compute share the processors with everything else."""

from __future__ import annotations

import os


def share_processors() -> None:
    """Has torch's threads sleep after microseconds of waiting for each other, not after milliseconds. To be
    called before torch is loaded, also for all processes begun from here.

    Where anything else runs on the processors, another run above all, those that wait take from those that
    compute, and a step takes ten times as long. Not where the person has said how to wait.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
