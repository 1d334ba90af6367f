"""After each save the model as it is answers the person's prompts, within a small share of the time."""

from __future__ import annotations

import time
from typing import Any

from engine.contract import events
from engine.contract.i18n import _
from engine.train.callbacks import Saver
from engine.train.lightning import pl
from engine.train.module import TuneModule
from engine.train.probe import Probe
from engine.train.stop import Stopped, StopRequest

SHORT = 1 / 3  # of a whole answer: less than that says nothing


class Samples(pl.Callback):
    """Comes after the Saver, and keeps nothing that a resumed run would need.

    What it spends stays below sample_share of the time since the training began: what does not fit is cut
    short or left out, and the next save begins with what was left out.
    """

    def __init__(self, probe: Probe, saver: Saver, emit: events.Emit, stop: StopRequest) -> None:
        self.probe, self.saver, self.emit, self.stop = probe, saver, emit, stop
        self.share = probe.loaded.settings.sample_share
        self.spent = 0.0
        self.cost = probe.answer_seconds
        self.first = 0
        self.saved_step = saver.saved_step
        self.began = time.monotonic()
        self.told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._look(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(pl_module)

    def _look(self, module: pl.LightningModule) -> None:
        assert isinstance(module, TuneModule)
        if self.saver.saved_step == self.saved_step:
            return
        self.saved_step = self.saver.saved_step
        if self.stop.requested or self.saved_step >= module.settings.total_steps:
            return  # at the end the probe answers in full
        try:
            self._answer(self.saved_step)
        except Stopped:
            pass  # the step that follows ends the run
        finally:
            module.model.train()

    def _answer(self, step: int) -> None:
        prompts = self.probe.prompts
        for number in range(len(prompts)):
            place = (self.first + number) % len(prompts)
            began = time.monotonic()
            left = self.share * (began - self.began) - self.spent
            if left < SHORT * self.cost:
                self._leave_out(len(prompts) - number)
                self.first = place
                return
            answer = self.probe.answer(prompts[place], seconds=left)
            took = time.monotonic() - began
            self.spent += took
            self.began += took  # it is not time of the training
            whole = took < left
            self.cost = took if whole else max(self.cost, took)
            self.emit(events.Sample(
                step=step, prompt=prompts[place], base=self.probe.base(place),
                tuned=answer if whole else f"{answer} …",
            ))  # fmt: skip

    def _leave_out(self, count: int) -> None:
        if not self.told:
            self.told = True
            self.emit(
                events.Log(
                    text=(
                        _(
                            "{count} of {n} sample prompts wait for a later save: an answer takes {cost:.2g} "
                            "s, and all of them at most {share:.1%} of the time (sample_share)",
                            count=count,
                            n=len(self.probe.prompts),
                            cost=self.cost,
                            share=self.share,
                        )
                    )
                )
            )
