"""A program on a pseudo-terminal of 120x40, and what a person sees of it; for measurements of screens."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path

import psutil
from rich.cells import cell_len

WIDTH, HEIGHT = 120, 40
ROOT = Path(__file__).parents[1]
_ESCAPE = re.compile(
    rb"\x1b(?:\[([0-9;?<>=]*)[ -/]*([@-~])|[\]PX^_].*?(?:\x07|\x1b\\)|[ -/]*[0-~])", re.DOTALL
)


class Terminal:
    """A process on a pseudo-terminal, and the cells it has written; `bytes` counts what it wrote."""

    def __init__(self, command: list[str], home: Path) -> None:
        self.began = time.monotonic()
        self.bytes = 0
        self.cells = [[" "] * WIDTH for _ in range(HEIGHT)]
        self._x = self._y = 0
        self._rest = b""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        kept = {n: v for n, v in os.environ.items() if not n.startswith("XDG_") and n != "NO_COLOR"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=home, start_new_session=True,
            env={**kept, "TERM": "xterm-256color", "HOME": str(home), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.close(slave)
        self.usage = psutil.Process(self.process.pid)

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read(self, seconds: float) -> bool:
        """Takes in what comes within `seconds`; True when something came."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:
            return False
        self.bytes += len(data)
        self._write(data)
        return bool(data)

    def until(self, shown: Callable[[str], bool], seconds: float = 30) -> float:
        """Seconds until the screen's text satisfies `shown`."""
        began = time.monotonic()
        while not shown(self.text()):
            self.read(0.05)
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"it was not shown:\n{self.text()}")
        return time.monotonic() - began

    def settle(self, quiet: float = 1.5) -> float:
        """Reads until nothing has come for `quiet` seconds; the time of the last that came."""
        last = time.monotonic()
        while self.read(quiet):
            last = time.monotonic()
        return last

    def keep(self, seconds: float) -> None:
        """Goes on reading for so long, whatever comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(min(left, 0.1))

    def text(self) -> str:
        return "\n".join("".join(row) for row in self.cells)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        self._rest = b""
        while at < len(data):
            if data[at] != 0x1B:
                end = data.find(b"\x1b", at)
                end = len(data) if end < 0 else end
                self._print(self._decode(data[at:end]))
                at = end
            elif match := _ESCAPE.match(data, at):
                self._control(match[1] or b"", match[2] or b"")
                at = match.end()
            else:
                self._rest = data[at:]
                return

    def _print(self, text: str) -> None:
        for char in text:
            if char == "\n":
                self._y = min(self._y + 1, HEIGHT - 1)
            elif char == "\r":
                self._x = 0
            elif (width := cell_len(char)) and self._x < WIDTH:
                self.cells[self._y][self._x] = char
                if width == 2 and self._x + 1 < WIDTH:
                    self.cells[self._y][self._x + 1] = ""
                self._x += width

    def _control(self, numbers: bytes, kind: bytes) -> None:
        if kind == b"H":
            row, _, column = numbers.partition(b";")
            self._y, self._x = int(row or 1) - 1, int(column or 1) - 1
        elif kind == b"J":
            self.cells = [[" "] * WIDTH for _ in range(HEIGHT)]
        elif kind == b"K":
            self.cells[self._y][self._x :] = [" "] * (WIDTH - self._x)
        elif kind == b"G":
            self._x = int(numbers or 1) - 1
        elif kind == b"C":
            self._x += int(numbers or 1)
