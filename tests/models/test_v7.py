"""RWKV-7 against the `rwkv` package, and the laws its forward keeps."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.checkpoints.save import save_tensors
from engine.contract.errors import UserError
from engine.models import load_model
from engine.models.build import set_state
from engine.models.init import init_model
from engine.models.v7 import RWKV7
from engine.ops.wkv7.chunked import wkv7_chunked
from engine.ops.wkv7.reference import wkv7_reference


def random_weights(n_layer: int, n_embd: int, head_size: int, vocab_size: int) -> dict[str, Tensor]:
    """A fresh model with every tensor disturbed, so that none is zero and no two layers are alike."""
    rng = torch.Generator().manual_seed(n_embd)
    tensors = init_model("x070", n_layer, n_embd, vocab_size=vocab_size, head_size=head_size)
    for name, tensor in tensors.items():
        scale = 1.0 if name == "emb.weight" else 0.1 if tensor.dim() == 3 or "ln" in name else n_embd**-0.5
        tensor.add_(scale * torch.randn(tensor.shape, generator=rng))
    return tensors


def random_state(n_layer: int, n_head: int, head_size: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(n_head)
    shape = (n_head, head_size, head_size)
    return {f"blocks.{i}.att.time_state": torch.randn(shape, generator=rng) for i in range(n_layer)}


@functools.cache
def small_model() -> RWKV7:
    return RWKV7(random_weights(3, 48, 16, 70), wkv7_chunked).eval()


@pytest.fixture(scope="module")
def rwkv() -> Any:
    """The package's RWKV-7 class; what it does depends on variables read at its import."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RWKV_V7_ON", "1"), ("RWKV_JIT_ON", "0"), ("RWKV_CUDA_ON", "0")):
            patch.setenv(name, value)
        return importlib.import_module("rwkv.model").RWKV_x070


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("n_layer", "n_embd", "head_size", "vocab_size", "batch", "steps"),
    [(2, 64, 64, 64, 1, 1), (3, 192, 64, 300, 2, 75), (2, 96, 32, 1000, 3, 32), (1, 80, 16, 65, 2, 7)],
)
def test_logits_equal_those_of_the_rwkv_package(
    rwkv: Any,
    tmp_path: Path,
    n_layer: int,
    n_embd: int,
    head_size: int,
    vocab_size: int,
    batch: int,
    steps: int,
) -> None:
    tensors = random_weights(n_layer, n_embd, head_size, vocab_size)
    state = random_state(n_layer, n_embd // head_size, head_size)
    save_tensors(tensors, tmp_path / "model.pth")
    save_tensors(state, tmp_path / "state.pth")
    oracle = rwkv(str(tmp_path / "model"), "cpu fp32")
    tokens = torch.randint(vocab_size, (batch, steps), generator=torch.Generator().manual_seed(0))
    for given_state in (None, tmp_path / "state.pth"):
        logits = load_model(tmp_path / "model.pth", given_state)(tokens)
        assert logits.shape == (batch, steps, vocab_size)
        for row, ids in zip(logits, tokens.tolist(), strict=True):
            running = oracle.generate_zero_state()
            if given_state is not None:
                running[1::3] = [t.clone() for t in state.values()]
            expected, _ = oracle.forward(ids, running, full_output=True)
            assert expected.std() > 0.1
            assert (row - expected).abs().max() < 1e-4


def test_both_operators_and_double_precision_agree() -> None:
    tensors, tokens = random_weights(2, 64, 32, 70), torch.arange(40).view(1, 40)
    right = RWKV7({k: t.double() for k, t in tensors.items()}, wkv7_reference)(tokens)
    for operator in (wkv7_chunked, wkv7_reference):
        assert (RWKV7(tensors, operator)(tokens) - right).abs().max() < 1e-4


@given(cut=st.integers(1, 39), batch=st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_carrying_the_state_equals_one_pass(cut: int, batch: int) -> None:
    model = small_model()
    tokens = torch.randint(70, (batch, 40), generator=torch.Generator().manual_seed(cut))
    with torch.no_grad():
        whole, end = model.run(tokens)
        first, carry = model.run(tokens[:, :cut])
        second, last = model.run(tokens[:, cut:], carry)
    assert (torch.cat([first, second], 1) - whole).abs().max() < 1e-4
    for ours, theirs in zip(last, end, strict=True):
        assert all((x - y).abs().max() < 1e-4 for x, y in zip(ours, theirs, strict=True))


def _noted(kept: list[Tensor], tensor: Tensor) -> Tensor:
    kept.append(tensor)
    return tensor


def test_grad_cp_changes_memory_and_not_gradients() -> None:
    tokens = torch.arange(50).view(2, 25)
    gradients = []
    for grad_cp in (False, True):
        model = RWKV7(random_weights(2, 48, 16, 70), wkv7_chunked, grad_cp=grad_cp).train()
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


def test_the_state_gets_its_gradient_and_the_frozen_weights_none() -> None:
    model = RWKV7(random_weights(2, 48, 16, 70), wkv7_chunked).requires_grad_(False)
    set_state(model, random_state(2, 3, 16))
    model(torch.arange(30).view(1, 30)).square().mean().backward()
    with_gradient = [name for name, p in model.named_parameters() if p.grad is not None]
    assert with_gradient == [f"blocks.{i}.att.time_state" for i in range(2)]
    assert all(m.time_state is not None and m.time_state.grad is not None for m in model.time_mixers())


def test_bf16_weights_give_nearly_the_same(tmp_path: Path) -> None:
    tensors = {k: t.bfloat16() for k, t in random_weights(2, 64, 64, 70).items()}
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


def test_names_are_those_of_the_file_and_a_merged_state_is_used(tmp_path: Path) -> None:
    tensors, state = random_weights(2, 64, 32, 70), random_state(2, 2, 32)
    for name in ("v0", "v1", "v2"):
        del tensors[f"blocks.0.att.{name}"]
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
