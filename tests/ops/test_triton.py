"""The Triton kernels: right in Triton's interpreter, and they compile for a GPU that is not here."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kernels import parts_kernel, triton_kernel
from engine.ops.parts import fused, kernels
from tests.ops.cases import KERNEL_CASES, LIMITS, NAMES


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.interpreted", "triton"], cwd=Path(__file__).parents[2],
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


def test_what_tensor_cores_would_cut_off_is_rounded(report: dict[str, Any]) -> None:
    """And infinity stays, and what is no number as a GPU writes it."""
    assert report["rounded"] == [0x3F802000, 0x3F800000, 0x7F800000, 0x7FFFFFFF]


def test_the_fused_parts_hide_no_nan(report: dict[str, Any]) -> None:
    assert report["nan"] == [True] * 6


def test_the_fused_parts_are_torchs(report: dict[str, Any]) -> None:
    assert len(report["parts"]) == 2 * 33 and all(error < 1e-6 for error in report["parts"]), report["parts"]


def test_models_of_kernels_learn_as_torchs(report: dict[str, Any]) -> None:
    assert all(error < 1e-5 for errors in report["models"].values() for error in errors), report["models"]


def _variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each kernel of the parts as RWKV-7 has it, and what RWKV-6 has otherwise."""
    for name in fused.KERNELS:
        seven = {"MORE": False} if name.startswith("mix") else {}
        yield name, seven
        if name.startswith("mix"):
            yield name, {"C": 5}
        if name.startswith("output"):
            yield name, {"SEVEN": False}


@pytest.mark.parametrize(("name", "constants"), _variants())
def test_a_part_compiles_for_a_gpu_that_is_not_here(name: str, constants: dict[str, Any]) -> None:
    assert parts_kernel(name, 90, torch.bfloat16, 64, **constants)["spilled"] == 0


@pytest.mark.soak
@pytest.mark.parametrize("arch", [80, 100])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("name", "constants"), _variants())
def test_a_part_compiles_for_other_gpus_and_types(
    name: str, constants: dict[str, Any], dtype: torch.dtype, arch: int
) -> None:
    assert parts_kernel(name, arch, dtype, 64, **constants)["spilled"] <= 64  # bytes a thread


KERNELS = [
    *(("wkv7", name) for name in ("_inverses", "_forward", "_reverse", "_gradients")),
    *(("wkv6", name) for name in ("_states", "_outputs", "_reverse", "_gradients")),
]


@pytest.mark.parametrize(("recurrence", "name"), KERNELS)
def test_a_kernel_fits_into_a_gpu_that_is_not_here(recurrence: str, name: str) -> None:
    used = triton_kernel(recurrence, name, 90, torch.bfloat16, 64)
    assert used["spilled"] <= 64  # bytes a thread
    assert used["shared"] < 160 << 10  # an A100 has 163 KiB


def test_no_kernel_is_compiled_again_for_a_batch_of_another_length() -> None:
    made = [getattr(importlib.import_module(f"engine.ops.{which}.triton"), name) for which, name in KERNELS]
    made += [getattr(kernels, name) for name in fused.KERNELS]
    lengths = [argument for kernel in made for argument in kernel.params if argument.name == "T"]
    assert len(lengths) == len(KERNELS) + 2 and all(argument.do_not_specialize for argument in lengths)


@pytest.mark.soak
@pytest.mark.parametrize(("recurrence", "name"), KERNELS)
def test_a_part_of_a_state_and_a_single_head_compile(recurrence: str, name: str) -> None:
    assert triton_kernel(recurrence, name, 90, torch.bfloat16, 64, R=16, H=1)["spilled"] <= 64


@pytest.mark.soak
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("recurrence", "name"), KERNELS)
def test_it_compiles_for_every_gpu_and_type(
    recurrence: str, name: str, dtype: torch.dtype, arch: int
) -> None:
    used = triton_kernel(recurrence, name, arch, dtype, 64)
    assert used["shared"] < 99 << 10  # a consumer's GPU has 99 KiB
    assert used["spilled"] < 2 << 10
