"""What the screens cost, measured on a terminal of 120x40: `python -m bench.monitor [PART...] [--seconds N]`.

The parts are first, live, long, idle and keys; all of them unless some are named. The app is a process of
its own on a pseudo-terminal, and a small screen model keeps what a person would see, so that a figure
counts as shown when it can be read. The first frame is timed beside that of a small form in Textual, in
turns. Bytes are those that reach the terminal, CPU and memory those of the app's process. `bench.beside`
measures other programs in the same way.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.terminal import Terminal
from engine.contract import events as ev
from engine.contract.process import Process
from engine.contract.rundir import RunDir, RunList
from tests.fakes import stories

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


class Story:
    """A run of this very process's, told step by step into a home of its own."""

    def __init__(self, folder: Path, epochs: int, epoch_steps: int) -> None:
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
        loss = stories.loss_at(step)
        return json.dumps({
            "v": 1, "t": t, "type": "step", "step": step, "epoch": (step - 1) // self.epoch_steps,
            "loss": loss, "loss_smooth": loss * 0.98, "lr": stories.lr_at(step, steps),
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


def app(lang: str = "en") -> list[str]:
    return [sys.executable, "-m", "rwkv_tui", "--lang", lang]


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
    match = re.search(r"([\d,]+)/[\d,]+ [━─]", text)  # of two bars the first
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


def live(lang: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), 5, 1000)
        story.tell(300)
        with Terminal(app(lang), Path(folder)) as terminal:
            _open(terminal)
            terminal.until(lambda text: shown_step(text) == 300)
            terminal.settle(1.0)
            _load("live", terminal, story, seconds)


def long_run(lang: str, seconds: float) -> None:
    """A run of 100,000 steps: how long until all of it is drawn, and the load after that."""
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), 200, 1000)
        story.history(100_000)
        with Terminal(app(lang), Path(folder)) as terminal:
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


def idle(lang: str, seconds: float) -> None:
    """A run that says nothing new, once the figures of the machine are means over their ten seconds."""
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), 5, 1000)
        story.tell(300)
        with Terminal(app(lang), Path(folder)) as terminal:
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", help="first, live, long, idle, keys")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lang", default="en", help="the language of live, long and idle")
    args = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "first": first_frame, "live": partial(live, args.lang, args.seconds),
        "long": partial(long_run, args.lang, args.seconds), "idle": partial(idle, args.lang, args.seconds),
        "keys": keys,
    }  # fmt: skip
    for name in args.part or parts:
        parts[name]()


if __name__ == "__main__":
    main()
