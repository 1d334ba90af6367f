"""Engines that need not import torch first: forks of a process that has done so.

Each is a session of its own as the launcher makes one, with the stopping signals held back, and runs the
engine's own command line; so do the ranks that it starts, which are its children.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO

from rwkv_tui.services.launch import STOPPING

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.fakes.preloaded"])


def start(words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Engine:
    """As `python -m engine WORDS >> LOG 2>&1`, with `env` above the environment."""
    process = _CONTEXT.Process(
        target=_engine, args=(list(words), str(log), {**os.environ, **(env or {})}), daemon=True
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the first start makes the server, too
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Engine(process)


class Engine:
    """What tests use of subprocess.Popen."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        assert process.pid
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("engine", timeout or 0)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _engine(words: list[str], log: str, env: dict[str, str]) -> None:
    from engine.train import ranks

    os.environ.clear()
    os.environ.update(env)
    os.setsid()
    into = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    _settle(into)
    real = {name: getattr(subprocess, name) for name in ("DEVNULL", "PIPE", "STDOUT")}
    ranks.subprocess = SimpleNamespace(Popen=_Rank, **real)  # type: ignore[attr-defined, assignment]
    _run(words)


def _settle(output: int, *keep: int) -> None:
    """The standard files of a process that the program starts; all others are closed."""
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, target, inheritable=True)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if number > 2 and number not in keep:
            with contextlib.suppress(OSError):  # what listed them is closed already
                os.close(number)


def _run(words: list[str]) -> None:
    """The engine's command line, after what a fresh interpreter would do first; never returns."""
    from engine.__main__ import main

    status = 1
    sys.argv = ["engine", *words]
    try:
        for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
            if folder and (custom := Path(folder, "sitecustomize.py")).exists():
                runpy.run_path(str(custom))
        status = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _Rank:
    """A subprocess.Popen of `python -m engine rank ...`, as engine.train.ranks uses it."""

    def __init__(
        self, words: list[str], *, stdin: int, stdout: int, stderr: int, pass_fds: Sequence[int]
    ) -> None:
        mine, into = os.pipe()
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _settle(into, *pass_fds)
            _run(words[3:])
        os.close(into)
        self.stdout: IO[bytes] = os.fdopen(mine, "rb")

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)
