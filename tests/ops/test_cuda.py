"""The CUDA operators: the same sources computed on the CPU, and compiled for GPUs that are not here."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.contract.errors import UserError
from engine.ops import native
from engine.ops.native import SOURCES, Launcher, build, compiler, definitions
from tests.ops.cases import KERNEL_CASES, NAMES, errors, make, operator

LIMITS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}  # sums are fp32: results are rounded once
NVCC = pytest.mark.skipif(compiler() is None, reason="no nvcc")


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Makes the operators with their kernels compiled for the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("kernels")

    @functools.cache
    def made(recurrence: str, dtype: str, width: int) -> Any:
        path = folder / f"{recurrence}-{dtype}-{width}.so"
        subprocess.run(
            ["g++", "-x", "c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-w",
             f"-I{Path(__file__).parent / 'cuda_on_cpu'}", *definitions(getattr(torch, dtype), width),
             "-o", path, SOURCES / f"{recurrence}.cu"],
            check=True,
        )  # fmt: skip
        return functools.partial(operator("cuda", recurrence), Launcher(path, getattr(torch, dtype)))

    return made


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nothing was written to is NaN."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda x: empty_like(x).fill_(float("nan")))
    monkeypatch.setattr(Tensor, "new_empty", lambda x, *size: new_empty(x, *size).fill_(float("nan")))


@pytest.mark.parametrize("case", KERNEL_CASES, ids=lambda case: "-".join(map(str, case)))
def test_every_result_is_the_float64_loops(case: Any, on_cpu: Callable[..., Any]) -> None:
    recurrence, dtype, shape, options = case
    inputs = make(recurrence, *shape, **options)
    found = errors(
        on_cpu(recurrence, dtype, shape[3]),
        operator("reference", recurrence),
        recurrence,
        inputs,
        getattr(torch, dtype),
    )
    assert tuple(found) == NAMES[recurrence]
    assert all(error < LIMITS[dtype] for error in found.values()), found


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_a_backward_pass_for_the_state_alone(recurrence: str, on_cpu: Callable[..., Any]) -> None:
    *inputs, state = (x.float() for x in make(recurrence, 2, 21, 1, 16))
    grads = []
    for function in (on_cpu(recurrence, "float32", 16), operator("reference", recurrence)):
        y, _ = function(*inputs, state.requires_grad_())
        grads.append(torch.autograd.grad(y.square().sum(), state)[0])
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_inputs_of_another_type_are_converted(on_cpu: Callable[..., Any]) -> None:
    inputs = make("wkv7", 1, 9, 1, 16)
    y, last = on_cpu("wkv7", "float32", 16)(*(x.bfloat16() for x in inputs))
    right, _ = operator("reference", "wkv7")(*(x.bfloat16() for x in inputs))
    assert y.dtype == last.dtype == torch.float32
    assert torch.allclose(y, right, rtol=1e-4, atol=1e-4)


@NVCC
@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_it_compiles_once_for_a_gpu_that_is_not_here(recurrence: str, tmp_path: Path) -> None:
    compiled = functools.partial(build, recurrence, torch.bfloat16, 64, "sm_90", tmp_path / "new")
    path = compiled()
    assert re.fullmatch(rf"{recurrence}-bfloat16-64-sm_90-\w{{16}}\.so", path.name)
    made = path.stat().st_mtime_ns
    assert (
        build(recurrence, torch.bfloat16, 64, "sm_90", tmp_path / "new") == path
        and path.stat().st_mtime_ns == made
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@NVCC
def test_what_does_not_compile_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot compile wkv7\.cu for sm_1: ."):
        build("wkv7", torch.float32, 64, "sm_1", tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "USUAL_PLACE", str(tmp_path / "nvcc"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no nvcc") as caught:
        build("wkv7", torch.float32, 64, "sm_90", tmp_path)
    assert "triton" in caught.value.remedy
