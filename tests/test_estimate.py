"""The arithmetic of memory, against real models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.memory import count
from engine.checkpoints.inspect import inspect_model
from engine.contract.settings import TrainSettings
from engine.contract.sizes import SIZES
from engine.estimate import KEPT, KEPT_HALF, LOGITS, host_memory, needed, parameters, state_memory, table
from engine.models.build import MODELS
from engine.models.init import init_model
from engine.quant import is_linear_weight
from engine.train.loss import CHUNK_ELEMENTS, SHARE

VERSIONS = list(MODELS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", [(2, 64), (3, 128)])
def test_parameters_are_those_of_a_fresh_model(version: str, shape: tuple[int, int]) -> None:
    tensors = init_model(version, *shape, vocab_size=96)
    linears = sum(t.numel() for name, t in tensors.items() if is_linear_weight(name))
    assert parameters(version, *shape, 96) == (linears, sum(t.numel() for t in tensors.values()) - linears)


class Lean(torch.autograd.Function):
    """Keeps what the operators for a GPU keep, its inputs, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*inputs)
        return torch.zeros_like(inputs[3]), torch.zeros_like(inputs[-1])

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        return tuple(torch.zeros_like(x) if needed else None for x, needed in wanted)


def lean(*inputs: Tensor) -> Any:
    return Lean.apply(*(x.contiguous() for x in inputs))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_block_keeps_is_what_autograd_keeps(version: str) -> None:
    steps, width = 64, 128
    tensors = {name: t.bfloat16() for name, t in init_model(version, 2, width, vocab_size=64).items()}
    model = MODELS[version](tensors, lean).requires_grad_(False)
    for att in model.time_mixers():
        att.time_state = torch.nn.Parameter(torch.zeros(model.n_head, 64, 64))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in weights and steps in x.shape[:2]:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    x, v_first = (torch.randn(1, steps, width).bfloat16().requires_grad_() for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        block: Any = model.blocks[1]
        x, *_ = block.first_half(x, v_first if version == "x070" else None, None)
        half = sum(x.untyped_storage().nbytes() for x in kept.values()) / steps / width
        block.second_half(x, None)
    found = sum(x.untyped_storage().nbytes() for x in kept.values()) / steps / width
    assert half == pytest.approx(KEPT_HALF[version], rel=0.15)
    assert found == pytest.approx(KEPT[version], rel=0.15) and found < 2 * half


@pytest.mark.parametrize(
    ("size", "version", "kind", "ctx", "grad_cp"),
    [
        ("0.1B", "x052", "none", 1024, 1),
        ("0.1B", "x060", "int8", 4096, 1),
        ("0.4B", "x070", "nf4", 1024, 1),
        ("0.1B", "x070", "none", 1024, 0),
        ("0.4B", "x060", "nf4", 4096, 2),
        ("0.4B", "x070", "none", 4096, 2),
    ],
)
def test_a_step_takes_what_is_counted(size: str, version: str, kind: Any, ctx: int, grad_cp: int) -> None:
    """Where the logits are the largest part, and where a block's work is."""
    shape = next(s for s in SIZES if s.name == size)
    need = state_memory(
        version, shape.n_layer, shape.n_embd, quant="fp16" if kind == "none" else kind, ctx_len=ctx,
        grad_cp=grad_cp,
    )  # fmt: skip
    counted = count(size, version, kind, ctx, 1, grad_cp, "torch")
    assert counted.peak == pytest.approx(need.total, rel=0.07)
    assert counted.pinned <= need.away <= 2 * counted.pinned


def test_what_waits_in_the_hosts_memory_is_known_of_every_run() -> None:
    shape = {"n_layer": 12, "n_embd": 768}
    whole = TrainSettings(my_testing="x070", ctx_len=4096, micro_bsz=2, grad_cp=2, **shape)
    there = host_memory(whole, 12, 768, 65536)
    known = needed(whole)
    assert known is not None and there == known.away > 2**28
    as_wide = host_memory(whole.model_copy(update={"precision": "fp32"}), 12, 768, 65536)
    assert as_wide == 2 * there
    lora = TrainSettings(peft="lora", ctx_len=4096, micro_bsz=2, grad_cp=2)
    assert host_memory(lora, 12, 768, 65536) == there  # frozen as well
    assert host_memory(lora.model_copy(update={"train_parts": "head"}), 12, 768, 65536) < there
    chunked = lora.model_copy(update={"train_type": "infctx", "chunk_ctx": 512})
    head = 2**27
    assert host_memory(chunked, 12, 768, 65536) - head == (there - head) / 8
    assert host_memory(lora.model_copy(update={"grad_cp": 1}), 12, 768, 65536) == 0


def test_the_loss_holds_what_is_counted() -> None:
    assert CHUNK_ELEMENTS["cuda"] == LOGITS and SHARE["cuda"] == 1 / 8


def test_cells_and_verdicts() -> None:
    rows = {(row["size"], row["version"], row["quant"]): row for row in table()}
    assert len(rows) == 21
    for row in rows.values():
        total, weights, target = (float(str(row[name])) for name in ("total", "weights", "target"))
        assert total > weights
        assert row["verdict"] == ("weights" if weights > target else "met" if total <= target else "missed")
    more = state_memory("x070", 24, 2048, quant="fp16", ctx_len=1024, grad_cp=0)
    assert more.activations > 5 * state_memory("x070", 24, 2048, quant="fp16", ctx_len=1024).activations


def test_weights_are_as_large_as_their_file(tiny_model: Any) -> None:
    info = inspect_model(tiny_model)
    assert sum(parameters("x070", info.n_layer, info.n_embd, info.vocab_size)) == info.parameters
