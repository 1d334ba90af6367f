from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from engine.contract import events as ev
from engine.contract.glance import HEAD_BYTES, TAIL_BYTES
from engine.contract.process import Process
from engine.contract.rundir import RunList, Status
from rwkv_tui.services.overview import Overviews
from rwkv_tui.services.runs import (
    engine_log_tail,
    stop_asked,
    stop_run,
    summarise,
    summarise_runs,
)  # fmt: skip
from tests.fakes import stories

ALIVE = Process.current()
FAILED = ev.Failed(t=stories.T0 + 500, reason="no memory")
STOPPED = ev.Finished(t=stories.T0 + 500, status="stopped", step=31, seconds=20)


@pytest.mark.parametrize(
    ("owner", "told", "status"),
    [
        (None, [], "starting"),
        (ALIVE, stories.preparing(), "starting"),
        (ALIVE, stories.opening(), "running"),
        (stories.GONE, stories.opening(), "died"),
        (stories.GONE, [*stories.opening(), FAILED], "failed"),
        (stories.GONE, [*stories.opening(), STOPPED], "stopped"),
        (ALIVE, [*stories.opening(), FAILED, stories.opening()[-1]], "running"),
    ],
)
def test_status(tmp_path: Path, owner: Process | None, told: list[ev.Event], status: Status) -> None:
    run = stories.new_run(tmp_path / "run", "run", owner)
    stories.tell(run, told)
    assert summarise("run", run).status == status


def test_a_claim_is_dead_with_who_made_it(tmp_path: Path) -> None:
    """However old the file seems: clocks jump."""
    run = stories.new_run(tmp_path / "run", "run", None)
    os.utime(run.process, (1, 1))
    assert summarise("run", run).status == "starting"
    run.process.write_text(json.dumps({"name": "run", "launcher": asdict(stories.GONE)}))
    assert summarise("run", run).status == "died"


def test_a_long_file_is_summed_up_from_its_ends(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "run", ALIVE)
    stories.tell(run, stories.opening(epochs=10, epoch_steps=1000) + stories.stepping(tmp_path, 1, 4000))
    assert run.events.stat().st_size > HEAD_BYTES + TAIL_BYTES
    found = summarise("emoji", run)
    assert (found.name, found.status, found.method, found.version) == ("emoji", "running", "state", "x070")
    assert (found.step, found.steps) == (4000, 10_000)
    assert found.loss == pytest.approx(1.9, abs=0.2)
    assert found.started == stories.T0
    assert found.updated == pytest.approx(stories.T0 + 12 + 0.6 * 4000)


def test_the_list_has_every_run_whose_folder_exists(tmp_path: Path) -> None:
    runs = RunList(tmp_path / "runs")
    for name in ("one", "two", "three"):
        stories.new_run(tmp_path / name, name, ALIVE)
        runs.add(tmp_path / name)
    (tmp_path / "two" / "run.json").unlink()
    (tmp_path / "two").rmdir()
    assert {r.name for r in summarise_runs(tmp_path / "runs")} == {"one", "three"}
    assert summarise_runs(tmp_path / "nothing") == []


def test_folders_that_hold_anything_keep_nobody_waiting(tmp_path: Path) -> None:
    """Pipes, devices and folders in the place of files, and files of nothing that could be read."""
    runs = RunList(tmp_path / "runs")
    for number, (name, break_it) in enumerate(
        (name, way)
        for name in ("events.ndjson", "run.json", "settings.yaml", "stop.json", "engine.log")
        for way in (os.mkfifo, os.mkdir, lambda path: Path(path).symlink_to("/dev/zero"),
                    lambda path: Path(path).write_bytes(bytes(range(256)) * 9))
    ):  # fmt: skip
        run = stories.new_run(tmp_path / str(number), str(number), ALIVE)
        (run.path / name).unlink(missing_ok=True)
        break_it(run.path / name)
        runs.add(run.path)
        engine_log_tail(run)
    os.mkfifo(runs.folder / "pipe.json")
    found = summarise_runs(runs.folder)
    assert len(found) == 20 and {run.status for run in found} <= {"starting", "running", "died"}
    assert len(Overviews(runs.folder).read()) == 20


def test_a_folder_that_was_used_again_is_listed_once(tmp_path: Path) -> None:
    """By its newest name; the older entry is still found to be forgotten."""
    runs, folder = RunList(tmp_path / "runs"), tmp_path / "again"
    folder.mkdir()
    names = [runs.add(folder), runs.add(folder)]
    os.utime(runs.folder / f"{names[0]}.json", (1, 1))
    assert [name for name, _ in runs.all()] == names[1:]
    assert [name for name, _ in runs.all(gone=True)] == names[::-1]


def test_stopping_reaches_the_process_and_is_remembered(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: None)\nprint(1, flush=True)\ntime.sleep(60)"],
        stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert child.stdout is not None
        child.stdout.readline()
        run = stories.new_run(tmp_path / "run", "run", Process.of(child.pid))
        stories.tell(run, stories.opening())
        assert not stop_asked(run)
        assert stop_run(run)
        assert summarise("run", run).status == "stopping"
        assert stop_run(run, now=True)
        assert child.wait(10) < 0
        assert summarise("run", run).status == "died"
        assert not stop_run(run)
        run.record_process("run", ALIVE)
        assert summarise("run", run).status == "running"
    finally:
        child.kill()


def test_the_end_of_what_the_process_printed(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "run", ALIVE)
    assert engine_log_tail(run) == ""
    run.log.write_text("first line\n" + "x" * 20_000 + "\nlast line\n")
    assert engine_log_tail(run) == "last line\n"
