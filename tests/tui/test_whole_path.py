"""From a jsonl file to a finished run by the keyboard, with the real engine: in a pilot and in tmux."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.contract.rundir import RunDir, RunList
from rwkv_tui.screens.home import HomeScreen
from rwkv_tui.screens.monitor import MonitorScreen
from rwkv_tui.services.runs import summarise
from tests.tui.conftest import MakeApp, says, until, write

QUICK = {"ctx_len": 16, "epoch_count": 1, "eval_docs": 2, "sample_len": 2, "precision": "fp32"}


async def test_from_jsonl_to_a_tuned_state(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard", draft=QUICK)
    async with app.run_test() as pilot:
        await write(pilot, "pa")
        await pilot.press("tab", "enter")
        await until(pilot, lambda: says(pilot, "convert this once"))
        await pilot.press("f4")
        await until(pilot, lambda: says(pilot, "This is the training data"))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: says(pilot, "Model files"))
        await pilot.press("enter")
        await until(pilot, lambda: app.draft.text("n_layer") == "2")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.screen.query("#field-epoch_steps"))
        await pilot.press("down", "down", "ctrl+u")
        await write(pilot, "3")
        assert says(pilot, "0.025 passes over the data")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: says(pilot, "1 epoch of 3 steps"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        run = RunDir(place / "runs" / "tiny-pairs-1")
        await until(pilot, lambda: summarise("tiny-pairs-1", run).status == "finished", seconds=90)
        assert run.checkpoint(0).is_file()
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


@pytest.fixture
def tmux(place: Path, home: Path) -> Iterator[Callable[..., str]]:
    """Calls tmux on a server of the test's own, 80 columns by 24 lines."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")

    def call(*words: str) -> str:
        return subprocess.run(
            ["tmux", "-S", str(home / "tmux"), "-f", "/dev/null", *words],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    call(
        "new-session",
        "-d",
        "-x",
        "80",
        "-y",
        "24",
        "-c",
        str(place),
        f"{sys.executable} -m rwkv_tui; sleep 60",
    )
    yield call
    call("kill-server")


def test_the_keys_arrive_through_tmux(tmux: Callable[..., str], home: Path) -> None:
    def sees(text: str, seconds: int = 30) -> None:
        for _ in range(10 * seconds):
            screen = tmux("capture-pane", "-p")
            if text in screen:
                return
            time.sleep(0.1)
        pytest.fail(f"no {text!r} in\n{screen}")

    def keys(*names: str) -> None:
        for name in names:
            tmux("send-keys", name)
            time.sleep(0.4 if name == "Escape" else 0.05)  # or it would begin a sequence

    sees("pairs.jsonl")
    keys("pa", "Tab", "Enter")
    sees("12 documents")
    keys("F4")
    sees("This is the training data")
    keys("C-n")
    sees("models/tiny.pth")
    keys("Enter")
    sees("2 layers x 64")
    keys("M-Right")
    sees("micro_bsz")
    keys("Escape", "F3")
    sees("Show all")
    keys("?")
    sees("Next and previous field")
    keys("Escape", "]")
    sees("Launch (F5)")
    keys("[")
    sees("Learning rate")
    keys("Down", "Down")
    sees("Steps in one epoch.")
    keys("C-u")  # Textual runs a bound key after a typed one: wait until it has
    sees("epoch_steps          ")
    keys("2")
    sees("10 steps in 5 epochs")
    keys("Down")
    sees("How many epochs to train.")
    keys("C-u")
    sees("epoch_count          ")
    keys("1")
    sees("2 steps in 1 epoch")
    keys("C-n")
    sees("rwkv-tune train")
    keys("F5")
    sees("The run finished", seconds=90)
    keys("Enter")
    sees("before and after")
    keys("q")
    sees("2/2")
    ((_, run),) = RunList(home / ".local" / "state" / "rwkv-tune" / "runs").all()
    assert (run.path / "rwkv-0.pth").is_file()
    keys("q")
