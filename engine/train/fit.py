"""The training itself, from the point where a run begins or goes on to its last step."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from engine.contract import events
from engine.contract.i18n import _
from engine.contract.rundir import RunDir
from engine.data.dataset import EpochSampler, as_batch
from engine.train.callbacks import Reporter, Saver
from engine.train.lightning import pl
from engine.train.module import TuneModule
from engine.train.prepare import Loaded
from engine.train.probe import Probe
from engine.train.resume import Remaining
from engine.train.samples import Samples
from engine.train.state_health import StateHealth
from engine.train.stop import StopRequest
from engine.train.validation import Validation


def fit(
    run: RunDir, loaded: Loaded, emit: events.Emit, stop: StopRequest, saver: Saver, probe: Probe
) -> None:
    """Trains, and lets the probe measure what came of it while the model is still where it was trained,
    unless a stop has cut the run short."""
    s = loaded.settings
    epoch, done = divmod(saver.point.step, s.epoch_steps)
    module = TuneModule(loaded.model, loaded.tuning, s, loaded.spread)
    validation = Validation(loaded, saver, emit, stop)

    def end() -> None:
        if not saver.cut_short:
            probe.after(saver.saved_step)

    callbacks = [
        *_callbacks(run, loaded, emit, stop, module, validation, saver, probe),
        pl.callbacks.LambdaCallback(on_train_end=lambda *_: end()),
    ]
    saver.restore(module, callbacks)
    if module.step >= s.total_steps or validation.over:  # it had been trained to its end
        end()
        return
    trainer = _trainer(run, loaded, callbacks, epoch)
    # It would move model and optimizer to the host's memory, which takes time and may be too small for them.
    trainer.strategy.teardown = lambda: None  # type: ignore[method-assign]
    stop.check()
    loaded.model.train()
    trainer.fit(module, _loader(loaded, epoch, done))


def _loader(loaded: Loaded, epoch: int, done: int) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of this process, without those of the first `done` steps of `epoch`."""
    s, group, examples = loaded.settings, loaded.group, loaded.examples
    order = EpochSampler(len(examples), s.step_documents, s.epoch_steps, s.random_seed)
    rest = Remaining(order, epoch, done * s.step_documents, s.micro_bsz, (group.rank, group.size))
    return DataLoader(
        examples, batch_size=s.micro_bsz, sampler=rest, collate_fn=as_batch,
        generator=torch.Generator(),  # its own: torch's may belong to the model
    )  # fmt: skip


def _callbacks(
    run: RunDir, loaded: Loaded, emit: events.Emit, stop: StopRequest, module: TuneModule,
    validation: Validation, saver: Saver, probe: Probe,
) -> list[pl.Callback]:  # fmt: skip
    """In the order in which they are called: what has a state that is resumed comes before the saver."""
    s, whole = loaded.settings, loaded.spread.whole
    reporter = Reporter(run, emit, stop, loaded.group, saver.health)
    callbacks: list[pl.Callback] = [reporter]
    if s.method == "state" and whole:
        callbacks.append(StateHealth(module, emit, reporter, probe.loss_before))
    callbacks += [validation, saver]
    if s.sample_len and s.sample_share and whole and loaded.group.leads:
        callbacks.append(Samples(probe, saver, emit, stop))
    if not whole:
        said = _(
            "{strategy}: no process has the whole model while it trains, so prompts are not "
            "answered after saves, and a state's norms are not shown",
            strategy=s.strategy,
        )
        emit(events.Log(text=said))
    return callbacks


def _trainer(run: RunDir, loaded: Loaded, callbacks: Sequence[pl.Callback], epoch: int) -> pl.Trainer:
    """Lightning's trainer, which counts from `epoch` on and does nothing that callbacks do here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        accelerator="gpu" if loaded.device == "cuda" else "cpu",
        **loaded.spread.lightning(),
        precision="32-true",  # the weights' own type decides: see load()
        max_epochs=loaded.settings.epoch_count,
        callbacks=list(callbacks),
        default_root_dir=str(run.path),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    progress = trainer.fit_loop.epoch_progress.current  # where Lightning's current_epoch comes from
    for count in ("ready", "started", "processed", "completed"):
        setattr(progress, count, epoch)
    return trainer
