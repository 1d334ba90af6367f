"""The files of a run, all in its proj_dir, and the list of runs a person has.

settings.yaml    what was asked for              events.ndjson   what happened
run.json         name, pid, process start time   engine.log      what the process printed
stop.json        which process was asked to stop
train_log.txt    the incumbent's line an epoch   rwkv-N.pth      what was trained
loss_data.jsonl  the incumbent's line a step
resume-STEP.pt   all that is needed to go on exactly after STEP, with resume-STEP-N.pt of each further
                 process; resume-STEP.sha256 completes it and is the checksum, as `sha256sum -c` reads it;
                 the two newest are kept
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.contract.errors import UserError
from engine.contract.files import opened, read_json, write_atomic, write_new
from engine.contract.i18n import _
from engine.contract.oom import OomKills
from engine.contract.process import Process

if TYPE_CHECKING:
    from engine.contract.settings import TrainSettings

Status = Literal["starting", "running", "stopping", "finished", "stopped", "failed", "died"]


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "settings.yaml"

    @property
    def events(self) -> Path:
        return self.path / "events.ndjson"

    @property
    def process(self) -> Path:
        return self.path / "run.json"

    @property
    def stop_mark(self) -> Path:
        return self.path / "stop.json"

    @property
    def log(self) -> Path:
        return self.path / "engine.log"

    @property
    def train_log(self) -> Path:
        return self.path / "train_log.txt"

    @property
    def loss_data(self) -> Path:
        return self.path / "loss_data.jsonl"

    def checkpoint(self, epoch: int) -> Path:
        return self.path / f"rwkv-{epoch}.pth"

    def resume_file(self, step: int, process: int = 0) -> Path:
        """Of several processes on a machine each has its own beside that of the first."""
        return self.path / (f"resume-{step}-{process}.pt" if process else f"resume-{step}.pt")

    def resume_files(self, step: int) -> list[Path]:
        return [self.resume_file(step), *self.path.glob(f"resume-{step}-*.pt")]

    def resume_digest(self, step: int) -> Path:
        return self.path / f"resume-{step}.sha256"

    def resume_steps(self) -> list[int]:
        """The steps after which the run can go on, newest first; only complete files count."""
        names = (p.stem.removeprefix("resume-") for p in self.path.glob("resume-*.sha256"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def claim(self, name: str) -> None:
        """Takes the folder for a new run. Raises UserError when it holds one already."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_new(self.process, json.dumps({"name": name, "launcher": asdict(Process.current())}))
        except FileExistsError:
            raise UserError(
                _("proj_dir: {path} already holds the run {name!r}.", path=self.path, name=self.name()),
                _(
                    "Nothing was changed; choose another --proj_dir. A run that has not finished goes on "
                    "with `rwkv-tune resume {path}`; `rwkv-tune rm {path}` forgets it.",
                    path=shlex.quote(str(self.path)),
                ),
            ) from None
        except OSError as error:
            raise UserError(
                _("proj_dir: cannot write to {path} ({strerror}).", path=self.path, strerror=error.strerror),
                _("Choose another --proj_dir."),
            ) from error
        foreign = sorted(p.name for p in self.path.glob("rwkv-*.pth"))
        if foreign:
            self.process.unlink()
            raise UserError(
                _(
                    "proj_dir: {path} already holds {foreign}, which the run would overwrite.",
                    path=self.path,
                    foreign=foreign[0],
                ),
                _("Nothing was changed; choose another --proj_dir."),
            )

    def read_settings(self, *, files: bool = True) -> TrainSettings:
        """The settings of this run. Raises UserError when the file is gone or no longer valid, and with
        `files` when one that they name is gone."""
        from engine.contract.check import require_settings  # pydantic: a list of runs does without
        from engine.contract.presets import parse_yaml

        try:
            with opened(self.settings) as file:
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            raise UserError(
                _("Cannot read {settings} ({strerror}).", settings=self.settings, strerror=error.strerror),
                _("Start the run again."),
            ) from None
        return require_settings(parse_yaml(text, str(self.settings)), files=files)

    def record_process(self, name: str, process: Process) -> None:
        """Says who runs here, atomically, and how often memory had run out before."""
        kills = OomKills.now()
        record = {"name": name, **asdict(process), "oom_kills": kills and asdict(kills)}
        write_atomic(self.process, json.dumps(record))

    def _record(self) -> dict[str, object]:
        return read_json(self.process)

    def name(self) -> str:
        return str(self._record().get("name", self.path.name))

    def launcher(self) -> Process | None:
        """Who claimed the folder, while the process of the run has not said which one it is."""
        record = self._record().get("launcher")
        return Process.from_record(record) if isinstance(record, dict) else None

    def oom_kills(self) -> OomKills | None:
        """What the kernel had counted when the process was started; None where that is not known."""
        return OomKills.from_record(self._record().get("oom_kills"))

    def owner(self) -> Process | None:
        """The process of this run, alive or not; None before it has started."""
        return Process.from_record(self._record())


