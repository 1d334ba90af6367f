"""The Lightning module: one model, one tuning, one loss."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.contract.settings import TrainSettings
from engine.data.dataset import IGNORED
from engine.models.base import RWKV, Carry
from engine.train.infctx import backward_in_chunks
from engine.train.lightning import pl
from engine.train.loss import chunk_loss
from engine.train.optim import make_optimizer, make_scaler, note_overflow
from engine.train.strategy import Spread
from engine.tuning import Tuning


class TuneModule(pl.LightningModule):
    """Trains what `tuning` made trainable.

    `step` counts the run's steps so far: with epoch_steps it says all about where the run is, also
    when it goes on after a pause. `grad_norm` is that of the last optimizer step. `overflowed` says that
    the step just taken should have moved the parameters, and did not: a gradient was beyond fp16. `learned`
    is the number of targets learned in the last step, in all processes; `moved` says that it was one of the
    optimizer, too.
    """

    def __init__(self, model: RWKV, tuning: Tuning, settings: TrainSettings, spread: Spread) -> None:
        super().__init__()
        self.automatic_optimization = False  # infctx has several backward passes in a step
        self.model = model
        self.tuning = tuning
        self.settings = settings
        self.spread = spread
        self.step = 0
        self.learned = 0
        self.grad_norm: float | None = None
        self.overflowed = False
        self.moved = False
        self.scaler = make_scaler(model, settings)

    @property
    def epoch(self) -> int:
        """The epoch of the last step taken, as file names and logs count it."""
        return self.settings.epoch_begin + max(self.step - 1, 0) // self.settings.epoch_steps

    @property
    def epoch_is_over(self) -> bool:
        return self.step % self.settings.epoch_steps == 0

    @property
    def can_pause(self) -> bool:
        """Whether the run could go on exactly after this step. DeepSpeed keeps the gradients of an unfinished
        accumulation to itself."""
        return self.moved or not self.spread.moves

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch; the parameters move when accumulate_grad_batches are done or the epoch is.

        Gives this process's part of the loss: the parts of all add up to the mean.
        """
        s = self.settings
        tokens, targets = self._as_one(*batch)
        chunk_ctx = s.chunk_ctx if s.train_type == "infctx" else tokens.shape[1]
        run = self.trainer.strategy.model or self  # DeepSpeed's engine around this module
        loss = backward_in_chunks(
            self.model, tokens, targets, chunk_ctx, self._backward, self.learned,
            lambda model, *chunk: run(*chunk),
        )  # fmt: skip
        self.step += 1
        self.overflowed = False
        self.moved = self.epoch_is_over or self.step % s.epoch_steps % s.accumulate_grad_batches == 0
        if self.moved:
            self._move(self.optimizers())
        return loss

    def forward(self, tokens: Tensor, targets: Tensor, count: int, carry: Carry | None) -> Any:
        """See `chunk_loss`."""
        return chunk_loss(self.model, tokens, targets, count, carry)

    def _as_one(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """This process's rows of the batch that all of them make: as long as the longest of all."""
        parts = self.spread.group.gather(int((targets != IGNORED).sum()), tokens.shape[1])
        self.learned = sum(count for count, _ in parts)
        missing = max(length for _, length in parts) - tokens.shape[1]
        return F.pad(tokens, (0, missing)), F.pad(targets, (0, missing), value=IGNORED)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, self.tuning, self.settings)

    def _backward(self, loss: Tensor) -> None:
        part = loss * self.spread.factor / self.settings.accumulate_grad_batches
        if self.spread.moves:
            self.spread.scale_by(self.trainer.optimizers[0], self.scaler)
        else:
            part = self.scaler.scale(part)
        self.manual_backward(part)

    def _move(self, optimizer: Any) -> None:
        """Takes the step that the gradients ask for, unless the loss scale has made one of them infinite."""
        if self.spread.moves:
            optimizer.step()
            self.grad_norm = self.spread.norm(self.trainer.strategy.model)
            self.overflowed = note_overflow(self.scaler, self.model.device, not math.isfinite(self.grad_norm))
            return
        self.spread.reduce(p for group in optimizer.param_groups for p in group["params"])
        scale = self.scaler.get_scale()
        self.scaler.unscale_(optimizer.optimizer)
        self.grad_norm = self._clip(optimizer)
        self.scaler.update()
        self.overflowed = self.scaler.get_scale() < scale
        if math.isfinite(self.grad_norm):  # one bad batch must not end what all others have made
            optimizer.step()
        optimizer.zero_grad()

    def _clip(self, optimizer: Any) -> float:
        """Clips to grad_clip (0: never) and gives the norm before."""
        limit = self.settings.grad_clip or float("inf")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return float(nn.utils.clip_grad_norm_(parameters, limit))
