"""What is handed to flash-linear-attention and taken from it: its kernels, run in Triton's interpreter, give
what the float64 loop does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ops.cases import FLA_CASES, NAMES

LIMITS = {"float32": 1e-4, "float16": 2e-2}


@pytest.fixture(scope="module")
def report() -> Any:
    if importlib.util.find_spec("fla") is None:
        pytest.skip("the extra fla is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.ops.interpreted", "fla"], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", range(len(FLA_CASES)), ids=lambda i: "-".join(map(str, FLA_CASES[i])))
def test_every_result_is_the_float64_loops(case: int, report: Any) -> None:
    recurrence, dtype, _, _ = FLA_CASES[case]
    found = report["cases"][case]
    assert tuple(found) == NAMES[recurrence]
    assert all(error < LIMITS[dtype] for error in found.values()), found
