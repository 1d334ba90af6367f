"""Conversion in little memory and on a full disk, and whatever ends it: nothing half-done stays behind."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from engine.contract.errors import UserError
from engine.data.binidx import BinIdx
from engine.data.convert import convert
from engine.data.tokenizer import Tokenizer
from tests.data.test_convert import DOCUMENTS, halves, jsonl, names, texts


def test_one_huge_document_is_told_of_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "All work and no play. 你好 🙂\n" * 20_000
    source = jsonl(tmp_path / "a.jsonl", ["first", text])
    told: list[int] = []

    def progress(phase: str, done: int, total: int) -> None:
        told.append(done)
        if len(told) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("engine.data.convert._EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "a", progress=progress)
    assert names(tmp_path) == ["a.jsonl"] and told[1] < told[2] < source.stat().st_size

    convert(source, tmp_path / "a", repeat=1)
    assert sorted(texts(BinIdx(tmp_path / "a"))) == sorted(["first", text])
    ids = max((BinIdx(tmp_path / "a").item(i) for i in range(2)), key=len)
    assert ids.tolist() == [*Tokenizer().encode(text), 0]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the write fails with an OSError in the same place."""
    source = jsonl(tmp_path / "a.jsonl", DOCUMENTS * 20)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError, match="Cannot write"):
            convert(source, tmp_path / "a", repeat=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["a.jsonl"]


CHILD = """
import signal, sys, time
from pathlib import Path
from engine.data.convert import convert

def stop(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, stop)

def progress(phase, done, total):
    if phase == sys.argv[3] and done > 0:
        print(phase, flush=True)
        time.sleep(60)

convert(Path(sys.argv[1]), Path(sys.argv[2]), force=True, progress=progress)
"""


@pytest.mark.parametrize("old", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("phase", ["reading", "writing"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_in_the_middle(tmp_path: Path, number: signal.Signals, phase: str, old: bool) -> None:
    source, prefix = jsonl(tmp_path / "a.jsonl", DOCUMENTS), tmp_path / "out" / "a"
    if old:
        convert(source, prefix, repeat=1)
    before = names(prefix.parent) if old else []
    content = halves(prefix) if old else None
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(prefix), phase],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == f"{phase}\n"
        child.send_signal(number)
    left = names(prefix.parent)
    if number == signal.SIGKILL:
        parts = {f".a.bin.{child.pid}.part", f".a.idx.{child.pid}.part"}
        assert set(left) - set(before) == (parts if phase == "writing" else set())
    else:
        assert left == before
    assert content is None or halves(prefix) == content
    convert(source, prefix, repeat=1, force=True)
    assert names(prefix.parent) == ["a.bin", "a.idx", "a.idx.json"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The most that it and its workers have, pages that they share counted once (PSS), ten times a second.
    With blocks of a hundredth of the usual size, so that what they bound shows in a small file."""
    code = textwrap.dedent("""
        import contextlib, multiprocessing, os, sys
        from pathlib import Path
        from engine.data import scratch
        from engine.data.convert import convert
        scratch._SORTED = scratch._BLOCK = scratch._READ = scratch._MAPPED = 1 << 12
        peak = 0

        def measure(*_):
            global peak
            pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            lines = []
            for pid in pids:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    lines += open(f"/proc/{pid}/smaps_rollup")
            peak = max(peak, sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")))

        convert(Path(sys.argv[1]), Path(sys.argv[2]), repeat=2, progress=measure)
        print(peak)
    """)
    peaks = []
    for megabytes in (8, 40):
        source = tmp_path / f"{megabytes}.jsonl"
        line = json.dumps({"text": "User: 你好 🙂\n\nAssistant: " + "a quick answer " * 60}) + "\n"
        source.write_text(line * (megabytes * 1_000_000 // len(line)))
        command = [sys.executable, "-c", code, str(source), str(tmp_path / f"{megabytes}")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 12_000 and peaks[1] < 400 << 10, f"{peaks} KiB"


def everything(tmp_path: Path, **options: Any) -> None:
    """A conversion with every stage: two sources mixed, documents held out, a pair replaced."""
    sources = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    if not sources[0].exists():
        jsonl(sources[0], DOCUMENTS)
        jsonl(sources[1], DOCUMENTS[::-2])
    convert(sources, tmp_path / "out" / "x", repeat=2, weights=(1, 2), held_out=0.1, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_cancelled_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.convert._EVERY", 0.0)
    for name, value in (("_BLOCK", 16), ("_READ", 16), ("_SORTED", 16)):
        monkeypatch.setattr(f"engine.data.scratch.{name}", value)
    told: list[str] = []
    everything(tmp_path, seed=1, progress=lambda phase, *_: told.append(phase))
    before = content(tmp_path / "out")
    assert set(before) == {
        f"x{side}{half}" for side in ("", "-val") for half in (".bin", ".idx", ".idx.json")
    }
    assert list(dict.fromkeys(told)) == ["reading", "holding out", "writing"]
    for moment in range(0, len(told), 1 + len(told) // 60):
        left = moment

        def progress(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            everything(tmp_path, force=True, progress=progress)
        assert content(tmp_path / "out") == before


def test_the_disk_full_at_every_stage(tmp_path: Path) -> None:
    """Files may grow to ever larger sizes until all fit; a limit of size fails where a full disk would."""
    everything(tmp_path, seed=1)
    before = content(tmp_path / "out")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = range(0, 2 * max(map(len, before.values())), 100)
    for size in sizes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            everything(tmp_path, force=True)
        except UserError as error:
            assert "Cannot write" in error.message
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert content(tmp_path / "out") == before
    assert size > 2_000 and content(tmp_path / "out") != before
    assert names(tmp_path / "out") == sorted(before)


@pytest.mark.soak
def test_a_gigabyte_within_a_limit_that_the_kernel_holds(tmp_path: Path) -> None:
    """RLIMIT_AS: what the process has with the vocabulary loaded, and 128 MiB for everything else."""
    code = """
import resource, sys
from pathlib import Path
from engine.data.convert import convert
convert(Path(sys.argv[1]), Path(sys.argv[2], "small"), repeat=1)
size = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, ((size << 10) + (128 << 20),) * 2)
report = convert(Path(sys.argv[3]), Path(sys.argv[2], "large"), repeat=2, held_out=0.01)
peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(report.documents, peak)
"""
    small = jsonl(tmp_path / "small.jsonl", DOCUMENTS)
    with (tmp_path / "large.jsonl").open("w", encoding="utf-8") as file:
        written = number = 0
        while written < 1_000_000_000:
            text = f"User: {number} 你好 🙂\n\nAssistant: " + "a quick answer " * (number % 150)
            written += file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            number += 1
    arguments = [str(small), str(tmp_path), str(tmp_path / "large.jsonl")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    documents, peak = map(int, done.stdout.split())
    assert documents == number and peak < 400 << 10, f"{peak} KiB"
    assert len(BinIdx(tmp_path / "large")) > 1.9 * documents


@pytest.mark.soak
def test_a_table_whose_rows_lie_in_one_group_within_400_mib(tmp_path: Path) -> None:
    """250 MB of them, as one group of a Parquet file; linted and converted."""
    code = """
import sys
from pathlib import Path
from engine.data.convert import convert
from engine.data.plan import DataPlan
from engine.data.summary import summarise
summarise([Path(sys.argv[1])], DataPlan(), limit_bytes=None)
convert(Path(sys.argv[1]), Path(sys.argv[2]), repeat=2)
print(next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""
    rows = [f"User: {number} 你好 🙂\n\nAssistant: " + "a quick answer " * 160 for number in range(100_000)]
    table, file = pyarrow.table({"text": rows}), tmp_path / "a.parquet"
    del rows
    parquet.write_table(table, file, row_group_size=100_000, use_dictionary=False, compression="none")
    command = [sys.executable, "-c", code, str(file), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size > 240_000_000 and int(done.stdout) < 400 << 10, f"{done.stdout} KiB"
