"""The Lightning module: one model, one tuning, one loss."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from engine.contract.settings import TrainSettings
from engine.models.base import RWKV
from engine.train.loss import training_loss
from engine.train.optim import make_optimizer
from engine.tuning import Tuning


class TuneModule(pl.LightningModule):
    """Trains what `tuning` made trainable; `grad_norm` is that of the last optimizer step."""

    def __init__(self, model: RWKV, tuning: Tuning, settings: TrainSettings) -> None:
        super().__init__()
        self.model = model
        self.tuning = tuning
        self.settings = settings
        self.grad_norm: float | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        tokens, targets = batch
        return training_loss(self.model, tokens, targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, self.tuning, self.settings)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clips to grad_clip (0: never) and keeps the norm before clipping for the log."""
        limit = self.settings.grad_clip or float("inf")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.grad_norm = float(nn.utils.clip_grad_norm_(parameters, limit))
