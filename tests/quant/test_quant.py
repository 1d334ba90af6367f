"""Packed linears: their error, their gradient, and what loading them takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.quant import QuantLinear, is_linear_weight

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "error", "bits"), [("int8", 0.012, 8.6), ("nf4", 0.11, 4.6)])
def test_error_size_and_gradient(kind: str, error: float, bits: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 80).to(dtype)
    layer = QuantLinear(weight.shape, kind, dtype, CPU)
    layer.pack(weight)
    assert layer.weight.dtype == dtype and layer.weight.shape == weight.shape
    assert (layer.weight - weight).float().norm() / weight.float().norm() < error
    assert 8 * sum(b.nbytes for b in layer.buffers()) / weight.numel() < bits
    assert not list(layer.parameters())
    x = torch.randn(2, 3, 80, dtype=dtype, requires_grad=True)
    layer(x).square().sum().backward()
    y = torch.nn.functional.linear(x.detach(), layer.weight)
    assert torch.allclose(layer(x), y)
    assert x.grad is not None and torch.allclose(x.grad, 2 * y @ layer.weight, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1030, 514), (96, 80), (7, 9), (1, 1)])
def test_nf4_on_a_cpu_has_the_bytes_of_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Of whole blocks and others, of several parts, of zeros and of a weight between two codes."""
    from bitsandbytes.functional import get_4bit_type, quantize_4bit

    torch.manual_seed(0)
    weight = torch.randn(shape).to(dtype)
    if weight.numel() > 256:
        weight.view(-1)[:64] = 0
        values = get_4bit_type("nf4", device="cpu").to(dtype)  # type: ignore[no-untyped-call]
        weight.view(-1)[64:80] = values
        weight.view(-1)[128:144] = 1
        weight.view(-1)[129:144] = (values[1:] + values[:-1]) / 2
    layer = QuantLinear(weight.shape, "nf4", dtype, CPU)
    layer.pack(weight)
    packed, state = quantize_4bit(weight, quant_type="nf4", blocksize=64)
    assert torch.equal(layer.packed, packed) and torch.equal(layer.scales, state.absmax)


def test_int8_is_within_half_a_step_of_each_weight() -> None:
    weight = torch.randn(32, 48)
    weight[5] = 0
    layer = QuantLinear(weight.shape, "int8", torch.float32, CPU)
    layer.pack(weight)
    largest = weight.abs().amax(1, keepdim=True)
    assert ((layer.weight - weight).abs() <= largest * (1 / 254 + 1 / 1000)).all()


def test_only_the_layers_linears_are_packed() -> None:
    assert is_linear_weight("blocks.10.ffn.key.weight") and is_linear_weight("blocks.0.att.gate.weight")
    for name in (
        "head.weight",
        "emb.weight",
        "blocks.0.ln1.weight",
        "blocks.0.att.w1",
        "blocks.0.att.ln_x.weight",
    ):
        assert not is_linear_weight(name)


MEASURE = """
import re, sys, torch
from pathlib import Path
from engine.models import load_model
from engine.quant import QuantLinear

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

path, kind, dtype = Path(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3])
warm = QuantLinear(torch.Size((64, 64)), kind, torch.bfloat16, torch.device("cpu"))
warm.pack(torch.randn(64, 64))
before = peak()
model = load_model(path, quant=kind, dtype=dtype)
print((peak() - before) / path.stat().st_size)
"""


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen layers of width 512 and the vocabulary of the released models in bf16: 240 MB, more than
    half of it embedding and head."""
    from engine.checkpoints.stream import write_stream
    from engine.models.init import init_model

    one = init_model("x070", n_layer=2, n_embd=512, vocab_size=256)
    layer = {n: t.bfloat16() for n, t in one.items() if n.startswith("blocks.1.")}
    rest = {n: t.bfloat16() for n, t in one.items() if n not in layer}
    rest |= {n: torch.randn(65536, 512, dtype=torch.bfloat16) for n in ("emb.weight", "head.weight")}
    more = {n.replace(".1.", f".{i}.", 1): t for i in range(1, 16) for n, t in layer.items()}
    path = tmp_path_factory.mktemp("wide") / "m.pth"
    write_stream((rest | more).items(), path)
    return path


@pytest.mark.parametrize(("kind", "dtype"), [("int8", "bfloat16"), ("int8", "float32"), ("nf4", "float32")])
def test_loading_takes_little_more_than_the_file(kind: str, dtype: str, wide_model: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(wide_model), kind, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"{kind}, {dtype}: {float(done.stdout):.2f} of {wide_model.stat().st_size >> 20} MiB")
    assert 0.2 < float(done.stdout) < 1.3


def test_a_narrow_embedding_and_head_compute_as_wide_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bf16 file in fp32: the same logits, loss and gradient as with the matrices widened."""
    from engine.checkpoints.save import save_tensors
    from engine.models import base, load_model
    from engine.train.loss import training_loss
    from engine.tuning.state import StateTuning
    from tests.fakes.weights import random_weights

    monkeypatch.setattr(base, "WIDENED", 48 * 32)  # several parts
    save_tensors({n: t.bfloat16() for n, t in random_weights(2, 48, 16, 100).items()}, tmp_path / "m.pth")
    tokens = torch.arange(60).view(2, 30)
    found = []
    for widen in (False, True):
        model = load_model(tmp_path / "m.pth", quant="int8").train()
        assert {model.emb.weight.dtype, model.head.weight.dtype} == {torch.bfloat16}
        if widen:
            for part in (model.emb, model.head):
                part.weight.data = part.weight.data.float()
        StateTuning().attach(model)
        loss = training_loss(model, tokens, tokens + 1)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [m.time_state.grad for m in model.time_mixers() if m.time_state is not None]
        found.append([model(tokens).detach(), loss.detach(), *gradients])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
