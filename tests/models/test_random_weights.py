"""What only models trained from random weights have: a first layer without attention, a copying head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.chat.generate import generate
from engine.checkpoints.inspect import inspect_model
from engine.checkpoints.merge import merge
from engine.checkpoints.save import load_tensors, save_tensors
from engine.contract.errors import UserError
from engine.models import load_model
from engine.models.base import RWKV
from engine.models.init import init_model
from engine.ops import parts
from engine.train import loss
from tests.fakes.weights import VERSIONS

TOKENS = torch.tensor([[3, 9, 3, 5, 9, 3, 3, 60, 5, 9, 1], [7, 7, 7, 8, 9, 10, 7, 8, 9, 10, 7]])
every_version = pytest.mark.parametrize("version", VERSIONS)


def weights(version: str, **extras: Any) -> dict[str, Tensor]:
    """3 layers of 3 heads of 16, 70 tokens; every tensor disturbed."""
    tensors = init_model(version, 3, 48, vocab_size=70, head_size=16, **extras)
    rng = torch.Generator().manual_seed(0)
    return {n: t + 0.2 * torch.randn(t.shape, generator=rng) for n, t in tensors.items()}


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_tensors(tensors, path)
    return path


@pytest.fixture(params=VERSIONS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return saved(tmp_path / "both.pth", weights(request.param, pre_ffn=True, head_qk=8))


def test_the_file_says_what_it_has_and_keeps_its_names(both: Path, tmp_path: Path) -> None:
    info = inspect_model(both)
    assert (info.n_layer, info.head_size, info.pre_ffn, info.head_qk) == (3, 16, True, 8)
    assert set(load_model(both).state_dict()) == set(load_tensors(both))
    for version in VERSIONS:
        plain = inspect_model(saved(tmp_path / f"{version}.pth", weights(version)))
        assert (plain.pre_ffn, plain.head_qk) == (False, 0)


@every_version
def test_a_copying_head_adds_its_scores_to_what_stood_before(version: str, tmp_path: Path) -> None:
    """RWKV-LM's formula, with the one-hot matrix written out."""
    tensors = weights(version, head_qk=8)
    without = {n: t for n, t in tensors.items() if not n.startswith("head_")}
    model = load_model(saved(tmp_path / "with.pth", tensors))
    plain = load_model(saved(tmp_path / "without.pth", without))
    with torch.no_grad():
        x, _ = plain.hidden(TOKENS)
        scores = (x @ tensors["head_q.weight"].T) @ (x @ tensors["head_k.weight"].T).mT / 8
        past = torch.ones(11, 11).tril()
        wanted = plain(TOKENS) + (scores * past) @ F.one_hot(TOKENS, 70).float()
        assert (model(TOKENS) - wanted).abs().max() < 1e-5
        assert (model(TOKENS) - plain(TOKENS)).abs().max() > 0.1


@every_version
def test_the_first_layer_is_two_feed_forward_parts(version: str, tmp_path: Path) -> None:
    model = load_model(saved(tmp_path / "m.pth", weights(version, pre_ffn=True)))
    block: Any = model.blocks[0]
    assert block.att is None and len(model.time_mixers()) == 2
    with torch.no_grad():
        x = block.ln0(model.emb(TOKENS))
        x = x + block.ffnPre(block.ln1(x), None)
        x = x + block.ffn(block.ln2(x), None)
        ours, v_first, _ = block(model.emb(TOKENS), None, None)
    assert torch.equal(ours, x) and v_first is None


def test_the_first_attention_may_lack_what_it_does_not_use(tmp_path: Path) -> None:
    tensors = weights("x070", pre_ffn=True)
    lean = {n: t for n, t in tensors.items() if n not in {f"blocks.1.att.v{i}" for i in range(3)}}
    whole, part = (saved(tmp_path / f"{len(t)}.pth", t) for t in (tensors, lean))
    assert torch.equal(load_model(whole)(TOKENS), load_model(part)(TOKENS))


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_carrying_on_equals_one_pass(cut: int, both: Path) -> None:
    model = load_model(both)
    with torch.no_grad():
        whole, _ = model.run(TOKENS)
        first, carry = model.run(TOKENS[:, :cut])
        second, _ = model.run(TOKENS[:, cut:], carry)
    assert (torch.cat([first, second], 1) - whole).abs().max() < 1e-4


def test_it_generates_as_it_reads(both: Path) -> None:
    model = load_model(both)
    found = list(generate(model, [3, 9, 3, 5], length=6, stop_ids=()))
    tokens = [3, 9, 3, 5]
    for _ in range(6):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert found == tokens[4:]


def test_loss_and_gradients_are_those_of_all_logits(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken a few positions at a time, as of the whole."""
    monkeypatch.setattr(parts, "L2WRAP", 0.0)
    monkeypatch.setitem(loss.CHUNK_ELEMENTS, "cpu", 3 * 70)
    targets = TOKENS.roll(-1, 1)
    targets[0, 2:5] = -100

    def gradients(value: Tensor, model: RWKV) -> dict[str, Tensor]:
        value.backward()  # type: ignore[no-untyped-call]
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    ours, theirs = load_model(both), load_model(both)
    one = loss.training_loss(ours, TOKENS, targets)
    two = F.cross_entropy(theirs(TOKENS).flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert torch.allclose(one, two, atol=1e-5)
    summed, count = loss.summed_loss(ours, TOKENS, targets)
    assert summed / count == pytest.approx(float(two.detach()), abs=1e-5)
    found, wanted = gradients(one, ours), gradients(two, theirs)
    assert found.keys() == wanted.keys() and {"head_q.weight", "blocks.0.ffnPre.key.weight"} <= found.keys()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_packed_weights_reach_the_first_layer_too(both: Path) -> None:
    exact, packed = load_model(both), load_model(both, quant="int8")
    assert "ffnPre.key.packed" in packed.blocks[0].state_dict()
    with torch.no_grad():
        assert (packed(TOKENS) - exact(TOKENS)).norm() / exact(TOKENS).norm() < 0.05


def test_its_state_begins_with_the_second_layer(both: Path, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(1)
    state = {f"blocks.{i}.att.time_state": torch.randn(3, 16, 16, generator=rng) for i in (1, 2)}
    path = saved(tmp_path / "state.pth", state)
    merged = merge(both, tmp_path / "merged.pth", state=path)
    with torch.no_grad():
        assert torch.equal(load_model(both, path)(TOKENS), load_model(tmp_path / "merged.pth")(TOKENS))
    other = saved(tmp_path / "other.pth", weights(merged.version))
    for use in (lambda: load_model(other, path), lambda: merge(other, tmp_path / "no.pth", state=path)):
        with pytest.raises(UserError, match="2 layers of 3"):
            use()


@every_version
def test_what_makes_no_model_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no time mixing"):
        init_model(version, 1, 64, pre_ffn=True)
    tensors = weights(version, pre_ffn=True, head_qk=8)
    for drop, said in (
        ("head_k.weight", "lacks head_k"),
        ("blocks.0.ffnPre.key.weight", "lacks blocks.0.ffnPre"),
    ):
        part = {n: t for n, t in tensors.items() if n != drop}
        with pytest.raises(UserError, match=said):
            inspect_model(saved(tmp_path / "part.pth", part))
    one = {n: t for n, t in tensors.items() if not n.startswith(("blocks.1.", "blocks.2."))}
    with pytest.raises(UserError):
        inspect_model(saved(tmp_path / "one.pth", one))
