"""What CUDA's driver says of its GPUs, by one that is compiled here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract import cuda

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int number) { *device = 7 + number; return 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 16 * device + 1, 16); return 0; }
"""


def driver(folder: Path, status: int) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = folder / f"driver{status}.so"
    source = path.with_suffix(".c")
    source.write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", f"-DSTATUS={status}", "-o", path, source], check=True)
    return str(path)


def test_gpus_are_named_in_the_order_of_cuda(tmp_path: Path) -> None:
    first, second = "71717171-7171-7171-7171-717171717171", "81818181-8181-8181-8181-818181818181"
    assert cuda.visible(driver(tmp_path, 0)) == [first, second]
    assert cuda.visible(driver(tmp_path, cuda.NO_DEVICE)) == []  # they are hidden
    assert cuda.visible(driver(tmp_path, 999)) is None


def test_a_machine_without_a_driver_is_no_error(tmp_path: Path) -> None:
    assert cuda.visible(str(tmp_path / "nothing.so")) is None
    (tmp_path / "other.c").write_text("int other;")
    if compiler := shutil.which("gcc"):
        library = tmp_path / "other.so"
        subprocess.run([compiler, "-shared", "-o", library, tmp_path / "other.c"], check=True)
        assert cuda.visible(str(library)) is None


def test_the_job_tells_them() -> None:
    done = subprocess.run([sys.executable, "-m", "engine", "gpus"], capture_output=True, check=True)
    assert json.loads(done.stdout) == cuda.visible()
