"""Starts a training run in a process of its own, which outlives this program. No widgets, no torch."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import write_atomic
from engine.contract.flags import changed
from engine.contract.paths import UserPaths
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir, RunList
from engine.contract.settings import TrainSettings
from rwkv_tui.services.engine import engine_command, engine_environment


def launch(settings: TrainSettings, paths: UserPaths) -> tuple[str, RunDir]:
    """Starts the run and gives its name and folder.

    `settings` have been checked. Raises UserError when proj_dir holds a run already or cannot be
    written; then nothing is left registered.
    """
    settings = with_absolute_paths(settings)
    assert settings.proj_dir is not None
    run, runs = RunDir(settings.proj_dir), RunList(paths.runs)
    try:
        name = runs.add(run.path)
    except OSError as error:
        raise UserError(
            f"Cannot write to {paths.runs} ({error.strerror}).", "Check the folder's permissions."
        ) from error
    claimed = False
    try:
        run.claim(name)
        claimed = True
        write_atomic(run.settings, render_yaml(settings, f"The settings of the run {name}"))
        run.record_process(name, Process.of(_start(run)))
    except (UserError, OSError) as error:
        runs.remove(name)
        if claimed:
            run.process.unlink(missing_ok=True)
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"Cannot start the run in {run.path} ({error.strerror or error}).", "Check disk and permissions."
        ) from error
    return name, run


def _start(run: RunDir) -> int:
    """The pid of the run's process: own session, no terminal, its words appended to engine.log."""
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            engine_command("train", str(run.path)),
            cwd=run.path, env=engine_environment(), start_new_session=True, close_fds=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    threading.Thread(target=process.wait, daemon=True).start()  # or it would stay behind as a zombie
    return process.pid


def with_absolute_paths(settings: TrainSettings) -> TrainSettings:
    """The same settings, meaning the same files from any working folder."""
    paths: dict[str, Any] = {
        name: value.expanduser().absolute()
        for name, value in changed(settings).items()
        if isinstance(value, Path)
    }
    return settings.model_copy(update=paths)
