"""Finding files and completing their names, as a shell does. No widgets in here."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from engine.contract.data_files import SUFFIXES, unpacked

SKIPPED_FOLDERS = {"node_modules", "__pycache__", "site-packages", "venv"}


@dataclass(frozen=True)
class Found:
    """A file as `find_files` met it; sizes in bytes."""

    path: Path
    size: int


def find_files(
    folder: Path, suffixes: tuple[str, ...], *, depth: int = 3, visit: int = 20_000
) -> list[Found]:
    """Files below `folder` whose name ends so, nearest first and by name.

    Hidden folders and those of package managers are left out. At most `visit` entries are looked
    at, so that a huge tree costs no more than a moment; what cannot be read is passed over.
    """
    found: list[Found] = []
    queue = deque([(folder, 0)])
    while queue and visit > 0:
        here, level = queue.popleft()
        try:
            entries = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError:
            continue
        visit -= len(entries)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir(follow_symlinks=level == 0):
                    if level < depth and entry.name not in SKIPPED_FOLDERS:
                        queue.append((Path(entry.path), level + 1))
                elif entry.name.endswith(suffixes) and entry.is_file():
                    found.append(Found(Path(entry.path), entry.stat().st_size))
            except OSError:
                continue
    return found


@dataclass(frozen=True)
class Completion:
    """`text` is what the input becomes; `candidates` are the names it could go on with."""

    text: str
    candidates: tuple[str, ...]


def complete(text: str, cwd: Path, suffixes: tuple[str, ...] = ()) -> Completion:
    """Completes a path as a shell does: as far as it is certain; folders get a slash.

    Only folders and files ending in `suffixes` (any, when there are none) count. Hidden names
    count when the typed name starts with a dot.
    """
    head, slash, stem = text.rpartition("/")
    try:
        folder = cwd / Path(head + slash).expanduser()
        names = [e.name + "/" if e.is_dir() else e.name for e in os.scandir(folder)]
    except (OSError, RuntimeError, ValueError):
        return Completion(text, ())
    fitting = sorted(
        name
        for name in names
        if name.startswith(stem)
        and (not name.startswith(".") or stem.startswith("."))
        and (name.endswith("/") or not suffixes or name.endswith(suffixes))
    )
    if not fitting:
        return Completion(text, ())
    return Completion(head + slash + _common_start(fitting), tuple(fitting))


def _common_start(names: list[str]) -> str:
    """What all of the sorted names begin with."""
    first, last = names[0], names[-1]
    same = next((n for n, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), None)
    return first[: len(last)] if same is None else first[:same]


def real_path(text: str, cwd: Path) -> Path:
    """The absolute path that a typed text means; a `~` that nobody owns stays as it is."""
    try:
        return cwd / Path(text.strip()).expanduser()
    except RuntimeError:
        return cwd / text.strip()


def paths_of(text: str, cwd: Path) -> list[Path]:
    """The paths that a line names: several by comma, unless a file is called just so."""
    whole = real_path(text, cwd)
    if "," not in text or is_file(whole) or is_file(Path(f"{whole}.idx")):
        return [whole]
    return [real_path(part, cwd) for part in text.split(",") if part.strip()]


def is_file(path: Path) -> bool:
    """Whether a typed path names a file; what cannot even be asked for does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def short(path: Path, cwd: Path) -> str:
    """A path as a person would type it here: relative below `cwd`, `~` below home."""
    for root, sign in ((cwd, ""), (Path.home(), "~/")):
        if path.is_relative_to(root):
            return sign + str(path.relative_to(root))
    return str(path)


def free_prefix(source: Path) -> Path:
    """A name for the binidx pair of `source`, beside it: never that of an existing pair."""
    name = unpacked(source.name)
    base = source.with_name(Path(name).stem if Path(name).suffix in SUFFIXES else name)
    number, prefix = 1, base
    while is_pair(prefix):
        number += 1
        prefix = base.with_name(f"{base.name}-{number}")
    return prefix


def is_pair(prefix: Path) -> bool:
    """Whether a binidx pair, or half of one, has this name."""
    return any(Path(f"{prefix}{half}").exists() for half in (".bin", ".idx"))


def free_file(path: Path) -> Path:
    """The path itself, or with a number in its name where a file is already."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
