"""The optimizer and its learning rate."""

from __future__ import annotations

import math

import torch

from engine.contract.schedule import learning_rate, steps_shown
from engine.contract.settings import TrainSettings
from engine.models.base import RWKV
from engine.tuning import Tuning


def make_optimizer(model: RWKV, tuning: Tuning, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam; in its AdamW form weight decay acts on the parameters directly, not through the gradient."""
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    groups = tuning.param_groups(model, settings.weight_decay)
    return kinds[settings.optimizer](
        groups, lr=settings.lr_init, betas=(settings.beta1, settings.beta2), eps=settings.adam_eps, fused=True
    )


def make_scaler(model: RWKV, settings: TrainSettings) -> torch.amp.GradScaler:
    """Scales the loss so that small gradients survive fp16: up again after 2000 good steps, down by half
    when one overflows. In other formats it does nothing. What it scales are gradients of fp32 parameters."""
    return torch.amp.GradScaler(model.device.type, enabled=settings.precision == "fp16")


def note_overflow(scaler: torch.amp.GradScaler, device: torch.device, overflowed: bool) -> bool:
    """Tells the scaler how a step went that a library has unscaled and taken; gives whether it lowered the
    scale."""
    if not scaler.is_enabled():
        return False
    scale = scaler.get_scale()
    told = torch.zeros(1, device=device, requires_grad=True)  # it looks at gradients and nothing else
    scaler.scale(told)
    told.grad = torch.full_like(told, math.inf if overflowed else 0.0)
    scaler.unscale_(torch.optim.SGD([told]))
    scaler.update()
    return scaler.get_scale() < scale


def set_rate(optimizer: torch.optim.Optimizer, step: int, settings: TrainSettings) -> float:
    """Sets every group's rate for step (from 0) of the run and returns the unscaled one."""
    first, steps = steps_shown(settings)
    rate = learning_rate(first + step, steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    return rate
