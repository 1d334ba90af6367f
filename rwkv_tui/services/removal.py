"""Removing a run: what goes, what stays, and never while it runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.files import locked
from engine.contract.i18n import _
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.services.runs import is_alive

RECORDS = re.compile(
    r"(settings\.yaml|run\.json|stop\.json|events\.ndjson|engine\.log|resume-\d+(-\d+)?\.(pt|sha256))"
    r"|\.(run\.json|stop\.json|settings\.yaml|rwkv-.*|resume-.*)\.\d+\.part"
)
TRAINED = re.compile(r"rwkv-\d+(\.pth)?|train_log\.txt|loss_data\.jsonl")


@dataclass(frozen=True)
class Removal:
    """`doomed` are the files and folders that go; `kept` those that stay in the run's folder."""

    name: str
    run: RunDir
    doomed: tuple[Path, ...]
    kept: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes that are given back."""
        return sum(_size(path) for path in self.doomed)


def plan_removal(name: str, run: RunDir, *, trained: bool) -> Removal:
    """What removing a run means: its records, and with `trained` the trained files and their logs, too.

    Whatever the program did not write stays. Raises UserError while the run is alive.
    """
    _require_ended(name, run)
    try:
        found = sorted(run.path.iterdir()) if run.path.is_dir() else []
    except OSError as error:
        raise UserError(
            _("Cannot look into {folder} ({reason}).", folder=run.path, reason=error.strerror),
            _("Check its permissions."),
        ) from None
    doomed = [p for p in found if RECORDS.fullmatch(p.name) or (trained and TRAINED.fullmatch(p.name))]
    return Removal(name, run, tuple(doomed), tuple(p for p in found if p not in doomed))


def remove(removal: Removal, runs: RunList) -> None:
    """Deletes what is doomed, the folder when nothing else is in it, and forgets the run.

    Raises UserError when it has been resumed meanwhile, or naming what could not be deleted.
    """
    run = removal.run
    try:
        with _locked(run):
            _require_ended(removal.name, run)
            for path in removal.doomed:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            if run.path.is_dir() and not any(run.path.iterdir()):
                run.path.rmdir()
        for name, listed in runs.all(gone=True):
            if listed.path == run.path:
                runs.remove(name)
    except OSError as error:
        raise UserError(
            _("Cannot delete {path} ({reason}).", path=error.filename or run.path, reason=error.strerror),
            _("Check its permissions, then run the same command again."),
        ) from None


def _require_ended(name: str, run: RunDir) -> None:
    if is_alive(run) is not False:
        raise UserError(
            _("The run {name} is alive; nothing was deleted.", name=name),
            _("Stop it first: `rwkv-tune stop {name}`.", name=name),
        )


@contextmanager
def _locked(run: RunDir) -> Iterator[None]:
    """Holds what `resume` holds while it starts a process; without its settings no run can be resumed."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(locked(run.settings))
        yield


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_size(p) for p in path.iterdir())
    return path.lstat().st_size
