"""What the screens cost, measured on a terminal of 120x40: `python bench/monitor.py [PART...] [--seconds N]`.

The parts are first, live, long, idle and keys; all of them unless some are named. The app is a process of
its own on a pseudo-terminal, and a small screen model keeps what a person would see, so that a figure
counts as shown when it can be read. The first frame is timed beside that of a small form in Textual, in
turns. Bytes are those that reach the terminal, CPU and memory those of the app's process.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import psutil
from rich.cells import cell_len

from engine.contract import events as ev
from engine.contract.process import Process
from engine.contract.rundir import RunDir, RunList

WIDTH, HEIGHT = 120, 40
ROOT = Path(__file__).parents[1]
STEADY = 13.0
"""Seconds until the monitor's figures of the machine, means over ten seconds, know no start any more."""
FORM = """
from textual.app import App
from textual.widgets import Button, Checkbox, Footer, Header, Input, Label, Select

class Form(App):
    def compose(self):
        yield Header()
        for name in ("Name", "Street", "Town", "Country"):
            yield Label(name)
            yield Input(placeholder=name)
        yield Select([("one", 1), ("two", 2)])
        yield Checkbox("Agreed")
        yield Button("Send the form")
        yield Footer()

Form().run()
"""
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
        self.process.kill()
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


class Story:
    """A run of this very process's, told step by step into a home of its own."""

    def __init__(self, folder: Path, epochs: int, epoch_steps: int) -> None:
        sys.path.insert(0, str(ROOT))
        from tests.fakes import stories

        self._stories = stories
        self.epochs, self.epoch_steps = epochs, epoch_steps
        self.step = 0
        self.told: dict[int, float] = {}
        runs = folder / ".local/state/rwkv-tune/runs"
        self.run = RunDir(folder / "emoji")
        RunList(runs).add(self.run.path)
        stories.new_run(self.run.path, "emoji", Process.current())
        now = time.time()
        opening = stories.opening(epochs=epochs, epoch_steps=epoch_steps)
        stories.tell(self.run, [e.model_copy(update={"t": now}) for e in opening])

    def line(self, step: int, t: float) -> str:
        steps = self.epochs * self.epoch_steps
        loss = self._stories.loss_at(step)
        return json.dumps({
            "v": 1, "t": t, "type": "step", "step": step, "epoch": (step - 1) // self.epoch_steps,
            "loss": loss, "loss_smooth": loss * 0.98, "lr": self._stories.lr_at(step, steps),
            "kt_s": 0.85 + step % 7 / 100, "step_s": 0.2, "grad_norm": 0.4 + step % 11 / 30,
            "tokens": 512 * step,
        }, separators=(",", ":")) + "\n"  # fmt: skip

    def tell(self, count: int = 1) -> None:
        """Appends steps as the engine does."""
        lines = []
        for _ in range(count):
            self.step += 1
            self.told[self.step] = time.monotonic()
            lines.append(self.line(self.step, time.time()))
        with self.run.events.open("a") as file:
            file.writelines(lines)

    def history(self, steps: int) -> None:
        """Steps that lie in the past, five a second."""
        now = time.time()
        with self.run.events.open("a") as file:
            for step in range(1, steps + 1):
                file.write(self.line(step, now - (steps - step) * 0.2))
                if step % self.epoch_steps == 0:
                    t, epoch = now - (steps - step) * 0.2, step // self.epoch_steps - 1
                    file.write(ev.dump_event(ev.Epoch(t=t, epoch=epoch, loss=2.0, lr=0.5, seconds=200)))
        self.step = steps


def app() -> list[str]:
    return [sys.executable, "-m", "rwkv_tui"]


def first_frame(turns: int = 5) -> None:
    """From the start of the process to a screen that can be read, the app's and the form's in turns."""
    ours: list[float] = []
    forms: list[float] = []
    for turn in range(turns + 1):  # the first turn compiles what is imported
        with tempfile.TemporaryDirectory() as folder:
            with Terminal([sys.executable, "-c", FORM], Path(folder)) as terminal:
                form = terminal.until(lambda text: "Send the form" in text and "palette" in text)
            with Terminal(app(), Path(folder)) as terminal:
                wizard = terminal.until(lambda text: "Data" in text and "Keys" in text)
            if turn:
                forms.append(form)
                ours.append(wizard)
    ratio = statistics.median(ours) / statistics.median(forms)
    print(
        f"first frame    {statistics.median(ours):.3f} s; a small form {statistics.median(forms):.3f} s; "
        f"ratio {ratio:.2f} (wanted: 1.3), best of each {min(ours) / min(forms):.2f}"
    )


def shown_step(text: str) -> int:
    """The step the monitor shows, 0 when it shows none."""
    match = re.search(r"step +([\d,]+)/[\d,]+", text)
    return int(match[1].replace(",", "")) if match else 0


def _open(terminal: Terminal) -> None:
    terminal.until(lambda text: "emoji" in text)
    terminal.send("\r")


