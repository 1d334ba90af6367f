"""Conversion by several processes at once: the same bytes and the same words as by one."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.contract.errors import UserError
from engine.data import workers
from engine.data.convert import convert

TWO = {0, 1}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.rows.formats._LINES", 2000)
    monkeypatch.setattr("engine.data.encode._PIECE", 5000)
    monkeypatch.setattr("engine.data.convert._EVERY", 0.0)
    monkeypatch.setattr(workers, "_WORTH", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: TWO)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Texts, chats, a text longer than a piece, bad lines of every kind; the second file is packed."""
    rng = random.Random(0)
    lines = [
        json.dumps({"text": f"User: 你好 {i}\n\nAssistant: {'word ' * rng.randrange(99)}"})
        for i in range(300)
    ]
    lines[40] = json.dumps({"text": "All work and no play. 🙂\n" * 2000})
    lines[7], lines[120], lines[250] = "", "not json", '{"text": "\\ud83c"}'
    lines[200] = json.dumps({"prompt": "q", "completion": "a"})
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[::-1]).encode()))
    return [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]


def result(sources: list[Path], prefix: Path, **options: Any) -> Any:
    """What was told and written, the time it took aside."""
    try:
        report = convert(sources, prefix, held_out=0.1, force=True, **options)
    except UserError as error:
        return str(error)
    files = {path.name: path.read_bytes() for path in prefix.parent.glob(f"{prefix.name}*") if path.is_file()}
    return report.model_copy(update={"seconds": 0}), files


@pytest.mark.parametrize("skip_bad", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_bytes_and_words_are_those_of_one_process(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch, skip_bad: bool, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))
    started: list[int] = []
    enter = workers.Workers.__enter__

    def counted(self: workers.Workers) -> workers.Workers:
        entered = enter(self)
        started.append(len(self._children))
        return entered

    monkeypatch.setattr(workers.Workers, "__enter__", counted)
    together = result(sources, tmp_path / "x", skip_bad=skip_bad)
    assert started == [count]
    monkeypatch.setattr(workers, "_WORTH", 1 << 40)
    assert together == result(sources, tmp_path / "x", skip_bad=skip_bad)
    assert skip_bad or "line 121: not JSON" in together
    assert not multiprocessing.active_children()


def test_a_damaged_file_is_told_of_in_the_same_words(tmp_path: Path, sources: list[Path]) -> None:
    whole = sources[1].read_bytes()
    sources[1].write_bytes(whole[: len(whole) // 2])
    told = result(sources, tmp_path / "x", skip_bad=True)
    assert "b.jsonl.gz is damaged" in told and "Fetch or pack it again." in told


def long_source(path: Path) -> Path:
    """Makes each worker send more than the pipe to its parent holds."""
    path.write_text((json.dumps({"text": "one two three " * 100}) + "\n") * 5000)
    return path


def test_a_worker_that_dies_is_told_of(tmp_path: Path) -> None:
    source = long_source(tmp_path / "a.jsonl")

    def progress(phase: str, *_: object) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"ended unexpectedly \(exit status -9\); nothing was written"):
        convert(source, tmp_path / "x", progress=progress)
    assert sorted(tmp_path.iterdir()) == before and not multiprocessing.active_children()


def test_a_cancelled_conversion_ends_its_workers(tmp_path: Path, sources: list[Path]) -> None:
    def progress(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        convert(sources, tmp_path / "x", skip_bad=True, progress=progress)
    assert sorted(tmp_path.iterdir()) == before and not multiprocessing.active_children()


CHILD = """
import multiprocessing, os, sys, time
from pathlib import Path
from engine.data import workers
from engine.data.convert import convert

def progress(phase, done, total):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    workers._WORTH = 0
    os.sched_getaffinity = lambda _: {0, 1}
    convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    source = long_source(tmp_path / "a.jsonl")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(tmp_path / "out" / "a")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        pids = parent.stdout.readline().split()
        assert len(pids) == 2 and all(Path("/proc", pid).exists() for pid in pids)
        parent.send_signal(number)
    until = time.monotonic() + 20
    while any(Path("/proc", pid).exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path("/proc", pid).exists()]
