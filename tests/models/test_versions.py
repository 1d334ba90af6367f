"""The models against the `rwkv` package, and the laws their forwards keep."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.checkpoints.save import load_tensors, save_tensors
from engine.contract.errors import UserError
from engine.models import load_model
from engine.models.base import RWKV
from engine.models.build import set_state
from engine.models.v5 import RWKV5
from engine.models.v6 import RWKV6
from engine.models.v7 import RWKV7
from engine.ops.wkv6.chunked import wkv6_chunked
from engine.ops.wkv6.reference import wkv6_reference
from engine.ops.wkv7.chunked import wkv7_chunked
from engine.ops.wkv7.reference import wkv7_reference
from tests.fakes import oracle
from tests.fakes.weights import VERSIONS, random_state, random_weights

MODELS = {"x052": RWKV5, "x060": RWKV6, "x070": RWKV7}
# n_layer, n_embd, head_size, vocab_size, batch, steps
SHAPES = [
    (2, 64, 64, 64, 1, 1),
    (3, 192, 64, 300, 2, 75),
    (2, 96, 32, 65536, 1, 32),
    (1, 80, 16, 65, 2, 7),
    (2, 24, 8, 1000, 3, 20),
]
every_version = pytest.mark.parametrize("version", VERSIONS)


def fresh(version: str, *, n_layer: int = 2, operator: Any = None, grad_cp: int = 0) -> RWKV:
    """A small model of 3 heads of 16 channels and 70 tokens."""
    operator = operator or OPERATORS[version][0]
    return MODELS[version](random_weights(n_layer, 48, 16, 70, version), operator, grad_cp=grad_cp)


OPERATORS: dict[str, tuple[Any, Any]] = {
    "x052": (wkv6_chunked, wkv6_reference),
    "x060": (wkv6_chunked, wkv6_reference),
    "x070": (wkv7_chunked, wkv7_reference),
}


@functools.cache
def small_model(version: str) -> RWKV:
    return fresh(version, n_layer=3).eval()


@every_version
def test_logits_equal_those_of_the_rwkv_package(version: str, tmp_path: Path) -> None:
    folders = []
    for number, (n_layer, n_embd, head_size, vocab_size, batch, steps) in enumerate(SHAPES):
        tensors = random_weights(n_layer, n_embd, head_size, vocab_size, version)
        if number % 2:  # released x070 files have them or not
            for name in ("v0", "v1", "v2"):
                tensors.pop(f"blocks.0.att.{name}", None)
        tokens = torch.randint(vocab_size, (batch, steps), generator=torch.Generator().manual_seed(0))
        folder = tmp_path / str(number)
        save_tensors(tensors, folder / "model.pth")
        save_tensors(random_state(n_layer, n_embd // head_size, head_size), folder / "state.pth")
        save_tensors({"tokens": tokens}, folder / "tokens.pth")
        folders.append(folder)
    oracle.ask(version, folders)
    for folder in folders:
        tokens, expected = load_tensors(folder / "tokens.pth")["tokens"], load_tensors(folder / "logits.pth")
        for name, state in (("plain", None), ("state", folder / "state.pth")):
            with torch.no_grad():
                logits = load_model(folder / "model.pth", state)(tokens)
            assert logits.shape == expected[name].shape
            assert expected[name].std() > 0.1
            assert (logits - expected[name]).abs().max() < 1e-4
        assert tokens.shape[1] > 1 or (expected["plain"] - expected["state"]).abs().max() > 0.01


@every_version
def test_both_operators_and_double_precision_agree(version: str) -> None:
    tokens = torch.arange(40).view(1, 40)
    doubled = {k: t.double() for k, t in random_weights(2, 48, 16, 70, version).items()}
    right = MODELS[version](doubled, OPERATORS[version][1])(tokens)
    for operator in OPERATORS[version]:
        assert (fresh(version, operator=operator)(tokens) - right).abs().max() < 1e-4


@pytest.mark.parametrize("version", ["x052", "x060"])
def test_the_strongest_decays_stay_finite(version: str) -> None:
    tensors = random_weights(2, 48, 16, 70, version)
    for name, tensor in tensors.items():
        if name.endswith("time_decay"):
            tensor.view(-1)[::3] = 200.0
            tensor.view(-1)[1::3] = 4.0
    model = MODELS[version](tensors, wkv6_chunked)
    logits = model(torch.arange(40).view(1, 40))
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    slow = MODELS[version](tensors, wkv6_reference)(torch.arange(40).view(1, 40))
    assert (logits - slow).abs().max() < 1e-4


@given(version=st.sampled_from(VERSIONS), cut=st.integers(1, 39), batch=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_carrying_the_state_equals_one_pass(version: str, cut: int, batch: int) -> None:
    model = small_model(version)
    tokens = torch.randint(70, (batch, 40), generator=torch.Generator().manual_seed(cut))
    with torch.no_grad():
        whole, end = model.run(tokens)
        first, carry = model.run(tokens[:, :cut])
        second, last = model.run(tokens[:, cut:], carry)
    assert (torch.cat([first, second], 1) - whole).abs().max() < 1e-4
    for ours, theirs in zip(last.layers, end.layers, strict=True):
        assert all((x - y).abs().max() < 1e-4 for x, y in zip(ours, theirs, strict=True))


def _noted(kept: list[Tensor], tensor: Tensor) -> Tensor:
    kept.append(tensor)
    return tensor


@every_version
def test_grad_cp_changes_memory_and_not_gradients(version: str) -> None:
    tokens = torch.arange(50).view(2, 25)
    gradients = []
    for grad_cp in (0, 1):
        model = fresh(version, grad_cp=grad_cp).train()
        set_state(model, random_state(2, 3, 16))
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(functools.partial(_noted, kept), lambda t: t):
            loss = model(tokens).square().mean()
        loss.backward()
        gradients.append(
            [p.grad for name, p in model.named_parameters() if not name.startswith("blocks.0.att.v")]
        )
        gradients[-1].append(torch.tensor(float(sum(t.numel() for t in kept))))
    *without, memory_without = gradients[0]
    *with_cp, memory_with = gradients[1]
    assert memory_without is not None
    assert memory_with is not None
    assert memory_with < memory_without / 3
    for ours, theirs in zip(with_cp, without, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@every_version
def test_the_state_gets_its_gradient_and_the_frozen_weights_none(version: str) -> None:
    model = fresh(version).requires_grad_(False)
    set_state(model, random_state(2, 3, 16))
    model(torch.arange(30).view(1, 30)).square().mean().backward()
    with_gradient = [name for name, p in model.named_parameters() if p.grad is not None]
    assert with_gradient == [f"blocks.{i}.att.time_state" for i in range(2)]
    assert all(m.time_state is not None and m.time_state.grad is not None for m in model.time_mixers())


@every_version
def test_bf16_weights_give_nearly_the_same(version: str, tmp_path: Path) -> None:
    tensors = {k: t.bfloat16() for k, t in random_weights(2, 64, 64, 70, version).items()}
    save_tensors(tensors, tmp_path / "m.pth")
    tokens = torch.arange(64).view(2, 32)
    exact = load_model(tmp_path / "m.pth")(tokens)
    model = load_model(tmp_path / "m.pth", random_state(2, 1, 64), dtype=torch.bfloat16)
    assert {p.dtype for n, p in model.named_parameters() if "time_state" not in n} == {torch.bfloat16}
    assert {m.time_state.dtype for m in model.time_mixers() if m.time_state is not None} == {torch.float32}
    set_state(model, {k: torch.zeros_like(t) for k, t in random_state(2, 1, 64).items()})
    logits = model(tokens)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).norm() / exact.norm() < 0.05


@every_version
def test_names_are_those_of_the_file_and_a_merged_state_is_used(version: str, tmp_path: Path) -> None:
    tensors, state = random_weights(2, 64, 32, 70, version), random_state(2, 2, 32)
    for name in ("v0", "v1", "v2"):
        tensors.pop(f"blocks.0.att.{name}", None)
    save_tensors(tensors, tmp_path / "plain.pth")
    save_tensors(tensors | state, tmp_path / "merged.pth")
    plain, merged = load_model(tmp_path / "plain.pth"), load_model(tmp_path / "merged.pth")
    assert set(plain.state_dict()) == set(tensors)
    assert set(merged.state_dict()) == set(tensors | state)
    assert (plain.n_layer, plain.n_embd, plain.n_head, plain.head_size, plain.vocab_size) == (
        2,
        64,
        2,
        32,
        70,
    )
    tokens = torch.arange(9).view(1, 9)
    assert torch.equal(merged(tokens), load_model(tmp_path / "plain.pth", state)(tokens))
    assert not torch.allclose(merged(tokens), plain(tokens))


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    save_tensors(random_weights(2, 64, 32, 70), tmp_path / "m.pth")
    for state, said in (
        (random_state(3, 2, 32), "3 layers of 2x32x32, the model needs 2 layers of 2x32x32"),
        (random_state(2, 1, 64), "2 layers of 1x64x64, the model needs 2 layers of 2x32x32"),
    ):
        with pytest.raises(UserError, match=said):
            load_model(tmp_path / "m.pth", state)
