"""Training, using and measuring models on a GPU, real or emulated by the CPU: nothing is made on the wrong
device, and what comes of it is what the CPU makes."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

RUNS = (
    "state, answers, held-out documents", "state, int8", "state, nf4", "state, in chunks", "lora and parts",
    "dora, int8", "pissa, nf4", "pissa", "miss, in chunks", "full, accumulated", "full, fp16, windows",
    "full, in chunks, a copying head",
)  # fmt: skip


REAL = pytest.param(
    "real", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")]
)


@dataclass(frozen=True)
class Report:
    """What the runs found; `loss` and `apart` say how far from the CPU's they may be, relatively."""

    found: dict[str, Any]
    loss: float
    apart: float


@pytest.fixture(scope="module", params=["emulated", REAL])
def report(request: pytest.FixtureRequest) -> Report:
    emulated = request.param == "emulated"
    if emulated and (shutil.which("g++") is None or torch.cuda.is_available()):
        pytest.skip("no g++, or a real GPU")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.emulated.runs", request.param],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # A real one's kernels round in another order, and a few steps of a large rate make much of that.
    return Report(json.loads(done.stdout), *((1e-6, 1e-4) if emulated else (2e-2, math.inf)))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_does_what_it_does_on_the_cpu(name: str, report: Report) -> None:
    found = report.found[name]
    here, there = found["losses"]
    assert found["apart"] < report.apart
    assert there == pytest.approx(here, rel=report.loss) and there[1] < there[0]


def test_a_run_goes_on(report: Report) -> None:
    assert report.found["resumed"]["apart"] < report.apart


def test_a_model_is_used(report: Report) -> None:
    used = report.found["used"]
    assert used["losses"] == pytest.approx(3 * used["losses"][:1], rel=report.loss)
    assert used["answers"][1] == used["answers"][2]
    if report.apart < 1:
        assert used["answers"][0] == used["answers"][1]
    assert used["emb"] == [False, False, True]  # it stays where it was


def test_a_step_is_measured(report: Report) -> None:
    assert report.found["benchmark"]["seconds"] > 0


def test_what_waits_in_the_hosts_memory_returns_in_time(report: Report) -> None:
    """To the bit, where the CPU computes."""
    waiting = report.found["waiting"]
    assert max(waiting["apart"]) <= (0 if report.apart < 1 else 2e-2) and all(waiting["races"]), waiting


def test_what_is_on_the_wrong_device_would_be_found(report: Report) -> None:
    refused = report.found["refused"]
    assert all(refused.values()) and len(refused) == 9, refused
