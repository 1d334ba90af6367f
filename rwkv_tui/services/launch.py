"""Starts a training run in a process of its own, which outlives this program. No widgets, no torch."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import locked, write_atomic
from engine.contract.flags import changed
from engine.contract.i18n import _
from engine.contract.paths import UserPaths
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir, RunList
from engine.contract.settings import TrainSettings
from rwkv_tui.services.engine import engine_command, engine_environment
from rwkv_tui.services.runs import is_alive, status_word, summarise

STOPPING = (signal.SIGTERM, signal.SIGINT)


def launch(settings: TrainSettings, paths: UserPaths) -> tuple[str, RunDir]:
    """Starts the run and gives its name and folder.

    `settings` have been checked. Raises UserError when proj_dir holds a run already or cannot be
    written; then nothing is left registered.
    """
    settings = with_absolute_paths(settings)
    assert settings.proj_dir is not None
    run, runs = RunDir(settings.proj_dir), RunList(paths.runs)
    try:
        name = runs.add(run.path, settings.on_finish)
    except OSError as error:
        raise UserError(
            _(
                "Cannot write the list of your runs to {folder} ({reason}).",
                folder=paths.runs,
                reason=error.strerror,
            ),
            _("Check the folder's permissions, or set XDG_STATE_HOME to a folder that you can write to."),
        ) from error
    claimed = False
    try:
        run.claim(name)
        claimed = True
        write_atomic(run.settings, render_yaml(settings, _("The settings of the run {name}", name=name)))
        _begin(name, run, settings.on_finish)
    except (UserError, OSError) as error:
        runs.remove(name)
        if claimed:
            run.process.unlink(missing_ok=True)
        if isinstance(error, UserError):
            raise
        raise UserError(
            _(
                "Cannot start the run in {folder} ({reason}).",
                folder=run.path,
                reason=error.strerror or error,
            ),
            _("Check disk and permissions."),
        ) from error
    return name, run


def resume(name: str, run: RunDir, runs: RunList) -> int:
    """Starts a process that goes on with a run, and gives the bytes of events told before it.

    Raises UserError when the run is alive or has finished, or when its settings or files are gone.
    """
    run.read_settings()
    try:
        with locked(run.settings):  # of two that resume the same run the second finds it alive
            alive, status = is_alive(run), summarise(name, run).status
            if alive is not False:
                raise UserError(
                    _("The run {name} is {status}.", name=name, status=status_word(status)),
                    _("There is nothing to resume."),
                )
            if status == "finished":
                raise UserError(
                    _("The run {name} has finished.", name=name),
                    _("Its files are in {folder}.", folder=run.path),
                )
            told = run.events.stat().st_size if run.events.exists() else 0
            _begin(name, run, runs.on_finish(name, run))
            return told
    except OSError as error:
        raise UserError(
            _(
                "Cannot resume the run in {folder} ({reason}).",
                folder=run.path,
                reason=error.strerror or error,
            ),
            _("Check disk and permissions."),
        ) from error


def _begin(name: str, run: RunDir, on_finish: str) -> None:
    """Starts the run's process and says so in its folder. Raises OSError with no process left."""
    process = Process.of(_start(run, on_finish))
    try:
        run.record_process(name, process)
    except OSError:
        process.kill()
        raise


def _start(run: RunDir, on_finish: str) -> int:
    """The pid of the run's process: own session, no terminal, its words appended to engine.log.

    It begins with the signals that stop a run held back, and takes them once it can heed them.
    """
    words = [str(run.path), *([f"--on_finish={on_finish}"] if on_finish else [])]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        with run.log.open("ab") as log:
            process = subprocess.Popen(
                engine_command("train", *words),
                cwd=run.path, env=engine_environment(), start_new_session=True, close_fds=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
