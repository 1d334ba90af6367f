"""The loss on documents that were held out, after each epoch, and stopping when it no longer falls."""

from __future__ import annotations

import math
import time
from typing import Any

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.i18n import N_, _, n_
from engine.data.dataset import cut
from engine.train.callbacks import Saver
from engine.train.evaluate import measure
from engine.train.lightning import pl
from engine.train.module import TuneModule
from engine.train.prepare import Loaded
from engine.train.stop import Stopped, StopRequest


class Validation(pl.Callback):
    """Comes between the Reporter, which has told the epoch by then, and the Saver. Does nothing without
    held-out documents.

    With early_stop, an epoch better than all before is saved whatever epoch_save says, and so is the
    last one. Its `state_dict` is what a resumed run needs to go on counting.
    """

    def __init__(self, loaded: Loaded, saver: Saver, emit: events.Emit, stop: StopRequest) -> None:
        self.loaded, self.saver, self.emit, self.stop = loaded, saver, emit, stop
        self.best_loss = math.inf
        self.best_epoch = loaded.settings.epoch_begin
        self.since_best = 0

    @property
    def over(self) -> bool:
        """Whether early_stop has ended the run."""
        return 0 < self.loaded.settings.early_stop <= self.since_best

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_loss": self.best_loss, "best_epoch": self.best_epoch, "since_best": self.since_best,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss, self.best_epoch = state_dict["best_loss"], state_dict["best_epoch"]
        self.since_best = state_dict["since_best"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TuneModule)
        if self.loaded.held_out is None or self.stop.requested or not pl_module.epoch_is_over:
            return
        try:
            better = self._measure(pl_module.epoch, pl_module.step)
        except Stopped:  # the saver, which comes next, saves and ends the run
            return
        if self.loaded.settings.early_stop:
            self._decide(better, trainer, pl_module)

    def _measure(self, epoch: int, step: int) -> bool:
        """Tells the loss; True when no epoch had a lower one."""
        began, loaded = time.monotonic(), self.loaded
        assert loaded.held_out is not None

        def progress(done: int, total: int) -> None:
            self.stop.check_together()
            self.emit(events.Progress(phase=N_("validation"), done=done, total=total, unit=N_("documents")))

        loaded.model.eval()
        try:
            with loaded.spread.readable(loaded.model.head.weight):
                report = measure(
                    loaded.model, cut(loaded.held_out, loaded.settings), device=loaded.device,
                    progress=progress, group=loaded.group,
                )  # fmt: skip
        finally:
            loaded.model.train()
        if not report.tokens:
            raise UserError(
                _(
                    "val_split: the {documents} held-out documents have nothing to learn under loss_mask "
                    "{loss_mask} within ctx_len {ctx_len}.",
                    documents=report.documents,
                    loss_mask=loaded.settings.loss_mask,
                    ctx_len=loaded.settings.ctx_len,
                ),
                _("Hold out more, raise ctx_len, or set val_split to 0."),
            )
        better = report.loss < self.best_loss
        if better:
            self.best_loss, self.best_epoch, self.since_best = report.loss, epoch, 0
        else:
            self.since_best += 1
        self.emit(events.Validated(
            epoch=epoch, step=step, loss=report.loss, best_loss=self.best_loss, best_epoch=self.best_epoch,
            documents=report.documents, seconds=time.monotonic() - began,
        ))  # fmt: skip
        return better

    def _decide(self, better: bool, trainer: pl.Trainer, module: TuneModule) -> None:
        """Saves what is worth it, and ends the run when nothing has become better for too long."""
        if better or self.over:
            self.saver.want()
        if self.over and module.step < self.loaded.settings.total_steps:
            trainer.should_stop = True
            told = n_(
                "early_stop: the validation loss has not become better in the last epoch; the best was "
                "{best_loss:.4f} ({name})",
                "early_stop: the validation loss has not become better in the last {n} epochs; the best was "
                "{best_loss:.4f} ({name})",
                self.since_best,
                best_loss=self.best_loss,
                name=self.saver.run.checkpoint(self.best_epoch).name,
            )
            self.emit(events.Log(text=told))
