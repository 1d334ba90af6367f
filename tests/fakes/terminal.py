"""A real terminal for a program: a pty of its own, which can be hung up."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\)|[ -/]*[0-~])", re.DOTALL)


def _take_terminal(nohup: bool) -> None:
    """Heeds signals as what a shell starts there does; the tests themselves may run in the background."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    if nohup:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """Runs a program in a session of its own whose controlling terminal is the pty; `nohup` as that does."""

    def __init__(
        self,
        words: Sequence[object],
        *,
        columns: int = 80,
        rows: int = 24,
        nohup: bool = False,
        **options: object,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", **options.pop("env", {})}  # type: ignore[dict-item]
        env.pop("TMUX", None)  # where the tests are run in one
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            list(map(str, words)), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=partial(_take_terminal, nohup), env=env, **options,  # type: ignore[call-overload] # noqa: PLW1509
        )  # fmt: skip
        os.close(slave)
        self.raw = b""
        self._hung_up = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Never blocks in a read: that would keep the pty open after it was hung up."""
        while not self._hung_up:
            if not select.select([self._master], [], [], 0.02)[0]:
                continue
            try:
                fresh = os.read(self._master, 1 << 16)
            except OSError:  # the program has ended
                return
            if not fresh:
                return
            self.raw += fresh

    @property
    def text(self) -> str:
        """What was written so far, without escape sequences."""
        return _ESCAPES.sub(b"", self.raw).decode("utf-8", "replace")

    def sees(self, wanted: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while wanted not in self.text:
            if time.monotonic() > deadline:
                pytest.fail(f"no {wanted!r} in\n{self.text[-3000:]}")
            time.sleep(0.02)

    def keys(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def rests(self) -> None:
        """Waits until the program waits for a key. A signal that comes just before it begins to would be
        noticed only after one."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        for _ in range(1000):
            if stat.read_text().rpartition(")")[2].split()[0] == "S":
                return
            time.sleep(0.02)
        pytest.fail("it never waits")

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    def hang_up(self) -> None:
        """Closes the terminal's side of the pty, as a terminal emulator that is killed does."""
        self._hung_up = True
        self._reader.join()
        os.close(self._master)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
