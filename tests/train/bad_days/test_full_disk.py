"""A full disk ends a run in one clear sentence, or nothing; what was saved before stays."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.paths import UserPaths
from engine.contract.plain import say
from engine.contract.settings import TrainSettings
from engine.train.run import run_training
from engine.train.writer import EventWriter
from rwkv_tui.services.launch import launch
from tests.train.bad_days.conftest import At, Making, failure, first_file_is_whole, forked, limited, of, read


def test_a_disk_that_is_full_when_saving_ends_the_run_and_keeps_the_last_file(make: Making, at: At) -> None:
    run = make()
    at(6, lambda: limited(20_000))  # a state of 33 kB
    assert forked(lambda: run_training(run)) == 1
    end = failure(run)
    assert end.reason == f"Cannot write {run.checkpoint(1)} (File too large)."
    first_file_is_whole(run)
    assert not run.checkpoint(1).exists() and run.resume_steps() == [3]


def test_a_disk_too_full_for_resuming_ends_nothing(make: Making, at: At) -> None:
    run = make()
    at(6, lambda: limited(60_000))  # the point has the optimizer's two moments, too
    assert forked(lambda: run_training(run)) == 0
    (warned,) = of(events.Warned, run)
    assert "resume-6.pt (File too large)" in warned.text and run.resume_steps() == [3]
    assert run.checkpoint(1).exists() and not list(run.path.glob(".*.part"))


def test_events_and_logs_wait_for_a_full_disk(make: Making, at: At) -> None:
    """From the middle of a line on nothing can be written for some steps; then all is told, in order."""
    run = make(epoch_steps=8, epoch_count=1)
    at(3, lambda: limited(run.events.stat().st_size + 100))
    at(6, lambda: limited(resource.RLIM_INFINITY))
    assert forked(lambda: run_training(run)) == 0
    lines = run.events.read_bytes().splitlines()
    assert len(lines) == len(read(run))  # no line is torn
    assert [e.step for e in of(events.Step, run)] == list(range(1, 9))
    assert isinstance(read(run)[-1], events.Finished)


def test_a_disk_that_stays_full_ends_the_run(tmp_path: Path) -> None:
    def act() -> int:
        writer = EventWriter(tmp_path / "events.ndjson")
        limited(0)
        writer(events.Log(text="x" * (3 << 20)))
        try:
            writer(events.Log(text="x" * (3 << 20)))
        except UserError as error:
            writer.close()
            return 7 if "File too large" in error.message and "resume" in error.remedy else 8
        return 9

    assert forked(act) == 7


def test_an_engine_log_on_a_full_disk_hides_no_failure(make: Making, at: At) -> None:
    run = make()
    at(2, lambda: 1 / 0)

    def act() -> int:
        run.log.write_text("x" * 9000)
        sys.stderr = run.log.open("a")
        limited(9000)
        with pytest.raises(OSError, match="large"):
            say("y", error=True)
        os._exit(run_training(run))

    assert forked(act) == 1
    assert "ZeroDivisionError: division by zero" in failure(run).reason


def test_a_disk_too_full_to_start_leaves_nothing_behind(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    paths = UserPaths.under(tmp_path / "user")
    settings = TrainSettings(load_model=tiny_model, data_file=tiny_data, proj_dir=tmp_path / "run")

    def act() -> int:
        paths.runs.mkdir(parents=True)
        for size in (0, 60, 100):  # in the list of runs, the claim, the settings
            limited(size)
            try:
                launch(settings, paths)
                return 8
            except UserError as error:
                if "File too large" not in error.message:
                    return 9
        return 7

    assert forked(act) == 7
    assert not list(paths.runs.iterdir()) and not list((tmp_path / "run").iterdir())
