"""What the optimizer's settings change."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from engine.contract.settings import TrainSettings
from engine.models.base import RWKV
from engine.train.optim import make_optimizer, set_rate
from engine.tuning.full import FullTuning


def after(gradient: float, **values: Any) -> tuple[Tensor, Tensor]:
    """Weight [2, 3] and bias [2], both of ones, after two steps with the same gradient everywhere."""
    settings = TrainSettings(**{
        "train_type": "none", "lr_init": 0.1, "warmup_steps": 0, "lr_schedule": "constant", **values
    })  # fmt: skip
    layers = nn.Sequential(nn.Linear(3, 2))
    for p in layers.parameters():
        nn.init.ones_(p)
        p.grad = torch.full_like(p, gradient)
    optimizer = make_optimizer(cast(RWKV, layers), FullTuning(), settings)
    for step in range(2):
        set_rate(optimizer, step, settings)
        optimizer.step()
    weight, bias = layers.parameters()
    return weight.detach(), bias.detach()


def test_adam_and_adamw_are_one_without_decay() -> None:
    for adam, adamw in zip(after(0.5, optimizer="adam"), after(0.5, optimizer="adamw"), strict=True):
        torch.testing.assert_close(adam, adamw)
        torch.testing.assert_close(adam, torch.full_like(adam, 0.8))  # two steps of the rate


def test_adamw_decays_matrices_beside_the_gradient() -> None:
    weight, bias = after(0.0, optimizer="adamw", weight_decay=0.5)
    torch.testing.assert_close(weight, torch.full_like(weight, (1 - 0.1 * 0.5) ** 2))
    assert torch.equal(bias, torch.ones(2))


def test_adam_decays_matrices_through_the_gradient() -> None:
    weight, bias = after(0.0, optimizer="adam", weight_decay=0.5)
    assert weight[0, 0] == pytest.approx(0.8, abs=0.01)  # Adam makes any gradient a step of the rate
    assert torch.equal(bias, torch.ones(2))


@pytest.mark.parametrize("changed", [{"adam_eps": 1.0}, {"beta1": 0.1}, {"beta2": 0.5}])
def test_each_setting_of_adam_is_used(changed: dict[str, float]) -> None:
    layers = cast(RWKV, nn.Sequential(nn.Linear(3, 2)))
    optimizers = [make_optimizer(layers, FullTuning(), TrainSettings(**v)) for v in ({}, changed)]
    found = [{k: v for k, v in o.param_groups[0].items() if k in ("eps", "betas")} for o in optimizers]
    assert found[0] != found[1]
