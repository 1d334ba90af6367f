"""Tuning a state computes and keeps gradients of states and activations, of no weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.models.base import RWKV
from engine.models.build import MODELS
from engine.models.init import init_model
from engine.ops.choice import choose
from engine.ops.registry import Need, recurrence_of
from engine.train.loss import training_loss
from engine.tuning.full import FullTuning
from engine.tuning.state import StateTuning

STEPS, VOCABULARY = 24, 96  # no matrix of activations has a weight's shape


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the shapes of all matrices that are computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and "mm" in str(func):
            self.seen.add(tuple(result.shape[-2:]))
        return result


def model_of(version: str, grad_cp: int) -> RWKV:
    tensors = init_model(version, 3, 128, vocab_size=VOCABULARY)
    operator = choose("auto", Need(recurrence_of(version), "cpu", torch.float32, 2, 64)).function
    model = MODELS[version](tensors, operator).train()
    model.grad_cp = grad_cp
    return model


def backward(model: RWKV) -> set[tuple[int, ...]]:
    """The shapes of the products of a backward pass."""
    tokens = torch.randint(1, VOCABULARY, (2, STEPS), generator=torch.Generator().manual_seed(0))
    loss = training_loss(model, tokens, tokens.roll(-1, 1))
    shapes = Shapes()
    with shapes:
        loss.backward()  # type: ignore[no-untyped-call]
    return shapes.seen


def weights_of(model: nn.Module) -> set[tuple[int, ...]]:
    found = {
        tuple(p.shape[-2:]) for n, p in model.named_parameters() if n.endswith(".weight") and p.ndim == 2
    }
    return found | {shape[::-1] for shape in found}


@pytest.mark.parametrize("grad_cp", [0, 1])
@pytest.mark.parametrize("version", list(MODELS))
def test_no_gradient_of_a_weight(version: str, grad_cp: int) -> None:
    model = model_of(version, grad_cp)
    StateTuning().attach(model)
    assert not backward(model) & weights_of(model)
    have = {name for name, p in model.named_parameters() if p.grad is not None}
    assert have == {f"blocks.{i}.att.time_state" for i in range(3)}


def test_full_tuning_would_be_seen() -> None:
    model = model_of("x070", 0)
    FullTuning().attach(model)
    assert backward(model) & weights_of(model)


def test_the_first_layer_has_a_gradient_for_its_state_alone() -> None:
    asked: list[tuple[bool, ...]] = []
    model = model_of("x070", 0)
    operator = model.time_mixers()[0].operator

    def watching(*inputs: torch.Tensor) -> Any:
        asked.append(tuple(x.requires_grad for x in inputs))
        return operator(*inputs)

    for att in model.time_mixers():
        att.operator = watching
    StateTuning().attach(model)
    backward(model)
    assert asked[0] == (False,) * 6 + (True,)
    assert all(asked[1])
