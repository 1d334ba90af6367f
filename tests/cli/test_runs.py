"""runs, attach, stop, logs, rm and resume, on runs that are told and on a process that tells one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from engine.contract import events as ev
from engine.contract.paths import UserPaths
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir, RunList
from engine.contract.settings import TrainSettings
from rwkv_tui.cli import main
from rwkv_tui.commands.follow import BarShow
from rwkv_tui.services import launch as launching
from rwkv_tui.services.runs import stop_run, summarise
from tests.conftest import Command
from tests.fakes import fake_engine, stories
from tests.fakes.terminal import Terminal

KEYS = ["name", "proj_dir", "status", "method", "version", "step", "steps", "loss", "started", "updated"]
Add = Callable[..., RunDir]
Live = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def add(home: Path, tmp_path: Path) -> Add:
    """Adds a run to the list: 31 steps of it are told."""

    def make(
        name: str, *, owner: Process | None = stories.GONE, told: list[ev.Event] | None = None
    ) -> RunDir:
        run = stories.new_run(tmp_path / name, name, owner)
        more = stories.opening() + stories.stepping(run.path, 1, 31)
        stories.tell(run, [*more, *(told or [])])
        RunList(UserPaths.of_user().runs).add(run.path)
        return run

    return make


@pytest.fixture
def live(home: Path, tmp_path: Path) -> Iterator[Live]:
    """Adds runs that go on: a process each, which tells a step every 0.05 s."""
    processes = []

    def make(name: str, steps: int = 1000) -> subprocess.Popen[bytes]:
        process = fake_engine.start(tmp_path / name, name, steps, 0.05)
        processes.append(process)
        run = RunDir(tmp_path / name)
        while not run.events.exists() or summarise(name, run).step < 1:
            time.sleep(0.02)
        RunList(UserPaths.of_user().runs).add(run.path)
        return process

    yield make
    for process in processes:
        process.kill()
        process.wait()


def test_an_empty_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0 and "no runs yet" in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0 and json.loads(capsys.readouterr().out) == []
    assert main(["attach"]) == 1 and "no runs yet" in capsys.readouterr().err


def test_the_list_has_exactly_these_keys(add: Add, capsys: pytest.CaptureFixture[str]) -> None:
    finished = ev.Finished(t=stories.T0 + 99, status="finished", step=31, seconds=20)
    add("one", told=[finished])
    add("two")
    RunDir(add("empty").path).events.unlink()
    assert main(["runs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert all(list(run) == KEYS for run in listed)
    by_name = {run["name"]: run for run in listed}
    one = by_name["one"]
    assert (one["status"], one["method"], one["version"]) == ("finished", "state", "x070")
    assert (one["step"], one["steps"], one["started"], one["updated"]) == (31, 1000, stories.T0, finished.t)
    assert Path(one["proj_dir"]).name == "one" and one["loss"] == pytest.approx(3.3, abs=0.5)
    assert by_name["empty"] == {
        "name": "empty", "proj_dir": by_name["empty"]["proj_dir"], "status": "died", "method": "",
        "version": "", "step": 0, "steps": 0, "loss": None, "started": None, "updated": None,
    }  # fmt: skip


def test_a_run_before_a_restart_says_when_it_was_seen_and_how_to_go_on(
    add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    run = add("two", owner=Process(os.getpid(), Process.current().started, "another boot"))
    (run.path / "resume-20.sha256").touch()
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "died at step 31 of 1,000 when the machine was restarted (last seen 20" in out
    assert "`rwkv-tune resume two` goes on from step 20" in out


def test_the_newest_runs_that_wait_say_why_and_the_others_are_counted(
    add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        add(f"run-{number}", told=[ev.Failed(t=stories.T0 + 99, reason="The loss is nan since step 3.")])
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 older runs can be resumed, too."
    assert len(lines) == 2 + 7 + 5 + 1 and all("Why: The loss is nan since step 3." in s for s in lines[9:14])


def test_names_cannot_steer_the_terminal(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stories.new_run(tmp_path / "r", "r", stories.GONE)
    stories.tell(run, [*stories.opening(), ev.Log(t=stories.T0, text="\x1b]0;owned\x07\x1b[2J")])
    run.log.write_bytes(b"\x1b[31mred\x1b[0m\r\n\xff\n")
    runs = RunList(UserPaths.of_user().runs)
    runs.add(run.path)
    (runs.folder / "r.json").rename(runs.folder / "\x1b[2Jr.json")
    for words in (["runs"], ["logs"], ["attach"], ["stop"]):
        main(words)
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err and "\x07" not in told.out


def test_stop_waits_and_tells(live: Live, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    live("going")
    assert main(["stop", "go"]) == 0
    said, meanwhile = capfd.readouterr()
    assert "asked to stop: step" in meanwhile and "saved " in meanwhile
    assert "going stopped at step" in said and "rwkv-tune resume going" in said
    assert summarise("going", RunDir(tmp_path / "going")).status == "stopped"
    assert main(["stop"]) == 0 and "ended already" in capfd.readouterr().out


def test_two_stops_at_once_are_one(live: Live, tmp_path: Path) -> None:
    process, run = live("going"), RunDir(tmp_path / "going")
    threads = [threading.Thread(target=lambda: [stop_run(run) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait(30) in (130, -15)  # the fake may be asked once more while Python leaves
    told = [ev.parse_event(line) for line in run.events.read_bytes().splitlines()]
    assert sum(isinstance(event, ev.Finished) for event in told) == 1 and None not in told
    assert not list(run.path.glob("*.part"))


def test_now_kills_what_does_not_heed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process that ignores SIGTERM, and one it started."""
    monkeypatch.setattr("rwkv_tui.commands.runs.GRACE_S", 0.5)
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = Process.of(int(process.stdout.readline()))
    threading.Thread(target=process.wait, daemon=True).start()
    run = stories.new_run(tmp_path / "deaf", "deaf", Process.of(process.pid))
    stories.tell(run, stories.opening() + stories.stepping(run.path, 1, 3))
    RunList(UserPaths.of_user().runs).add(run.path)
    assert main(["stop", "--now"]) == 0
    assert "ended at once" in (said := capfd.readouterr().out) and "died at step 3" in said
    time.sleep(0.1)
    assert not child.alive()


