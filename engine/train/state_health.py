"""The health of the state that is tuned: tells its norms now and then, and warns when they go wrong."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.contract import events
from engine.contract.i18n import _
from engine.train.callbacks import Reporter
from engine.train.lightning import pl
from engine.train.module import TuneModule

RECORDS = 200  # of a whole run: enough for a picture, and little to write
WINDOW = RECORDS // 20  # records that a judgement looks back
# What these were set by: docs/performance.md, "A state that goes wrong"; tests/train/test_state_witness.py.
WORSE, FAR = 1.2, 0.1  # times the loss before training, and nats above it, all through the window
STILL = 1e-3  # change of all norms within the window, as a share of them
HIGH_RATE = 0.3  # of lr_init: below that a state may well come to rest


@dataclass(frozen=True)
class Record:
    """The norms [layers * heads] after a step, the smoothed loss (None: none yet) and the rate."""

    step: int
    norms: tuple[float, ...]
    loss: float | None
    rate: float


class Watch:
    """Judges records as they come, and says each thing once. `before`: the loss before training, None where
    it was not measured; then no state is said to run away."""

    def __init__(self, heads: int, lr_init: float, before: float | None) -> None:
        self.heads = heads
        self.lr_init = lr_init
        self.before = before
        self._past: deque[Record] = deque(maxlen=WINDOW + 1)
        self._said: set[str] = set()

    def add(self, now: Record) -> str | None:
        """A warning, or None when all is well or has been said."""
        self._past.append(now)
        if len(self._past) <= WINDOW:
            return None
        then = self._past[0]
        if "away" not in self._said and self._runs_away():
            self._said.add("away")
            layer, head = divmod(max(range(len(now.norms)), key=now.norms.__getitem__), self.heads)
            return _(
                "The state runs away: from step {first} to {last} the loss was far above the {before:.3f} "
                "before training, at last {loss:.3f}, and the largest head, head {head} of layer {layer}, is "
                "at {norm:.3g}. Lower lr_init; the saved files are intact.",
                first=then.step,
                last=now.step,
                before=self.before,
                loss=now.loss,
                head=head,
                layer=layer,
                norm=max(now.norms),
            )
        if "still" not in self._said and self._is_still(then, now):
            self._said.add("still")
            return _(
                "The state is saturated: from step {first} to {last} its norms moved by less than "
                "{still:.1%} although the rate is {rate:.3g}. It learns nothing more here; a lower "
                "lr_init may get further.",
                first=then.step,
                last=now.step,
                still=STILL,
                rate=now.rate,
            )
        return None

    def _runs_away(self) -> bool:
        limit = math.inf if self.before is None else max(WORSE * self.before, self.before + FAR)
        return all(record.loss is not None and record.loss > limit for record in self._past)

    def _is_still(self, then: Record, now: Record) -> bool:
        total = sum(now.norms)
        moved = sum(abs(a - b) for a, b in zip(then.norms, now.norms, strict=True))
        return now.rate >= HIGH_RATE * self.lr_init > 0 and total > 0 and moved < STILL * total


class StateHealth(pl.Callback):
    """Tells the norms of the state [H, N, N] of each layer some RECORDS times in a run."""

    def __init__(
        self, module: TuneModule, emit: events.Emit, reporter: Reporter, before: float | None
    ) -> None:
        self.emit = emit
        self.reporter = reporter
        self.every = max(1, module.settings.total_steps // RECORDS)
        self.watch = Watch(module.model.n_head, module.settings.lr_init, before)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TuneModule)
        if pl_module.step % self.every:
            return
        norms = state_norms(pl_module)
        if not all(map(math.isfinite, norms)):
            return  # the Reporter ends such a run
        step = pl_module.step
        rounded = tuple(float(f"{norm:.4g}") for norm in norms)
        self.emit(events.StateHealth(step=step, heads=pl_module.model.n_head, norms=rounded))
        if warning := self.watch.add(
            Record(step, tuple(norms), self.reporter.health.smooth.value, self.reporter.rate)
        ):
            self.emit(events.Warned(text=warning, about="state"))


@torch.no_grad()
def state_norms(module: TuneModule) -> Sequence[float]:
    """The Frobenius norm of each head's state, layer by layer; one transfer from the device."""
    states = [att.time_state for att in module.model.time_mixers() if att.time_state is not None]
    norms: list[float] = torch.stack([state.flatten(1).norm(dim=1) for state in states]).flatten().tolist()
    return norms
