"""Other terminal programs beside ours: `python -m bench.beside --peers FOLDER [--seconds N]`.

FOLDER holds an environment for each of them, since they ask for different versions of Textual:

    for name in posting harlequin wandb; do
        python -m venv FOLDER/$name && FOLDER/$name/bin/pip install $name
    done
    FOLDER/posting/bin/pip install "tree-sitter<0.26"  # 0.26 crashes posting 2.11

What is not there is left out. All are measured in turns on the same terminal of 120x40 with
TERM=xterm-256color and a home of their own. The first frame is there when something can be read, and
settled when what can be read has stayed the same for 1.5 s: a blinking cursor goes on writing. CPU and
memory are those of all processes of a program together; of memory the proportional share (PSS), so that
what they share counts once. Then a run tells five steps a second for N seconds, and ours watches it beside
`wandb leet`, the one peer that watches runs.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.monitor import Story, app, shown_step
from bench.terminal import Terminal

QUIET = 1.5
TOLD_BEFORE = 300
"""Steps that a run has told before anybody looks."""
LOGGER = """
import sys, time, wandb
run = wandb.init(mode="offline", project="emoji", dir=sys.argv[1], settings=wandb.Settings(
    console="off", silent=True, x_disable_stats=True))
def log(n):
    run.log({"loss": 3 / (1 + n / 900) + n % 5 / 20, "lr": 1 / (1 + n), "kt_s": 0.85 + n % 7 / 100,
             "grad_norm": 0.4 + n % 11 / 30, "tokens": 512 * n}, step=n)
    print(n, time.monotonic(), flush=True)
for n in range(1, int(sys.argv[2]) + 1):
    log(n)
for line in sys.stdin:
    n += 1
    log(n)
"""
"""A run of W&B's that tells a step for each line it is given, and when it told it."""


@dataclass(frozen=True)
class Start:
    """Seconds to the first frame and to a settled one, bytes written by then, MiB held."""

    first: float
    settled: float
    written: int
    memory: float


def processes(terminal: Terminal) -> list[psutil.Process]:
    return [terminal.usage, *terminal.usage.children(recursive=True)]


def memory(terminal: Terminal) -> float:
    return sum(one.memory_full_info().pss for one in processes(terminal)) / 2**20


def cpu(terminal: Terminal) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes(terminal))


def start(command: Sequence[str]) -> Start:
    """One start of a program in a fresh home."""
    with tempfile.TemporaryDirectory() as folder, Terminal(list(command), Path(folder)) as terminal:
        first = terminal.until(lambda text: len(text.split()) > 5)
        settled, written, text = first, terminal.bytes, terminal.text()
        while (now := time.monotonic() - terminal.began) < settled + QUIET:
            terminal.read(0.05)
            if (fresh := terminal.text()) != text:
                settled, written, text = now, terminal.bytes, fresh
        return Start(first, settled, written, memory(terminal))


def starts(commands: dict[str, Sequence[str]], turns: int) -> None:
    """The medians of each program's starts, which take turns; the first turn fills caches."""
    found: dict[str, list[Start]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, command in commands.items():
            one = start(command)
            if turn:
                found[name].append(one)
    print("| | first frame | settled | written | memory |\n|---|---|---|---|---|")
    for name, made in found.items():
        first, settled, written, held = (
            statistics.median(getattr(one, figure) for one in made)
            for figure in ("first", "settled", "written", "memory")
        )
        print(f"| {name} | {first:.2f} s | {settled:.2f} s | {written / 1000:.1f} KB | {held:.0f} MiB |")


@dataclass(frozen=True)
class Watching:
    """A program that watches a run: `tell` makes the run take a step, `shown` reads its number there."""

    terminal: Terminal
    tell: Callable[[], None]
    shown: Callable[[str], int]


def watch(name: str, one: Watching, seconds: float) -> None:
    """Five steps a second for `seconds`, and what watching them costs."""
    terminal, told, ages = one.terminal, dict[int, float](), list[float]()
    seen = step = one.shown(terminal.text())
    used, written, began = cpu(terminal), terminal.bytes, time.monotonic()
    due = began
    while (now := time.monotonic()) < began + seconds:
        if now >= due:
            one.tell()
            step, due = step + 1, due + 0.2
            told[step] = now
        terminal.read(max(0.0, min(due - time.monotonic(), 0.05)))
        seen = max(seen, one.shown(terminal.text()))
        late = [t for number, t in told.items() if number > seen]
        ages.append(time.monotonic() - min(late) if late else 0.0)
    wall = time.monotonic() - began
    rate, busy = (terminal.bytes - written) / wall / 1000, (cpu(terminal) - used) / wall
    print(f"| {name} | {rate:.1f} KB/s | {busy:.1%} | {memory(terminal):.0f} MiB | {max(ages):.1f} s |")


def watch_ours(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder), 5, 1000)
        story.tell(TOLD_BEFORE)
        with Terminal(app(), Path(folder)) as terminal:
            terminal.until(lambda text: "emoji" in text)
            terminal.send("\r")
            terminal.until(lambda text: shown_step(text) == TOLD_BEFORE)
            terminal.keep(2 * QUIET)
            watch("rwkv-tune", Watching(terminal, story.tell, shown_step), seconds)


def leet_step(text: str) -> int:
    match = re.search(r"_step +(\d+)", text)
    return int(match[1]) if match else 0


def watch_leet(environment: Path, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        logger = subprocess.Popen(
            [environment / "bin/python", "-c", LOGGER, folder, str(TOLD_BEFORE)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "HOME": folder}, text=True,
        )  # fmt: skip
        assert logger.stdin and logger.stdout
        try:
            while not logger.stdout.readline().startswith(f"{TOLD_BEFORE} "):
                pass

            def tell() -> None:
                assert logger.stdin
                logger.stdin.write("\n")
                logger.stdin.flush()

            with Terminal([str(environment / "bin/wandb"), "leet"], Path(folder)) as terminal:
                terminal.until(lambda text: leet_step(text) > 0, 60)
                terminal.keep(2 * QUIET)
                watch("wandb leet", Watching(terminal, tell, leet_step), seconds)
        finally:
            logger.kill()
            logger.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    folder = args.peers.absolute()
    commands: dict[str, Sequence[str]] = {"rwkv-tune": app()}
    for name, words in (("posting", ["posting"]), ("harlequin", ["harlequin"]), ("wandb", ["wandb", "leet"])):
        program = folder / name / "bin" / words[0]
        if program.exists():
            commands[" ".join(words)] = [str(program), *words[1:]]
        else:
            print(f"{name} is not there: {program}", file=sys.stderr)
    starts(commands, args.turns)
    print("\n| | written | of a core | memory | figures old at most |\n|---|---|---|---|---|")
    watch_ours(args.seconds)
    if (folder / "wandb/bin/wandb").exists():
        watch_leet(folder / "wandb", args.seconds)


if __name__ == "__main__":
    main()
