"""Generation with a carried state gives what full passes would."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from engine.chat.generate import generate
from engine.contract.errors import UserError
from engine.models import load_model
from engine.models.base import RWKV
from engine.models.init import make_checkpoint

PROMPT = [5, 9, 2, 7]


@pytest.fixture(scope="module", params=["x052", "x060", "x070"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RWKV:
    path = tmp_path_factory.mktemp("model") / "m.pth"
    make_checkpoint(path, request.param, 2, 64, 90)
    model = load_model(path)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    return model


def test_greedy_is_the_likeliest_token_of_a_full_pass_each_time(model: RWKV) -> None:
    expected = list(PROMPT)
    for _ in range(12):
        expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
    found = list(generate(model, PROMPT, length=12, stop_ids=()))
    assert found == expected[len(PROMPT) :]
    assert len(set(found)) > 2
    assert list(generate(model, PROMPT, length=12, stop_ids=(found[5],))) == found[: found.index(found[5])]
    assert list(generate(model, PROMPT, length=0)) == []


def test_a_seed_repeats_its_draws_and_top_p_narrows_them(model: RWKV) -> None:
    first, again, other = (
        list(generate(model, PROMPT, length=30, top_p=1.0, stop_ids=(), seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other
    greedy = list(generate(model, PROMPT, length=30, stop_ids=()))
    assert list(generate(model, PROMPT, length=30, top_p=1e-9, stop_ids=(), seed=3)) == greedy
    assert (
        list(generate(model, PROMPT, length=30, top_p=1.0, temperature=1e-4, stop_ids=(), seed=3)) == greedy
    )


def test_top_p_draws_from_the_smallest_sufficient_set(model: RWKV) -> None:
    probabilities = model(torch.tensor([PROMPT]))[0, -1].softmax(-1).sort(descending=True)
    enough = int((probabilities.values.cumsum(0) < 0.9).sum()) + 1
    drawn = {next(generate(model, PROMPT, length=1, top_p=0.9, stop_ids=(), seed=seed)) for seed in range(40)}
    assert drawn <= set(probabilities.indices[:enough].tolist())
    assert len(drawn) > 1


def test_it_is_lazy_keeps_no_graph_and_leaves_gradients_on(model: RWKV) -> None:
    tokens = generate(model, PROMPT, length=10**9, stop_ids=())
    assert len(list(itertools.islice(tokens, 5))) == 5
    assert torch.is_grad_enabled()


def test_an_empty_prompt_is_refused(model: RWKV, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompt is empty"):
        next(generate(model, [], length=3))