@dataclass(frozen=True)
class RunList:
    """The runs a person started, newest first; one small file each under `folder`."""

    folder: Path

    def add(self, proj_dir: Path, on_finish: str = "") -> str:
        """Registers a run and returns its name: the folder's, with a number when it is taken.

        The command of on_finish is kept here and not in proj_dir, which may come from somebody else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"proj_dir": str(proj_dir.absolute()), **({"on_finish": on_finish} if on_finish else {})}
        base = _as_name(proj_dir.name) or "run"
        for number in range(1, 10_000):
            name = base if number == 1 else f"{base}-{number}"
            try:
                write_new(self.folder / f"{name}.json", json.dumps(record))
                return name
            except FileExistsError:
                continue
        raise UserError(_("There are too many runs named {base}.", base=base), _("Delete some of them."))

    def remove(self, name: str) -> None:
        """Forgets a run; its files stay."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def rename(self, name: str, new: str) -> str:
        """Gives a run another name, here and in its folder, and returns it. Raises UserError when the name is
        taken or is none."""
        new = _as_name(new)
        if not new:
            raise UserError(_("That is no name."), _("Use letters, digits, '.', '-' and '_'."))
        if new == name:
            return name
        old_entry, entry = self.folder / f"{name}.json", self.folder / f"{new}.json"
        try:
            os.link(old_entry, entry)  # never over another run's entry; keeps its age and so its place
        except FileExistsError:
            raise UserError(_("There is a run {new} already.", new=new), _("Choose another name.")) from None
        except OSError as error:
            raise UserError(
                _("Cannot rename {name} ({strerror}).", name=name, strerror=error.strerror),
                _("Check permissions."),
            ) from None
        path = self._record(new).get("proj_dir")
        run = RunDir(Path(str(path)))
        record = {**run._record(), "name": new}
        if run.process.is_file():
            write_atomic(run.process, json.dumps(record))
        old_entry.unlink()
        return new

    def tags(self, name: str) -> tuple[str, ...]:
        """The words a person has put to a run."""
        tags = self._record(name).get("tags", [])
        return tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()

    def tag(self, name: str, tags: Iterable[str]) -> None:
        """Puts these words to a run instead of those before; it keeps its place in the list."""
        entry = self.folder / f"{name}.json"
        record = {**self._record(name), "tags": list(dict.fromkeys(tags))}
        changed = entry.stat().st_mtime
        write_atomic(entry, json.dumps(record))
        os.utime(entry, (changed, changed))

    def on_finish(self, name: str, run: RunDir) -> str:
        """The command that this very run was started with."""
        record = self._record(name)
        return str(record.get("on_finish", "")) if record.get("proj_dir") == str(run.path) else ""

    def _record(self, name: str) -> dict[str, object]:
        return read_json(self.folder / f"{name}.json")

    def all(self, *, gone: bool = False) -> list[tuple[str, RunDir]]:
        """(name, folder) of each run whose folder exists; with `gone` of the others, too, and of those whose
        folder another run has taken since."""
        found, taken = [], set()
        for entry in sorted(self.folder.glob("*.json"), key=_mtime, reverse=True):
            path = self._record(entry.stem).get("proj_dir")
            if isinstance(path, str) and (gone or (path not in taken and os.path.isdir(path))):  # noqa: PTH112 it never raises
                taken.add(path)
                found.append((entry.stem, RunDir(Path(path))))
        return found


def _as_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
