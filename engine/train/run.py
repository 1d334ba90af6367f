"""One training run: reads the settings of a run directory, trains, and tells what happens.

Of several processes (engine.train.ranks) each does the same; the first on a machine also tells and saves.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.contract import events
from engine.contract.i18n import _
from engine.contract.plain import say
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.train.failure import failed
from engine.train.group import Group
from engine.train.health import Health
from engine.train.logs import RunLog, Unheard
from engine.train.ranks import FAILED, FINISHED, STOPPED, Place
from engine.train.resume import Point, Remaining, cut_logs, newest_point, shared_point
from engine.train.stop import Stopped, StopRequest

if TYPE_CHECKING:  # Lightning takes seconds to import: a refused run should not wait for it
    from engine.train.callbacks import Saver
    from engine.train.prepare import Loaded
    from engine.train.probe import Probe


def run_training(
    run: RunDir, stop: StopRequest | None = None, on_finish: str = "", cache: Path | None = None,
    place: Place | None = None, fail: events.Emit | None = None,
) -> int:  # fmt: skip
    """Trains the run in its folder and returns the exit status; every outcome is an event, too.

    A run that an earlier process has begun goes on where the newest of its resume files says. `stop` may
    have been installed, and asked, before; `cache` is the folder for what is remembered from run to run.
    Raises UserError when that earlier process is still alive, and when nothing can be written here. One of
    several processes has a `place`, and tells `fail` how it failed.
    """
    group = Group(place)
    stop = stop or StopRequest()
    stop.group = group
    stop.install()
    emit = RunLog(run, on_finish) if group.leads else Unheard()
    fail = fail or emit
    began, point = time.monotonic(), Point()
    try:
        # The launcher may have been killed before it could say so.
        if place is None and run.owner() != Process.current():
            run.record_process(run.name(), Process.current())
        if emit.continued:
            point = newest_point(run, emit)
            began -= point.seconds
            cut_logs(run, point.document.get("logs", {}))
            emit(events.Resumed(step=point.step))
        return _train(run, emit, stop, began, point, cache, group)
    except Stopped:
        emit(events.Finished(status="stopped", step=point.step, seconds=time.monotonic() - began))
        return STOPPED
    except Exception as error:
        told = failed(error, run)
        fail(told)
        if told.detail:
            with contextlib.suppress(OSError):  # engine.log may be on a full disk
                say(told.detail, error=True)
    finally:
        emit.close()
    return FAILED


def _train(
    run: RunDir, emit: RunLog | Unheard, stop: StopRequest, began: float, point: Point, cache: Path | None,
    group: Group,
) -> int:  # fmt: skip
    from engine.train.prepare import check_devices, choose_device, load, make_plan
    from engine.train.probe import Probe

    settings = run.read_settings()
    if group.rank == 0:
        emit.begin(settings)
    device = choose_device(settings.accelerator)
    check_devices(settings, device)
    group.join(device)
    point = shared_point(run, point, group)
    loaded = load(settings, emit, stop, cache=cache, op=point.document.get("op", ""), group=group)
    if group.rank:
        torch.manual_seed(settings.random_seed + group.rank)  # each drops out something else
    plan = make_plan(loaded)
    probe = Probe(loaded, emit, stop)
    if point.document:
        probe.load_state_dict(point.document["probe"])
    else:
        probe.before()
    emit(events.Started(name=run.name(), pid=Process.current().pid, plan=plan))

    from engine.train.callbacks import Saver

    health = Health(emit, fp16=settings.precision == "fp16")
    kept = {"probe": probe.state_dict(), "op": loaded.operator.name}
    saver = Saver(run, emit, stop, point, began, kept, health)

    def stopped() -> bool:
        """A stop asked for during the last step still ends a run that was complete."""
        return stop.requested and saver.saved_step < settings.total_steps

    def end() -> None:
        if not stopped():
            probe.after(saver.saved_step)

    _fit(run, loaded, emit, stop, saver, probe, end)
    emit(events.Finished(
        status="stopped" if stopped() else "finished", step=saver.saved_step,
        seconds=time.monotonic() - began, loss_before=probe.loss_before, loss_after=probe.loss_after,
        files=tuple(str(p) for p in saver.saved),
    ))  # fmt: skip
    return STOPPED if stopped() else FINISHED


def _fit(
    run: RunDir, loaded: Loaded, emit: events.Emit, stop: StopRequest, saver: Saver, probe: Probe,
    end: Callable[[], None],
) -> None:  # fmt: skip
    """Trains; calls `end` when that is over and the model is still where it was trained."""
    from torch.utils.data import DataLoader

    from engine.data.dataset import EpochSampler, as_batch
    from engine.train.callbacks import Reporter
    from engine.train.lightning import pl
    from engine.train.module import TuneModule
    from engine.train.samples import Samples
    from engine.train.state_health import StateHealth
    from engine.train.validation import Validation

    s, group = loaded.settings, loaded.group
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    dataset = loaded.examples
    order = EpochSampler(len(dataset), s.step_documents, s.epoch_steps, s.random_seed)
    epoch, steps = divmod(saver.point.step, s.epoch_steps)
    rest = Remaining(
        order, epoch, steps * s.step_documents, s.micro_bsz, (group.rank, group.size)
    )  # fmt: skip
    loader = DataLoader(
        dataset, batch_size=s.micro_bsz, sampler=rest,
        collate_fn=as_batch, generator=torch.Generator(),  # its own: torch's may belong to the model
    )  # fmt: skip
    module = TuneModule(loaded.model, loaded.tuning, s, loaded.spread)
    validation = Validation(loaded, saver, emit, stop)
    reporter = Reporter(run, emit, stop, group, saver.health)
    callbacks: list[pl.Callback] = [reporter, validation, saver]  # what has a state comes before the saver
    if not loaded.spread.whole:
        emit(
            events.Log(
                text=(
                    _(
                        "{strategy}: no process has the whole model while it trains, so prompts are not "
                        "answered after saves, and a state's norms are not shown",
                        strategy=s.strategy,
                    )
                )
            )
        )
    if s.method == "state" and loaded.spread.whole:
        callbacks.insert(1, StateHealth(module, emit, reporter, probe.loss_before))
    if s.sample_len and s.sample_share and loaded.spread.whole and group.leads:
        callbacks.append(Samples(probe, saver, emit, stop))
    callbacks.append(pl.callbacks.LambdaCallback(on_train_end=lambda *_: end()))
    saver.restore(module, callbacks)
    if module.step >= s.total_steps or validation.over:
        end()
        return
    trainer = pl.Trainer(
        accelerator="gpu" if loaded.device == "cuda" else "cpu",
        **loaded.spread.lightning(),
        precision="32-true",  # the weights' own type decides: see load()
        max_epochs=s.epoch_count,
        callbacks=callbacks,
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
    stop.check()
    loaded.model.train()
    trainer.fit(module, loader)
