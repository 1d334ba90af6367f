"""Homes, folders, languages and terminals that are not as one would like them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.contract import events as ev
from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.app import TuneApp
from rwkv_tui.screens.done import DoneScreen
from rwkv_tui.screens.monitor import MonitorScreen
from rwkv_tui.services.runs import summarise
from tests.conftest import Command
from tests.fakes import stories
from tests.fakes.terminal import Terminal
from tests.tui.conftest import NO_GPU

SMALL = (
    "--ctx_len=16", "--epoch_count=1", "--eval_docs=0", "--sample_len=2", "--precision=fp32",
    "--accelerator=cpu", "--grad_cp=0", "--warmup_steps=1",
)  # fmt: skip
NOWHERE = Path("/sys/kernel")
"""A folder in which nobody can make anything, not even root."""


@pytest.fixture
def flags(tiny_model: Path, tiny_data: Path) -> tuple[str, ...]:
    return (f"--load_model={tiny_model}", f"--data_file={tiny_data}", *SMALL)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    return done.stderr


def told(run: RunDir) -> list[ev.Event]:
    return [e for line in run.events.read_bytes().splitlines() if (e := ev.parse_event(line))]


def test_a_home_that_cannot_be_written_to(
    rwkv_tune: Command, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(NOWHERE))
    said = one_sentence(rwkv_tune("train", *flags, "--epoch_steps=2", "--proj_dir=out"))
    assert str(NOWHERE) in said and "XDG_STATE_HOME" in said
    assert not (tmp_path / "out").exists()
    assert json.loads(rwkv_tune("runs", "--json").stdout) == []
    (tmp_path / "mine.yaml").write_text("ctx_len: 16\n")
    assert str(NOWHERE) in one_sentence(rwkv_tune("preset", "save", "mine", "--from", "mine.yaml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    done = rwkv_tune("train", *flags, "--epoch_steps=2", "--proj_dir=out", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stdout)
    assert list(started) == ["name", "proj_dir", "pid"] and started["name"] == "out"
    assert rwkv_tune("attach", "out").returncode == 0
    app = Terminal([sys.executable, "-m", "rwkv_tui"], cwd=tmp_path)
    app.sees("finished")
    app.keys("q")
    assert app.wait() == 0


def test_a_folder_that_cannot_be_written_to(rwkv_tune: Command, flags: tuple[str, ...]) -> None:
    said = one_sentence(rwkv_tune("train", *flags, f"--proj_dir={NOWHERE}/out"))
    assert f"cannot write to {NOWHERE}/out" in said and "--proj_dir" in said
    assert json.loads(rwkv_tune("runs", "--json").stdout) == []


def test_a_folder_that_goes_away_under_a_run(home: Path, flags: tuple[str, ...], tmp_path: Path) -> None:
    run = RunDir(tmp_path / "out")
    words = [
        sys.executable,
        "-m",
        "rwkv_tui",
        "train",
        *flags,
        "--epoch_steps=100000",
        f"--proj_dir={run.path}",
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not run.events.exists() or not summarise("out", run).step:
        time.sleep(0.05)
    owner = run.owner()
    assert owner is not None
    shutil.rmtree(run.path)
    owner.interrupt()  # now it wants to save
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    saved = "rwkv-0.pth" if run.checkpoint(0).exists() else "nothing"
    assert err == (
        f"rwkv-tune: The folder of the run out, {run.path}, was deleted while it ran; saved since: {saved}.\n"
    )
    assert not owner.alive()


def test_a_run_that_could_not_begin_is_forgotten_as_is_said(
    rwkv_tune: Command, flags: tuple[str, ...], tiny_model: Path, tmp_path: Path
) -> None:
    """What was wrong is mended, and the same folder taken again."""
    (tmp_path / "wrong.pth").write_text("no model")
    wrong = [f for f in flags if not f.startswith("--load_model")] + ["--load_model=wrong.pth"]
    assert rwkv_tune("train", *wrong, "--proj_dir=the run").returncode == 1
    said = one_sentence(rwkv_tune("train", *flags, "--epoch_steps=2", "--proj_dir=the run"))
    command = next(part for part in said.split("`") if part.startswith("rwkv-tune rm "))
    assert rwkv_tune(*shlex.split(command)[1:], "--yes").returncode == 0
    assert rwkv_tune("train", *flags, "--epoch_steps=2", "--proj_dir=the run").returncode == 0


def test_two_runs_into_one_folder(rwkv_tune: Command, flags: tuple[str, ...], tmp_path: Path) -> None:
    """The second is refused with the first's name; and a name with spaces and signs of another script."""
    folder = "我的 结果/第 1 次"
    done = rwkv_tune("train", *flags, "--epoch_steps=2", f"--proj_dir={folder}", "--detach")
    assert done.returncode == 0 and done.stdout == "第-1-次\n"
    (tmp_path / "link").symlink_to(tmp_path / folder)
    said = one_sentence(rwkv_tune("train", *flags, "--proj_dir=link"))
    assert "already holds the run '第-1-次'" in said
    followed = rwkv_tune("attach", "第")
    assert followed.returncode == 0 and "finished after 2 steps" in followed.stdout
    assert sorted(p.name for p in (tmp_path / folder).glob("*.pth")) == ["rwkv-0.pth"]
    (listed,) = json.loads(rwkv_tune("runs", "--json").stdout)
    assert listed["proj_dir"] == str(tmp_path / folder) and listed["status"] == "finished"


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_terminal_that_knows_no_utf_8(locale: dict[str, str], home: Path, tmp_path: Path) -> None:
    """What it cannot show becomes a question mark; JSON stays UTF-8."""
    run = stories.new_run(tmp_path / "运行", "运行", stories.GONE)
    stories.tell(run, stories.opening() + stories.stepping(run.path, 1, 4) + stories.ending(run.path))
    RunList(UserPaths.of_user().runs).add(run.path)

    def call(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "rwkv_tui", *words],
            env={**os.environ, **locale},
            capture_output=True,
            check=False,
        )

    for words in (["runs"], ["logs"], ["attach"]):
        done = call(*words)
        assert done.returncode == 0 and done.stderr == b"", done
        done.stdout.decode("ascii")
    (shown,) = json.loads(call("runs", "--json").stdout.decode("utf-8"))
    assert shown["name"] == "运行"
    assert "帽子" in call("attach", "--json").stdout.decode("utf-8")
    app = Terminal([sys.executable, "-m", "rwkv_tui", "attach"], env=locale)
    app.sees("1,000")
    app.keys("qq")
    assert app.wait() == 0