def _load(name: str, terminal: Terminal, story: Story, seconds: float) -> None:
    """Five steps a second for `seconds`, and what the app costs meanwhile."""
    ages: list[float] = []
    used, written, began = sum(terminal.usage.cpu_times()[:2]), terminal.bytes, time.monotonic()
    due, seen = began, shown_step(terminal.text())
    while (now := time.monotonic()) < began + seconds:
        if now >= due:
            story.tell()
            due += 0.2
        terminal.read(max(0.0, min(due - time.monotonic(), 0.05)))
        seen = max(seen, shown_step(terminal.text()))
        late = [t for step, t in story.told.items() if step > seen]
        ages.append(time.monotonic() - min(late) if late else 0.0)
    wall = time.monotonic() - began
    cpu = (sum(terminal.usage.cpu_times()[:2]) - used) / wall
    rss = terminal.usage.memory_info().rss / 2**20
    print(
        f"{name:<14} {(terminal.bytes - written) / wall / 1000:.2f} KB/s (4), {cpu:.1%} of a core (3 %), "
        f"{rss:.0f} MiB (70), figures {max(ages):.2f} s old at most (1)"
    )


def live(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), 5, 1000)
        story.tell(300)
        with Terminal(app(), Path(folder)) as terminal:
            _open(terminal)
            terminal.until(lambda text: shown_step(text) == 300)
            terminal.settle(1.0)
            _load("live", terminal, story, seconds)


def long_run(seconds: float) -> None:
    """A run of 100,000 steps: how long until all of it is drawn, and the load after that."""
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), 200, 1000)
        story.history(100_000)
        with Terminal(app(), Path(folder)) as terminal:
            terminal.until(lambda text: "emoji" in text)
            terminal.settle(0.5)
            began = time.monotonic()
            terminal.send("\r")
            terminal.until(lambda text: shown_step(text) == 100_000 and "┤" in text)
            known = time.monotonic() - began
            drawn = terminal.settle(0.7) - began
            print(f"100,000 steps  attached in {known:.2f} s, drawn whole in {drawn:.2f} s (1.5)")
            story.told.clear()
            _load("then live", terminal, story, seconds)


def idle(seconds: float) -> None:
    """A run that says nothing new, once the figures of the machine are means over their ten seconds."""
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), 5, 1000)
        story.tell(300)
        with Terminal(app(), Path(folder)) as terminal:
            _open(terminal)
            terminal.until(lambda text: shown_step(text) == 300)
            terminal.keep(STEADY)
            written, used, before = terminal.bytes, sum(terminal.usage.cpu_times()[:2]), terminal.text()
            terminal.keep(seconds)
            cpu = (sum(terminal.usage.cpu_times()[:2]) - used) / seconds
            print(
                f"idle           {terminal.bytes - written} bytes in {seconds:.0f} s (0), {cpu:.1%} of a core"
            )
            for was, now in zip(before.split("\n"), terminal.text().split("\n"), strict=True):
                if was != now:  # what changed on the machine, where something did
                    print(f"    before: {was.strip()}\n    after:  {now.strip()}")


def keys(turns: int = 40) -> None:
    """From a key to its answer on the screen, at rest and while the run writes 1,000 events a second."""
    with tempfile.TemporaryDirectory() as folder:
        story, over = Story(Path(folder), 1000, 1000), threading.Event()
        story.tell(300)

        def write() -> None:
            while not over.wait(0.02):
                story.tell(20)

        with Terminal(app(), Path(folder)) as terminal:
            _open(terminal)
            terminal.until(lambda text: shown_step(text) >= 300 and "smooth 0.95" in text)
            terminal.settle(1.0)
            at_rest = _answers(terminal, turns)
            writer = threading.Thread(target=write)
            writer.start()
            under_load = _answers(terminal, turns)
            over.set()
            writer.join()
    print(f"keys           {_spread(at_rest)} at rest; {_spread(under_load)} at 1,000 events/s (50 ms)")


def _answers(terminal: Terminal, turns: int) -> list[float]:
    """Seconds until charts are smoothed more or less, as keys ask for it."""
    waits = []
    for turn in range(turns):
        end = time.monotonic() + 0.11 + 0.037 * (turn % 7)
        while time.monotonic() < end:
            terminal.read(0.01)
        key, answer = (("m", "smooth 0.98"), ("M", "smooth 0.95"))[turn % 2]
        began = time.monotonic()
        terminal.send(key)
        while answer not in terminal.text():
            terminal.read(0.02)
            if time.monotonic() - began > 10:
                raise TimeoutError(f"it was not shown:\n{terminal.text()}")
        waits.append(time.monotonic() - began)
    return sorted(waits)


def _spread(waits: list[float]) -> str:
    most = waits[len(waits) * 9 // 10 - 1]
    return f"{statistics.median(waits) * 1000:.0f} ms (9 of 10 within {most * 1000:.0f})"


def main() -> None:
    parts: dict[str, Callable[[float], None]] = {
        "first": lambda _: first_frame(), "live": live, "long": long_run, "idle": idle,
        "keys": lambda _: keys(),
    }  # fmt: skip
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", help=", ".join(parts))
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    for name in args.part or parts:
        parts[name](args.seconds)


if __name__ == "__main__":
    main()
