"""Training, using and measuring models on a GPU that the CPU emulates: nothing is made on the wrong device,
and what comes of it is what the CPU makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUNS = (
    "state, answers, held-out documents", "state, int8", "state, nf4", "state, in chunks", "lora and parts",
    "dora, int8", "pissa, nf4", "pissa", "miss, in chunks", "full, accumulated", "full, fp16, windows",
    "full, in chunks, a copying head",
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.emulated.runs"], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_does_what_it_does_on_the_cpu(name: str, report: dict[str, Any]) -> None:
    found = report[name]
    here, there = found["losses"]
    assert found["apart"] < 1e-4
    assert there == pytest.approx(here, rel=1e-6) and there[1] < there[0]


def test_a_run_goes_on(report: dict[str, Any]) -> None:
    assert report["resumed"]["apart"] < 1e-4


def test_a_model_is_used(report: dict[str, Any]) -> None:
    used = report["used"]
    assert used["losses"] == pytest.approx(3 * used["losses"][:1], rel=1e-6)
    assert used["answers"][0] == used["answers"][1] == used["answers"][2]
    assert used["emb"] == [False, False, True]  # it stays where it was


def test_a_step_is_measured(report: dict[str, Any]) -> None:
    assert report["benchmark"]["seconds"] > 0


def test_what_is_on_the_wrong_device_would_be_found(report: dict[str, Any]) -> None:
    assert all(report["refused"].values()), report["refused"]
    assert len(report["refused"]) == 9
