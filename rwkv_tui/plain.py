"""Text from files and processes, made harmless for a terminal; and short spellings of quantities."""

from __future__ import annotations

import re
import time
from math import isfinite

from rich.cells import cell_len, set_cell_size

from engine.contract.i18n import _
from engine.contract.plain import one_line, plain

__all__ = [
    "announcement", "column", "duration", "moment", "nats", "one_line", "plain", "short", "size", "wrapped",
]  # fmt: skip


def announcement(name: str, status: str, *, tmux: bool) -> str:
    """The bell and, for terminals that know it (OSC 9), a notification that a run has ended.

    tmux knows it not; it hands on what is wrapped for it (DCS tmux; with every escape doubled) where its
    option allow-passthrough is on, and else drops it.
    """
    notice = f"\x1b]9;rwkv-tune: {one_line(name)} {status}\a"
    if tmux:
        notice = "\x1bPtmux;" + notice.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return f"\a{notice}"


def duration(seconds: float) -> str:
    """0:07, 12:30, 3:04:05, 2 d 03:04, 411 d."""
    whole = max(0, round(seconds)) if isfinite(seconds) else 0
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, secs = divmod(rest, 60)
    if days >= 100:
        return f"{days} d"
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def column(text: str, width: int, *, ending: bool = False, right: bool = False) -> str:
    """A text in exactly `width` cells of the terminal, of which a Chinese sign takes two.

    A text that is longer ends in …; with `ending` it is its end that is kept.
    `right`: it stands at the right end of the column.
    """
    if cell_len(text) > width and ending:
        while text and cell_len(text) >= width:
            text = text[1:]
        text = "…" + text
    elif cell_len(text) > width:
        text = set_cell_size(text, width - 1).rstrip() + "…"
    return " " * (width - cell_len(text)) + text if right else set_cell_size(text, width)


_UNITS = re.compile(
    r"\s+|[^\s\u2e80-\u9fff\uff00-\uffef]+[\u3001\u3002\uff00-\uff0f\uff1a-\uff1f]*"
    r"|[\u2e80-\u9fff\uff00-\uffef][\u3001\u3002\uff00-\uff0f\uff1a-\uff1f]*"
)  # a line may end behind a space and behind a Chinese sign, but for the marks that close a sentence


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` cells; only a word that is longer sticks out."""
    lines = [""]
    for unit in _UNITS.findall(" ".join(text.split())):
        if cell_len(lines[-1] + unit.rstrip()) > width and lines[-1]:
            lines.append(unit.lstrip())
        else:
            lines[-1] += unit
    return [line.rstrip() for line in lines]


def nats(loss: float | None) -> str:
    """A loss, or n/a where it is no number."""
    return _("n/a") if loss is None or not isfinite(loss) else f"{loss:.4f}"


def moment(t: float) -> str:
    """Local date and time: 2026-11-25 01:02:03."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(t))
    except (OverflowError, ValueError, OSError):
        return "?"


def size(count: float) -> str:
    """Bytes in powers of 1024, as GPU and operating system tell them: 512 B, 1.5 MiB, 23.9 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def short(value: float) -> str:
    """A measured value in about four digits: 2.134, 12.3, 0.01, 3.2e-05."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.2e}"


def amount(count: int, unit: str) -> str:
    """So much of what a phase counts: bytes ("B") as a size."""
    return size(count) if unit == "B" else f"{count:,}"
