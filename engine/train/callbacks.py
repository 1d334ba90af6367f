"""What happens around the steps: learning rate, events, logs, checkpoints, stopping."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.rundir import RunDir
from engine.train import resume
from engine.train.group import Group
from engine.train.health import Health
from engine.train.lightning import pl
from engine.train.module import TuneModule
from engine.train.optim import set_rate
from engine.train.resume import Point
from engine.train.stop import StopRequest


class Reporter(pl.Callback):
    """Sets the rate before each step, tells each step and epoch, and ends the run when asked."""

    def __init__(
        self, run: RunDir, emit: events.Emit, stop: StopRequest, group: Group, health: Health
    ) -> None:
        self.run = run
        self.group = group
        self.emit = emit
        self.stop = stop
        self.health = health
        self.epoch_loss = 0.0
        self.epoch_losses = 0
        self.tokens = 0
        self.rate = 0.0
        self.step_began = self.epoch_began = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "health": self.health.state_dict(), "tokens": self.tokens,
            "epoch": (self.epoch_loss, self.epoch_losses, time.monotonic() - self.epoch_began),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.health.load_state_dict(state_dict["health"])
        self.epoch_loss, self.epoch_losses, seconds = state_dict["epoch"]
        self.epoch_began = time.monotonic() - seconds
        self.tokens = state_dict["tokens"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.install()  # Lightning has just put its own handlers in place

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TuneModule)
        self.step_began = time.monotonic()
        self.rate = set_rate(trainer.optimizers[0], pl_module.step, pl_module.settings)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TuneModule)
        (loss,), step = pl_module.spread.group.sum(float(outputs["loss"])), pl_module.step
        self.health.note(step, loss, self.rate, pl_module.grad_norm)
        if pl_module.overflowed:
            self.health.note_overflow(step, pl_module.scaler.get_scale())
        if math.isfinite(loss):
            self.epoch_loss, self.epoch_losses = self.epoch_loss + loss, self.epoch_losses + 1
        seconds = time.monotonic() - self.step_began
        tokens = pl_module.learned
        self.tokens += tokens
        self.emit(events.Step(
            step=step, epoch=pl_module.epoch, loss=loss, loss_smooth=self.health.smooth.value,
            lr=self.rate, kt_s=tokens / seconds / 1000, step_s=seconds,
            grad_norm=pl_module.grad_norm, tokens=self.tokens,
        ))  # fmt: skip
        if self.stop.agree() and pl_module.can_pause:
            self.emit(events.Log(text=_("asked to stop: step {step} is finished, saving", step=step)))
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TuneModule)
        if not pl_module.epoch_is_over:
            return  # stopped within the epoch
        epoch, number = pl_module.epoch, self.epoch_losses
        loss = self.epoch_loss / number if number else math.nan
        self._log_epoch(epoch, loss, trainer.current_epoch)
        seconds = time.monotonic() - self.epoch_began
        self.emit(events.Epoch(epoch=epoch, loss=loss, lr=self.rate, seconds=seconds))
        self.epoch_loss, self.epoch_losses, self.epoch_began = 0.0, 0, time.monotonic()

    def _log_epoch(self, epoch: int, loss: float, current: int) -> None:
        """The incumbent's line: epoch loss exp(loss) lr datetime current_epoch."""
        perplexity = math.exp(min(loss, 700)) if math.isfinite(loss) else math.nan
        line = f"{epoch} {loss:.6f} {perplexity:.4f} {self.rate:.8f} {datetime.now()} {current}\n"
        if not self.group.leads:
            return
        try:
            with self.run.train_log.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:  # a line of a log is no reason to end a run
            self.emit(
                events.Warned(
                    text=_(
                        "{train_log} lacks epoch {epoch} ({strerror})",
                        train_log=self.run.train_log,
                        epoch=epoch,
                        strerror=error.strerror,
                    )
                )
            )


