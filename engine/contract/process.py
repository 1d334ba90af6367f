"""Who runs: a process is its pid and its start time, so that a reused pid is not mistaken for it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """`started` is the kernel's start time in clock ticks since the boot named by `boot`."""

    pid: int
    started: int
    boot: str

    @classmethod
    def current(cls) -> Process:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises OSError when there is no such process."""
        return cls(pid, _start_ticks(pid), _boot_id())

    @classmethod
    def from_record(cls, record: dict[str, object]) -> Process | None:
        pid, started, boot = record.get("pid"), record.get("started"), record.get("boot")
        if isinstance(pid, int) and isinstance(started, int) and isinstance(boot, str):
            return cls(pid, started, boot)
        return None

    def alive(self) -> bool:
        """True while this very process runs; a zombie does not."""
        try:
            return Process.of(self.pid) == self
        except OSError:
            return False

    def before_restart(self) -> bool:
        """True when the machine has been started anew since."""
        return self.boot != _boot_id()

    def interrupt(self) -> bool:
        """Asks it to stop (SIGTERM); False when it runs no more."""
        if not self.alive():
            return False
        os.kill(self.pid, signal.SIGTERM)
        return True

    def kill(self) -> bool:
        """Ends it at once, with what it started in its own group; False when it runs no more."""
        if not self.alive():
            return False
        if os.getpgid(self.pid) == self.pid:
            os.killpg(self.pid, signal.SIGKILL)
        else:
            os.kill(self.pid, signal.SIGKILL)
        return True


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when `parent`, which started it, ends in whatever way."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, see prctl(2)
    if os.getppid() != parent:  # too late to be told
        os.kill(os.getpid(), signal.SIGKILL)


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat, see proc_pid_stat(5); the command in field 2 may hold anything."""
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    )
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
