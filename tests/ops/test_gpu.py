"""What only a GPU can show: every operator that works here, on shapes of real models. `make gpu-check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.ops.choice import choose
from engine.ops.parts import TORCH
from engine.ops.parts.fused import FusedParts
from engine.ops.parts.trial import Trial
from engine.ops.registry import USABLE, Need, function_of, why_not
from tests.ops.cases import KERNEL_CASES, LIMITS, errors, make

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LARGER: list[tuple[str, str, tuple[int, int, int, int], dict[str, Any]]] = [
    (recurrence, dtype, (2, 517, 12, width), {})
    for recurrence in ("wkv6", "wkv7")
    for dtype in DTYPES
    for width in (16, 32, 64)
]
CASES = [*KERNEL_CASES, *LARGER]


@pytest.mark.parametrize("name", ["triton", "cuda", "fla", "chunked"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_every_result_is_the_float64_loops(
    name: str, case: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recurrence, dtype, shape, options = case
    need = Need(recurrence, "cuda", DTYPES[dtype], shape[2], shape[3])
    if reason := why_not(name, need):
        pytest.skip(reason)
    cache = tmp_path_factory.getbasetemp() / "kernels"
    inputs = [x.cuda() for x in make(recurrence, *shape, **options)]
    pair = function_of(name, need, cache), function_of("reference", need)
    found = errors(*pair, recurrence, inputs, DTYPES[dtype])
    if name == "fla" and options.get("decay") == "fast":
        del found["log_w"]  # a gradient of e^-20, which is lost in its sums over a chunk
    limit = max(LIMITS[dtype], 5e-3) if name == "fla" else LIMITS[dtype]  # it multiplies fp32 as tf32
    assert all(error < limit for error in found.values()), found


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_auto_finds_one_that_works_and_remembers_it(recurrence: str, tmp_path: Path) -> None:
    need = Need(recurrence, "cuda", torch.bfloat16, 12, 64, 2, 512)
    selected = choose("auto", need, tmp_path)
    assert set(selected.reasons) == {*USABLE} - {selected.name}
    assert choose("auto", need, tmp_path).name == selected.name
    assert not [name for name, reason in selected.reasons.items() if "off by" in reason], selected.reasons


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_the_same_twice_to_the_bit(recurrence: str) -> None:
    need = Need(recurrence, "cuda", torch.bfloat16, 4, 64)
    inputs = [x.cuda().to(torch.bfloat16).requires_grad_() for x in make(recurrence, 2, 200, 4, 64)]
    selected = choose("auto", need)
    results = []
    for _ in range(2):
        y, last = selected.function(*inputs)
        results.append([y, last, *torch.autograd.grad([y, last], inputs, [y.detach(), last.detach()])])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "width"), [((2, 517, 12), 64), ((1, 1, 40), 64), ((3, 100, 5), 32)])
def test_the_fused_parts_are_torchs(dtype: str, shape: tuple[int, int, int], width: int) -> None:
    batch, steps, heads = shape
    trial = Trial(Need("wkv7", "cuda", DTYPES[dtype], heads, width, batch, steps))
    pairs = zip(trial.results(FusedParts()), trial.wide(torch.float64).results(TORCH), strict=True)
    errors_ = [float((found - right).norm() / right.norm()) for found, right in pairs]
    assert all(error < LIMITS[dtype] for error in errors_), errors_


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_the_fused_parts_are_chosen(recurrence: str) -> None:
    selected = choose("triton", Need(recurrence, "cuda", torch.bfloat16, 32, 64, 8, 1024))
    assert selected.parts.name == "fused", selected.parts_reason
