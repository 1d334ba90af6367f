"""What a list shows of a run beside how it stands: its model, its tags and the shape of its loss."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engine.contract.files import opened
from engine.contract.glance import STEP_MARK
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.plain import plain
from rwkv_tui.services.runs import RunSummary, status_word, summarise

POINTS = 24
CHUNK = 2048
LARGEST = 1 << 16  # characters of a settings.yaml
MODEL_KEY = "load_model: "


@dataclass(frozen=True)
class Overview:
    """One run in the list. `model` is its file's name; `curve` has the smoothed loss at even distances."""

    run: RunSummary
    model: str
    tags: tuple[str, ...]
    curve: tuple[float | None, ...]

    def matches(self, wanted: str) -> bool:
        """Whether each word of a filter is somewhere in its name, status, method, model or tags."""
        run = self.run
        words = (run.name, run.status, status_word(run.status), run.method, run.version, self.model)
        there = " ".join((*words, *self.tags)).casefold()
        return all(word in there for word in wanted.casefold().split())


class Overviews:
    """Reads the list again and again; what has not changed meanwhile is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[tuple[str, int], Overview] = {}

    def read(self) -> list[Overview]:
        """All runs, newest first."""
        runs, found = RunList(self._folder), []
        kept, self._kept = self._kept, {}
        for name, run in runs.all():
            key = (f"{name} {run.path}", _size(run.events))
            before = kept.get(key)
            now = summarise(name, run)
            if before is not None:
                overview = Overview(now, before.model, runs.tags(name), before.curve)
            else:
                overview = Overview(now, _model(run), runs.tags(name), loss_curve(run))
            self._kept[key] = overview
            found.append(overview)
        return found


def loss_curve(run: RunDir, points: int = POINTS) -> tuple[float | None, ...]:
    """The smoothed loss at `points` places of the event file, however long that is."""
    found: list[float | None] = []
    try:
        with opened(run.events) as file:
            size = file.seek(0, 2)
            for place in range(points):
                file.seek(size * place // points)
                lines = file.read(CHUNK).split(b"\n")
                line = next((one for one in lines[1:-1] if STEP_MARK in one), b"")
                found.append(_loss(line))
    except OSError:
        return ()
    return tuple(found)


def _loss(line: bytes) -> float | None:
    try:
        value = json.loads(line)["loss_smooth"]
    except (ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) else None


def _model(run: RunDir) -> str:
    """The name of its model. Of the settings only the line that says it is read: all of it, checked, for
    each run of a long list would take too long."""
    try:
        with opened(run.settings) as file:
            lines = file.read(LARGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    value = next((line for line in lines if line.startswith(MODEL_KEY)), "").removeprefix(MODEL_KEY).strip()
    return plain(Path(_unquoted(value)).stem)


def _unquoted(value: str) -> str:
    """What YAML means by a text on one line."""
    if value[:1] not in ("'", '"'):
        return value
    import yaml

    try:
        return str(yaml.safe_load(value))
    except (yaml.YAMLError, ValueError):
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