def test_logs_follow_to_the_end(live: Live, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    live("going", steps=12)
    (tmp_path / "going" / "engine.log").write_text("a word of the process\n")
    assert main(["logs", "-f"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "engine.log: a word of the process"
    assert lines[1].startswith("2025-10-09 ") and "loss before training" in lines[1]
    assert "finished at step 12" in lines[-1]


def test_a_pipe_follows_to_the_end(
    live: Live, rwkv_tune: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live("going", steps=12)
    assert main(["attach", "--json"]) == 0
    told = [ev.parse_event(line) for line in capsys.readouterr().out.splitlines()]
    assert [event.step for event in told if isinstance(event, ev.Step)] == list(range(1, 13))
    assert main(["attach"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "finished after 12 steps" in lines[-1]


def test_a_run_from_another_machine_is_listed_once_it_is_resumed(
    home: Path, tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = stories.new_run(tmp_path / "copied", "theirs", stories.GONE)
    values = TrainSettings(load_model=tiny_model, data_file=tiny_data, proj_dir=run.path)
    run.settings.write_text(render_yaml(values, "theirs"))

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)  # as on some network file systems
    begun: list[str] = []
    monkeypatch.setattr(launching, "_begin", lambda name, *_: begun.append(name))
    for _turn in range(2):
        assert main(["resume", str(run.path), "--detach"]) == 0
    assert begun == ["theirs", "copied"] and capsys.readouterr().out == "copied\ncopied\n"
    assert RunList(UserPaths.of_user().runs).all() == [("copied", run)]


def test_rm_keeps_what_was_trained_and_what_others_put_there(
    add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    run = add("old")
    records = [
        "settings.yaml",
        "engine.log",
        "stop.json",
        "resume-20.pt",
        "resume-20-1.pt",  # of a second process
        "resume-20.sha256",
        ".run.json.7.part",
    ]
    kept = ["rwkv-0.pth", "train_log.txt", "mine.txt"]
    for name in records + kept:
        (run.path / name).touch()
    (run.path / "rwkv-1").mkdir()
    (run.path / "rwkv-1" / "adapter_model.safetensors").touch()
    assert main(["rm", "old"]) == 1  # nobody can be asked
    assert "--yes" in capsys.readouterr().err and run.settings.exists()
    assert main(["rm", "old", "--yes"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*records, *kept, "events.ndjson", "run.json", "rwkv-1"))
    assert sorted(p.name for p in run.path.iterdir()) == sorted([*kept, "rwkv-1"])
    assert RunList(UserPaths.of_user().runs).all() == []


def test_rm_takes_the_trained_files_when_told_and_the_empty_folder(add: Add) -> None:
    run = add("old")
    (run.path / "rwkv-1").mkdir()
    for name in ("rwkv-0.pth", "rwkv-1/adapter_model.safetensors", "loss_data.jsonl"):
        (run.path / name).touch()
    assert main(["rm", "old", "--yes", "--trained"]) == 0
    assert not run.path.exists()


def test_rm_asks(add: Add, tmp_path: Path) -> None:
    run = add("old")
    for answer, status in (("n", 1), ("y", 0)):
        terminal = Terminal([sys.executable, "-m", "rwkv_tui", "rm", "old"])
        terminal.sees("[y/N]")
        terminal.keys(f"{answer}\r")
        assert terminal.wait() == status
        assert run.events.exists() == bool(status)


def test_what_ends_a_command_by_a_key_is_told_on_a_line_of_its_own(add: Add) -> None:
    add("old")
    terminal = Terminal([sys.executable, "-m", "rwkv_tui", "rm", "old"])
    terminal.sees("[y/N]")
    terminal.rests()
    terminal.keys("\x03")
    assert terminal.wait() == 130
    terminal.sees("stopped.")
    assert "rwkv-tune: stopped." in terminal.text.splitlines()


def test_a_living_run_is_not_removed(add: Add, capsys: pytest.CaptureFixture[str]) -> None:
    run = add("new", owner=Process.current())
    assert main(["rm", "new", "--yes", "--trained"]) == 1
    assert "rwkv-tune stop new" in capsys.readouterr().err and run.events.exists()


def test_a_folder_that_is_gone(add: Add, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = add("lost")
    run.path.rename(tmp_path / "elsewhere")
    assert main(["runs", "--json"]) == 0 and json.loads(capsys.readouterr().out) == []
    for command in ("attach", "resume", "stop", "logs"):
        assert main([command, "lost"]) == 1
        assert f"{run.path}, is gone" in capsys.readouterr().err
    assert main(["rm", "lost", "--yes"]) == 0
    assert RunList(UserPaths.of_user().runs).all(gone=True) == []
    assert (tmp_path / "elsewhere" / "events.ndjson").exists()


@pytest.mark.parametrize("version", ["older", "newer"])
def test_another_version_s_events_still_show(
    version: str, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    run = add("other")
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    for line in lines:
        if version == "newer":
            line |= {"v": 9, "mood": "fine", "more": {"type": "step"}}
        if version == "older" and line["type"] == "started":
            del line["plan"]["windows"], line["plan"]["held_out"], line["plan"]["op_reasons"]
    lines.insert(9, {"v": 9, "t": 1.0, "type": "levitated", "height": 3})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.events.write_text(text + text.splitlines()[-1][:40])  # and a torn last line
    assert main(["runs", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["step"], shown["steps"], shown["method"]) == (31, 1000, "state")
    assert main(["logs"]) == 0 and "training starts: 1,000 steps" in capsys.readouterr().out


def test_the_bars_of_a_run_show_the_time_left_on_a_usual_terminal(tmp_path: Path) -> None:
    show = BarShow()
    show.console.file = StringIO()

    def bars() -> list[str]:
        Console(width=80, file=(seen := StringIO())).print(show.bar.get_renderable())
        return [line.rstrip() for line in seen.getvalue().splitlines()]

    first, *rest = (event for event in stories.preparing() if isinstance(event, ev.Progress))
    show.event(first)
    assert "0 B/364.3 MiB" in bars()[0]
    for event in [*rest, *stories.opening(), *stories.stepping(tmp_path, 1, 31)]:
        show.event(event)
    assert re.fullmatch(r"training [╸━ ]+ 31/1,000 (\d:\d\d|-:-):?(\d\d|--) loss .* kt/s", bars()[-1]), bars()
    assert not any("MiB" in line for line in bars())  # that phase is over
