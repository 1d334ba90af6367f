"""What only a GPU can show: every operator that works here, on shapes of real models. `make gpu-check`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.cuda import visible
from engine.models.base import HostEmbedding, add_product
from engine.ops.choice import choose
from engine.ops.parts import TORCH
from engine.ops.parts.fused import FusedParts
from engine.ops.parts.trial import Trial
from engine.ops.registry import USABLE, Need, function_of, why_not
from engine.quant import QuantLinear
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
LOST: list[str] = []


@pytest.fixture(autouse=True)
def _only_the_culprit_fails(request: pytest.FixtureRequest) -> Iterator[None]:
    """A kernel that reads where it may not ends the use of the GPU for all tests that follow here."""
    if LOST:
        pytest.skip(f"{LOST[0]} has ended the use of the GPU")
    yield
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        LOST.append(request.node.name)
        raise


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


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_what_was_tried_gives_its_memory_back(recurrence: str) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    choose("auto", Need(recurrence, "cuda", torch.bfloat16, 32, 64, 8, 1024))
    assert torch.cuda.memory_reserved() - before < 256 << 20  # what cuBLAS works with stays


def _has(gigabytes: int) -> None:
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GiB of free memory")


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_beyond_two_billion_numbers_a_sequence_is_what_it_is_alone(
    name: str, recurrence: str, tmp_path: Path
) -> None:
    """Places in a tensor that 32 bits cannot count."""
    _has(60)
    need = Need(recurrence, "cuda", torch.bfloat16, 64, 64)
    if reason := why_not(name, need):
        pytest.skip(reason)
    operator, batch = function_of(name, need, tmp_path), 2**31 // (4096 * 64 * 64) + 2
    one = [x.cuda().to(torch.bfloat16) for x in make(recurrence, 1, 4096, 64, 64)]
    sequences = [x.expand(batch, -1, -1, -1) if x.ndim == 4 else x for x in one]
    with torch.no_grad():
        right, right_last = operator(*one)
        y, last = operator(*sequences)
    assert torch.equal(y[-1], y[0]) and torch.equal(last[-1], last[0])
    for found, alone in ((y[-1], right[0]), (last[-1], right_last[0])):  # which is cut into other parts
        assert float((found - alone).float().norm() / alone.float().norm()) < LIMITS["bfloat16"]


def test_fused_parts_beyond_two_billion_numbers() -> None:
    _has(30)
    x = torch.randn(2**31 // 65536 + 9, 65536, device="cuda", dtype=torch.bfloat16)
    last, parts = x[-5:].clone(), FusedParts()
    assert torch.equal(parts.squared_relu(x[None])[0, -5:], parts.squared_relu(last[None])[0])
    targets = torch.arange(len(x), device="cuda")
    _, right = TORCH.cross_entropy(last.clone(), targets[-5:])
    _, gradient = parts.cross_entropy(x, targets)
    torch.testing.assert_close(
        gradient[-5:], right, rtol=2e-2, atol=1e-3
    )  # equal logits: either may be the largest


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_a_second_gpu_computes_while_the_first_is_the_present_one(recurrence: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    need = Need(recurrence, "cuda", torch.bfloat16, 4, 64)
    operator = function_of("triton", need)
    inputs = [x.cuda().to(torch.bfloat16).requires_grad_() for x in make(recurrence, 2, 200, 4, 64)]
    found = []
    for device in ("cuda:0", "cuda:1"):
        leaves = [x.detach().to(device).requires_grad_() for x in inputs]
        y, last = operator(*leaves)
        found.append([y, last, *torch.autograd.grad([y, last], leaves, [y.detach(), last.detach()])])
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_packed_weights_are_the_cpus(kind: str, dtype: str) -> None:
    weight = torch.randn(320, 192, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    x = torch.randn(7, 192, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype])
    unpacked = []
    for device in ("cpu", "cuda"):
        layer = QuantLinear(weight.shape, kind, DTYPES[dtype], torch.device(device))
        layer.pack(weight.to(device))
        given = x.to(device, copy=True).requires_grad_()
        layer(given).float().sum().backward()
        assert given.grad is not None
        expected = layer.weight.float().sum(0).expand_as(given)
        torch.testing.assert_close(given.grad.float(), expected, rtol=2e-2, atol=0.1)
        unpacked.append(layer.weight.float().cpu())
    cpu, gpu = unpacked
    assert float((cpu != gpu).float().mean()) < 5e-3  # where a weight lies between two values
    assert float((gpu - weight.float()).norm() / weight.float().norm()) < (0.01 if kind == "int8" else 0.11)


def test_the_hosts_rows_arrive_while_the_gpu_is_busy() -> None:
    """Their memory is used again only when the copy is done, however far the GPU is behind."""
    table = torch.arange(65536.0)[:, None].expand(-1, 256).contiguous()
    emb = HostEmbedding(65536, 256, _weight=table).requires_grad_(False)
    busy = torch.randn(8192, 8192, device="cuda")
    tokens = [torch.full((8, 512), i, device="cuda") for i in range(40)]
    found = []
    for each in tokens:
        found.append(emb(each))
        for _ in range(4):
            busy = torch.tanh(busy @ busy)
    assert all(bool((rows == i).all()) for i, rows in enumerate(found))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_heads_gradient_loses_nothing_in_tf32(dtype: str) -> None:
    gradient, hidden = (torch.randn(4096, n, device="cuda").to(DTYPES[dtype]) for n in (5000, 512))
    total = torch.zeros(5000, 512, device="cuda")
    add_product(total, gradient, hidden)
    right = gradient.T.double() @ hidden.double()
    assert float((total - right).norm() / right.norm()) < 1e-5  # tf32 that lost something: 3e-4


def test_cuda_is_asked_for_the_gpus_that_torch_finds() -> None:
    found = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    assert visible() == found


JOINS = """
import torch
from engine.gpu import join_memory
join_memory()
print(torch._C._accelerator_getAllocatorSettings())
parts = [torch.empty(100 << 20, dtype=torch.uint8, device="cuda") for _ in range(8)]
held = torch.cuda.memory_reserved()
del parts
one = torch.empty(700 << 20, dtype=torch.uint8, device="cuda")
print(torch.cuda.memory_reserved() - held)
"""


def test_what_was_given_back_in_parts_is_handed_out_as_one() -> None:
    environment = {name: said for name, said in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run(
        [sys.executable, "-c", JOINS], env=environment, capture_output=True, text=True, check=True
    )
    settings, more = done.stdout.split()
    if settings != "expandable_segments:True":
        pytest.skip("the driver of this machine cannot")
    assert int(more) <= 0
