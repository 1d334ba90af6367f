"""What happens around the steps: learning rate, events, logs, checkpoints, stopping."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.rundir import RunDir
from engine.data.dataset import IGNORED
from engine.train.module import TuneModule
from engine.train.optim import set_rate
from engine.train.stop import StopRequest

SMOOTHING = 0.95  # weight of the past in the smoothed loss
BAD_STEPS = 3  # steps without a finite loss that end a run


class Average:
    """Exponential average without the bias towards its start."""

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def add(self, value: float) -> None:
        self.total = SMOOTHING * self.total + (1 - SMOOTHING) * value
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight else None


class Reporter(pl.Callback):
    """Sets the rate before each step, tells each step and epoch, saves, and stops when asked."""

    def __init__(self, run: RunDir, emit: events.Emit, stop: StopRequest) -> None:
        self.run = run
        self.emit = emit
        self.stop = stop
        self.smooth = Average()
        self.tokens = 0
        self.saved: list[Path] = []
        self.saved_step = 0
        self.bad_steps = 0
        self.rate = 0.0
        self.epoch_losses: list[float] = []
        self.step_began = self.epoch_began = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.install()  # Lightning has just put its own handlers in place

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_losses = []
        self.epoch_began = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TuneModule)
        self.step_began = time.monotonic()
        self.rate = set_rate(trainer.optimizers[0], self._step(trainer, pl_module), pl_module.settings)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TuneModule)
        loss = float(outputs["loss"].detach()) * pl_module.settings.accumulate_grad_batches
        step = self._step(trainer, pl_module) + 1
        self._note_loss(loss, step)
        seconds = time.monotonic() - self.step_began
        targets: Tensor = batch[1]
        tokens = int((targets != IGNORED).sum())
        self.tokens += tokens
        self.emit(events.Step(
            step=step, epoch=self._epoch(trainer, pl_module), loss=loss, loss_smooth=self.smooth.value,
            lr=self.rate, kt_s=tokens / seconds / 1000, step_s=seconds,
            grad_norm=pl_module.grad_norm, tokens=self.tokens,
        ))  # fmt: skip
        if self.stop.requested:
            self.emit(events.Log(text=f"asked to stop: step {step} is finished, saving"))
            self._save(self._epoch(trainer, pl_module), step, pl_module)
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TuneModule)
        if self.stop.requested:
            return
        epoch, settings = self._epoch(trainer, pl_module), pl_module.settings
        loss = sum(self.epoch_losses) / len(self.epoch_losses) if self.epoch_losses else math.nan
        self._log_epoch(epoch, loss, trainer.current_epoch)
        seconds = time.monotonic() - self.epoch_began
        self.emit(events.Epoch(epoch=epoch, loss=loss, lr=self.rate, seconds=seconds))
        last = trainer.current_epoch + 1 == settings.epoch_count
        if last or (settings.epoch_save and trainer.current_epoch % settings.epoch_save == 0):
            self._save(epoch, self._step(trainer, pl_module) + 1, pl_module)

    def _step(self, trainer: pl.Trainer, module: TuneModule) -> int:
        """Steps before this one, counted from the run's begin."""
        return trainer.current_epoch * module.settings.epoch_steps + trainer.fit_loop.batch_idx

    def _epoch(self, trainer: pl.Trainer, module: TuneModule) -> int:
        return module.settings.epoch_begin + trainer.current_epoch

    def _note_loss(self, loss: float, step: int) -> None:
        if math.isfinite(loss):
            self.bad_steps = 0
            self.smooth.add(loss)
            self.epoch_losses.append(loss)
            return
        self.bad_steps += 1
        if self.bad_steps >= BAD_STEPS:
            raise UserError(
                f"The loss is {loss} since step {step - BAD_STEPS + 1} (learning rate {self.rate:g}).",
                "Lower lr_init, or lengthen warmup_steps; files saved before are intact.",
            )

    def _log_epoch(self, epoch: int, loss: float, current: int) -> None:
        """The incumbent's line: epoch loss exp(loss) lr datetime current_epoch."""
        perplexity = math.exp(min(loss, 700)) if math.isfinite(loss) else math.nan
        line = f"{epoch} {loss:.6f} {perplexity:.4f} {self.rate:.8f} {datetime.now()} {current}\n"
        with self.run.train_log.open("a", encoding="utf-8") as file:
            file.write(line)

    def _save(self, epoch: int, step: int, module: TuneModule) -> None:
        path = module.tuning.save(module.model, self.run.checkpoint(epoch))
        self.saved_step = step
        self.saved = [*[p for p in self.saved if p != path], path]
        self.emit(events.Checkpoint(path=str(path), epoch=epoch, step=step))
