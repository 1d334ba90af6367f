"""The Triton kernels: right in Triton's interpreter, and they compile for a GPU that is not here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ops.cases import KERNEL_CASES, LIMITS, NAMES


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.interpreted"], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", range(len(KERNEL_CASES)), ids=lambda i: "-".join(map(str, KERNEL_CASES[i])))
def test_every_result_is_the_float64_loops(case: int, report: dict[str, Any]) -> None:
    recurrence, dtype, _, _ = KERNEL_CASES[case]
    found = report["cases"][case]
    assert tuple(found) == NAMES[recurrence]
    assert all(error < LIMITS[dtype] for error in found.values()), found  # also if an error is NaN


def test_a_backward_pass_for_the_state_alone(report: dict[str, Any]) -> None:
    assert all(error < 1e-5 for error in report["state"].values()), report["state"]