async def test_a_terminal_of_20_by_5(home: Path, tmp_path: Path) -> None:
    """Nothing useful, and no crash: every screen is drawn, and larger again when there is room."""
    paths = UserPaths.of_user()
    app = TuneApp(paths, start="wizard", gpus=lambda: NO_GPU)
    going = stories.new_run(tmp_path / "going", "going", stories.GONE)
    stories.tell(going, stories.opening() + stories.stepping(going.path, 1, 300))
    over = stories.new_run(tmp_path / "over", "over", stories.GONE)
    stories.tell(over, stories.opening() + stories.stepping(over.path, 1, 4) + stories.ending(over.path))
    async with app.run_test(size=(20, 5)) as pilot:
        for step in ("Data", "Model", "Parameters", "Review"):
            app.open_wizard(step)
            await pilot.pause()
        for name, run, screen in (("going", going, MonitorScreen), ("over", over, DoneScreen)):
            app.open_run(name, run)
            await pilot.pause(0.2)
            assert isinstance(app.screen, screen)
            await pilot.press("f1", "escape")
        app.open_run("going", going)
        await pilot.pause(0.2)
        await pilot.press("o", "escape", "1", "1", "x", "plus")
        await pilot.resize_terminal(80, 24)
        await pilot.pause(0.2)
        await pilot.resize_terminal(20, 5)
        await pilot.press("q", "q")


@pytest.mark.parametrize("when", ["at once", "importing", "loading"])
def test_ctrl_c_before_the_first_step(when: str, home: Path, flags: tuple[str, ...], tmp_path: Path) -> None:
    """However early it comes, the run says that it was stopped."""
    run = RunDir(tmp_path / "out")
    words = [
        sys.executable,
        "-m",
        "rwkv_tui",
        "train",
        *flags,
        "--epoch_steps=100000",
        f"--proj_dir={run.path}",
    ]
    terminal = Terminal(words)
    while run.owner() is None:
        time.sleep(0.005)
    if when == "importing":
        time.sleep(0.4)
    while when == "loading" and not run.events.exists():
        time.sleep(0.005)
    terminal.keys("\x03\x03")
    assert terminal.wait() == 130, terminal.text
    end = told(run)[-1]
    assert isinstance(end, ev.Finished) and end.status == "stopped"
    assert end.step == 0 or when == "loading"
    owner = run.owner()
    assert owner is not None and not owner.alive()


def test_on_finish_is_called_when_nobody_watches(
    rwkv_tune: Command, flags: tuple[str, ...], tmp_path: Path
) -> None:
    names = ("RUN", "STATUS", "LOSS", "PROJ_DIR")
    variables = " ".join(f'"$RWKV_TUNE_{name}"' for name in names)
    call = f'printf "%s|%s|%s|%s" {variables} > told.part; mv told.part told'
    run = RunDir(tmp_path / "out")
    done = rwkv_tune(
        "train", *flags, "--epoch_steps=30000", "--proj_dir=out", "--detach", f"--on_finish={call}"
    )
    assert done.returncode == 0, done.stderr
    while not run.events.exists() or not summarise("out", run).step:
        time.sleep(0.05)

    def called() -> list[str]:
        assert rwkv_tune("stop").returncode == 0
        for _ in range(100):
            if (run.path / "told").exists():
                break
            time.sleep(0.05)
        words = (run.path / "told").read_text().split("|")
        (run.path / "told").unlink()
        return words

    words = called()
    loss = summarise("out", run).loss
    assert loss is not None
    assert words == ["out", "stopped", f"{loss:.6g}", str(run.path)]
    assert "\non_finish" not in run.settings.read_text()
    begun = summarise("out", run).step
    assert rwkv_tune("resume", "--detach").stdout == "out\n"
    while summarise("out", run).step <= begun:
        time.sleep(0.05)
    assert called()[1] == "stopped"  # a resumed run still knows it
    assert f"on_finish: {call}" in run.log.read_text()


def test_no_file_brings_a_command(rwkv_tune: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("ctx_len: 16\non_finish: touch owned\n")
    said = one_sentence(rwkv_tune("preset", "save", "bad", "--from", "bad.yaml"))
    assert "line 2" in said and "command line" in said
    said = one_sentence(rwkv_tune("train", "--preset", "bad.yaml", "--proj_dir=out"))
    assert "on_finish" in said
    (tmp_path / "bad.sh").write_text("python train.py --ctx_len 16 --micro_bsz 1 --on_finish 'touch owned'\n")
    done = rwkv_tune("preset", "import", "bad.sh")
    assert "--on_finish: left out" in done.stdout
    assert "on_finish" not in rwkv_tune("preset", "show", "bad").stdout
    run = RunDir(tmp_path / "from-others")
    run.path.mkdir()
    run.process.write_text(json.dumps({"name": "theirs"}))
    run.settings.write_text("on_finish: touch owned\n")
    assert "on_finish" in one_sentence(rwkv_tune("resume", run.path))
