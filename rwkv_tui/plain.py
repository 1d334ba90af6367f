"""Text from files and processes, made harmless for a terminal; and short spellings of quantities."""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])", re.DOTALL)
# C0 and C1 controls but for newline, and the signs that turn the direction of what follows
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def plain(text: str) -> str:
    """`text` without escape sequences, control characters and direction signs; tabs become spaces."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n")).replace("\t", "    ")
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """`plain` text with its line ends shown as ⏎."""
    return plain(text).strip().replace("\n", " ⏎ ")


def duration(seconds: float) -> str:
    """0:07, 12:30, 3:04:05, 2 d 03:04."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


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
