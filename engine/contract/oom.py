"""How often the kernel has ended a process for lack of memory, as it counts itself, and how much there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/")
LIMITS = "memory.max", "memory.limit_in_bytes"
"""Where the two kinds of memory groups say how many bytes they may have; "max": no limit."""


@dataclass(frozen=True)
class OomKills:
    """`count` as `file` had it. That of a memory group tells of its processes alone, /proc/vmstat of all."""

    file: str
    count: int

    @classmethod
    def now(cls, root: Path = ROOT) -> OomKills | None:
        """Of the narrowest group of this process that tells; None where nothing does."""
        for path in _places(root):
            count = _count(path)
            if count is not None:
                return cls(str(path), count)
        return None

    @classmethod
    def from_record(cls, record: Any) -> OomKills | None:
        if not isinstance(record, dict):
            return None
        file, count = record.get("file"), record.get("count")
        return cls(file, count) if isinstance(file, str) and isinstance(count, int) else None

    @property
    def of_all(self) -> bool:
        """Whether any process of the machine counts."""
        return self.file.endswith("vmstat")

    def since(self) -> int:
        """How many there have been since."""
        found = _count(Path(self.file))
        return 0 if found is None else max(0, found - self.count)

    def room(self) -> int:
        """Bytes that a process of the group can have at present: what is free, and no more than the group may
        have."""
        import psutil

        free = int(psutil.virtual_memory().available)
        return min([free, *(n for name in LIMITS if (n := _limit(Path(self.file).with_name(name))))])


def room() -> int:
    """Bytes that this process can have at present, see `OomKills.room`; 0 when nothing tells."""
    kills = OomKills.now()
    return kills.room() if kills else 0


def _places(root: Path) -> list[Path]:
    """Where the kernel counts: in a memory group of either kind, seen from within a container or without."""
    places = []
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        groups = []
    for group in groups:
        _, kinds, path = [*group.split(":", 2), "", ""][:3]
        if not kinds:
            base, name = root / "sys/fs/cgroup", "memory.events"
        elif kinds == "memory":
            base, name = root / "sys/fs/cgroup/memory", "memory.oom_control"
        else:
            continue
        places += [base / path.lstrip("/") / name, base / name]
    return [*places, root / "proc/vmstat"]


def _limit(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _count(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((int(n) for name, _, n in (x.partition(" ") for x in lines) if name == "oom_kill"), None)
