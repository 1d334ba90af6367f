"""One training run: reads the settings of a run directory, trains, and tells what happens.

Of several processes (engine.train.ranks) each does the same; the first on a machine also tells and saves.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch

from engine.contract import events
from engine.contract.plain import say
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.train.failure import failed
from engine.train.group import Group
from engine.train.health import Health
from engine.train.logs import RunLog, Unheard
from engine.train.ranks import FAILED, FINISHED, STOPPED, Place
from engine.train.resume import Point, cut_logs, newest_point, shared_point
from engine.train.stop import Stopped, StopRequest


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
    from engine.gpu import join_memory
    from engine.train.prepare import check_devices, choose_device, load, make_plan
    from engine.train.probe import Probe

    settings = run.read_settings()
    if group.rank == 0:
        emit.begin(settings)
    device = choose_device(settings.accelerator)
    check_devices(settings, device)
    group.join(device)
    if device == "cuda" and group.size == 1:  # NCCL's memory is left as it knows it
        join_memory()
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

    from engine.train.callbacks import Saver  # Lightning takes a second to import: a refusal need not wait
    from engine.train.fit import fit

    health = Health(emit, fp16=settings.precision == "fp16")
    kept = {"probe": probe.state_dict(), "op": loaded.operator.spelled}
    saver = Saver(run, emit, stop, point, began, kept, health, settings.total_steps)
    fit(run, loaded, emit, stop, saver, probe)
    stopped = saver.cut_short
    emit(events.Finished(
        status="stopped" if stopped else "finished", step=saver.saved_step,
        seconds=time.monotonic() - began, loss_before=probe.loss_before, loss_after=probe.loss_after,
        files=tuple(str(p) for p in saver.saved),
    ))  # fmt: skip
    return STOPPED if stopped else FINISHED