class Saver(pl.Callback):
    """Saves what was trained, and with it what `resume` needs; puts that back when a run goes on.

    It comes last of all callbacks: a resumed run finds them as they were after the step. While the run is ill
    it saves as little as it may, so that what was saved before remains to go back to.
    """

    def __init__(
        self, run: RunDir, emit: events.Emit, stop: StopRequest, point: Point, began: float,
        kept: dict[str, Any], health: Health, total_steps: int,
    ) -> None:  # fmt: skip
        self.run = run
        self.emit = emit
        self.stop = stop
        self.point = point
        self.began = began
        self.kept = kept
        self.health = health
        self.total_steps = total_steps
        self.saved: list[Path] = []
        self.saved_step = point.step
        self.last = time.monotonic()
        self.wanted = False

    @property
    def cut_short(self) -> bool:
        """Whether a stop has ended the run. One asked for during the last step does not: it is complete."""
        return self.stop.requested and self.saved_step < self.total_steps

    def want(self) -> None:
        """Asks that the epoch which is just ending be saved."""
        self.wanted = True

    def state_dict(self) -> dict[str, Any]:
        return {"saved": [str(path.relative_to(self.run.path)) for path in self.saved]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.saved = [self.run.path / name for name in state_dict["saved"]]

    def restore(self, module: TuneModule, callbacks: Sequence[pl.Callback]) -> None:
        """Makes what exists before the trainer as it was at the point; `on_train_start` does the rest."""
        document = self.point.document
        if not document:
            return
        saved = document.get("spread", module.spread.kind)
        if saved != module.spread.kind:
            raise UserError(
                _(
                    "The saved run is spread as {saved}, its settings say {kind}.",
                    saved=saved,
                    kind=module.spread.kind,
                ),
                _("Put strategy and devices back as they were, or start a new run from the trained file."),
            )
        module.step, module.grad_norm = self.point.step, document["grad_norm"]
        resume.restore_parameters(module.model, document)
        for callback in callbacks:
            if callback.state_key in document["callbacks"]:
                callback.load_state_dict(document["callbacks"][callback.state_key])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TuneModule)
        document = self.point.document
        if document:
            pl_module.spread.load_optimizer(trainer.optimizers[0], document.pop("optimizer"))
            resume.restore_gradients(pl_module.model, document)
            pl_module.scaler.load_state_dict(document.get("scaler", {}))
            resume.restore_rng(document["rng"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TuneModule)
        if pl_module.epoch_is_over or not pl_module.can_pause:
            return
        if trainer.should_stop or self._minutes_are_over(pl_module):
            self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TuneModule)
        if not pl_module.epoch_is_over:
            return  # stopped within the epoch, and saved
        s, epoch = pl_module.settings, pl_module.epoch
        if self.stop.requested:
            trainer.should_stop = True
        last = pl_module.step == s.total_steps or trainer.should_stop
        planned = s.epoch_save and (epoch - s.epoch_begin) % s.epoch_save == 0
        begun = self.saved_step > pl_module.step - s.epoch_steps  # within the epoch; now it is whole
        if last or planned or begun or self.wanted or self._minutes_are_over(pl_module):
            self._save(trainer, pl_module)

    def _minutes_are_over(self, module: TuneModule) -> bool:
        minutes = module.settings.save_minutes
        over = time.monotonic() - self.last >= 60 * minutes
        return bool(minutes) and not self.health.ill and module.spread.group.any(over)

    def _save(self, trainer: pl.Trainer, module: TuneModule) -> None:
        if module.spread.group.leads and not self.run.process.exists():  # nobody could find it to stop it
            raise UserError(
                _("The folder of the run, {path}, was deleted while it trained.", path=self.run.path),
                _("Nothing more is saved; start the run again."),
            )
        with module.spread.gathered(module.model):
            if module.spread.group.leads:
                self._save_trained(module)
            self.last, self.wanted, self.saved_step = time.monotonic(), False, module.step
            if self.health.ill and not trainer.should_stop:
                return
            document = self._document(trainer, module)
            try:
                resume.write_point(self.run, module.step, document, module.spread.group)
            except UserError as error:  # the trained file is there: no reason to end the run
                self.emit(
                    events.Warned(
                        text=_("{message} A resumed run goes on from an earlier step.", message=error.message)
                    )
                )

    def _save_trained(self, module: TuneModule) -> None:
        epoch, step = module.epoch, module.step
        path = module.tuning.save(module.model, self.run.checkpoint(epoch))
        self.emit(events.Checkpoint(path=str(path), epoch=epoch, step=step, sha256=resume.sha256(path)))
        self.saved = [*[p for p in self.saved if p != path], path]
        if (keep := module.settings.keep_checkpoints) and not self.health.ill:
            for old in self.saved[:-keep]:
                self._remove(old)
            self.saved = self.saved[-keep:]

    def _remove(self, path: Path) -> None:
        """Removes one epoch's files: rwkv-N.pth, and an adapter's folder rwkv-N."""
        stem = path.with_suffix("") if path.parent == self.run.path else path.parent
        stem.with_suffix(".pth").unlink(missing_ok=True)
        shutil.rmtree(stem, ignore_errors=True)

    def _document(self, trainer: pl.Trainer, module: TuneModule) -> dict[str, Any]:
        """All that a point has; of a process that does not lead only what is its own."""
        own = {
            "gradients": resume.gradients(module.model),
            "rng": resume.rng_state(),
            "optimizer": module.spread.optimizer_state(trainer.optimizers[0]),
        }
        if not module.spread.group.leads:
            return own if module.spread.moves else {k: v for k, v in own.items() if k != "optimizer"}
        callbacks = {c.state_key: state for c in trainer.callbacks if (state := c.state_dict())}  # type: ignore[attr-defined]
        return {
            **own,
            "parameters": resume.trained(module.model),
            "spread": module.spread.kind,
            "scaler": module.scaler.state_dict(),
            "callbacks": callbacks,
            "logs": resume.log_sizes(self.run),
            "grad_norm": module.grad_norm,
            **self.kept,
            "seconds": time.monotonic() - self.began,
        }
