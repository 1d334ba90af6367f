"""Ends the program when its terminal is gone and no signal has said so, as after `nohup`."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable

PATIENCE = 15.0
"""Seconds to leave in an orderly way: engine jobs under way are given ten."""


def watch_terminal(descriptor: int, leave: Callable[[], object]) -> None:
    """Calls `leave`, from a thread, once nobody is at the other end of the terminal at `descriptor`.

    What reads there would find its end again and again, for ever. The process ends all the same where it
    cannot leave, being stuck in writing.
    """
    threading.Thread(target=_wait, args=(descriptor, leave), name="hang-up", daemon=True).start()


def _wait(descriptor: int, leave: Callable[[], object]) -> None:
    hung_up = select.poll()
    hung_up.register(descriptor, 0)  # nothing but that it was hung up, which is always told
    hung_up.poll()
    leave()
    time.sleep(PATIENCE)
    os._exit(128 + signal.SIGHUP)
