"""Short runs in which something goes wrong, and what they must leave behind."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.save import load_tensors
from engine.contract import events
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.train import module
from engine.train.infctx import backward_in_chunks
from engine.train.resume import sha256

Making = Callable[..., RunDir]


At = Callable[[int, Callable[[], float | None]], None]


@pytest.fixture
def make(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Making:
    """Makes the folder of a run of two epochs of three steps."""

    def folder(**more: Any) -> RunDir:
        run = RunDir(tmp_path / "run")
        run.claim("run")
        values: dict[str, Any] = {
            "load_model": tiny_model, "data_file": tiny_data, "proj_dir": run.path, "ctx_len": 16,
            "micro_bsz": 2, "epoch_steps": 3, "epoch_count": 2, "precision": "fp32", "accelerator": "cpu",
            "grad_cp": 0, "sample_len": 0, "eval_docs": 0, "save_minutes": 0, **more,
        }  # fmt: skip
        run.settings.write_text(render_yaml(TrainSettings(**values), "run"))
        return run

    return folder


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """`at(step, act)`: acts in the midst of that step, and may change its loss by returning a factor."""
    acts: dict[int, Callable[[], Any]] = {}
    taken = 0

    def step(model: Any, tokens: Any, targets: Any, chunk_ctx: int, backward: Any, *rest: Any) -> Any:
        nonlocal taken
        taken += 1
        factor = acts[taken]() if taken in acts else None
        factor = 1.0 if factor is None else factor
        return factor * backward_in_chunks(
            model, tokens, targets, chunk_ctx, lambda loss: backward(loss * factor), *rest
        )

    monkeypatch.setattr(module, "backward_in_chunks", step)
    return acts.__setitem__


def read(run: RunDir) -> list[events.Event]:
    return [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def of(kind: type[Any], run: RunDir) -> list[Any]:
    return [e for e in read(run) if isinstance(e, kind)]


def failure(run: RunDir) -> events.Failed:
    """The last word of a run that failed, in one line each."""
    end = read(run)[-1]
    assert isinstance(end, events.Failed) and "\n" not in end.reason + end.remedy and end.remedy, end
    return end


def first_file_is_whole(run: RunDir) -> None:
    saved = of(events.Checkpoint, run)[0]
    assert saved.sha256 == sha256(run.checkpoint(0))
    assert all(t.isfinite().all() for t in load_tensors(run.checkpoint(0)).values())
    assert not list(run.path.glob(".*.part"))


def limited(size: int) -> None:
    """Files that grow beyond `size` bytes meet a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def forked(act: Callable[[], int]) -> int:
    """The exit status of `act` in a process of its own: a limit on files is for it alone."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        status = 99
        try:
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
