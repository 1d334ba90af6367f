"""Scales, ticks and what lies along x. Pure arithmetic for `plot`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from engine.contract.i18n import _
from rwkv_tui.plain import duration

Unit = Literal["step", "tokens", "time"]
TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


@dataclass(frozen=True)
class Scale:
    """Maps a value to one of `pixels` places; values outside land on the nearest end."""

    low: float
    high: float
    pixels: int
    log: bool = False

    def place(self, value: float) -> int:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        share = (value - low) / (high - low)
        return min(self.pixels - 1, max(0, int(share * self.pixels)))


@dataclass(frozen=True)
class XAxis:
    """What lies along x: steps, tokens or seconds.

    `end` is where a whole run ends (0: unknown). `window` is the stretch shown, None all of it; `width`
    shows that much of the newest instead and so follows the run. `cursor` is a place whose values are read.
    """

    unit: Unit = "step"
    end: float = 0
    window: tuple[float, float] | None = None
    width: float = 0
    cursor: float | None = None

    def shown(self, first: float, last: float) -> tuple[float, float]:
        """The stretch shown of points from `first` to `last`."""
        before = first - 1 if self.unit == "step" else min(first, 0.0)
        if self.window is not None:
            return self.window
        whole = x_end(before, last, self.end)
        if not self.width or self.width >= whole - before:
            return before, whole
        # moved a tenth at a time: a picture that shifts at each step would be painted whole each time
        grain = self.width / 10
        end = max(before + self.width, math.ceil(last / grain) * grain)
        return end - self.width, end

    @property
    def note(self) -> str:
        """What stands at the right end of the labels."""
        return {"step": _("steps"), "tokens": "tokens", "time": "h:mm:ss"}[self.unit]

    def spell(self, x: float) -> str:
        """A place on the axis, short."""
        return duration(x) if self.unit == "time" else count(x)

    def reading(self, low: float, high: float) -> str:
        """The stretch under the cursor, exact."""
        if self.unit == "time":
            return (
                f"{duration(low)}:"
                if duration(low) == duration(high)
                else f"{duration(low)}..{duration(high)}:"
            )
        first, last = math.ceil(low), math.ceil(high) - 1
        place = f"{first:,}" if last <= first else f"{first:,}..{last:,}"
        return _("step {step}:", step=place) if self.unit == "step" else f"tokens {place}:"


ALL_STEPS = XAxis()


def count(x: float) -> str:
    """A number of steps or tokens: 1,500, 150k, 3.2M."""
    if abs(x) < 100_000:
        return f"{x:,.0f}"
    return f"{x / 1000:g}k" if abs(x) < 1e6 else f"{x / 1e6:g}M" if abs(x) < 1e9 else f"{x / 1e9:g}G"


def nice_step(span: float, most: int) -> float:
    """The least of 1, 2, 2.5, 5 x 10^n that divides `span` into at most `most` parts."""
    raw = span / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power >= raw * (1 - 1e-9))


def nice_time(span: float, most: int) -> float:
    """The same for seconds: parts that clocks have, from a second up."""
    raw = span / max(1, most)
    return next((float(t) for t in TIMES if t >= raw), 86_400 * nice_step(span / 86_400, most))


def y_axis(low: float, high: float, most: int, *, log: bool) -> tuple[float, float, list[float]]:
    """Least value, greatest value and ticks of an axis that holds [low, high]; some `most` ticks."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        if last - first <= 2:
            return _between_tens(low, high, first, last, most)
        stride = max(1, -(-(last - first) // max(1, most)))
        return 10.0**first, 10.0**last, [10.0**n for n in range(first, last + 1, stride)]
    biggest = max(abs(low), abs(high))
    if high - low <= max(biggest * 1e-9, 1e-99):  # flat, as far as a tick can tell
        margin = biggest * 0.1 if biggest > 1e-99 else 1.0
        low, high = low - margin, high + margin
    step = nice_step(high - low, most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [n * step for n in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def spell_ticks(ticks: Sequence[float]) -> list[str]:
    """Ticks in as many digits as tell where each lies. Evenly spaced ones all have as many behind the point:
    2.300, 2.325, 2.350; 0, 0.5e-4, 1.0e-4 where that is shorter."""
    steps = [b - a for a, b in pairwise(ticks)]
    even = bool(steps) and max(steps) - min(steps) <= 1e-6 * max(steps)
    if not even:
        return [_exponent(f"{tick:g}") for tick in ticks]
    biggest, step = max(map(abs, ticks)), steps[0]
    power = 0 if 1e-3 <= biggest < 1e5 else math.floor(math.log10(biggest))
    unit, sign = 10.0**power, f"e{power}" if power else ""
    digits = next((d for d in range(12) if abs(round(step / unit, d) - step / unit) < 1e-6 * step / unit), 12)
    return [f"{t / unit:.{digits}f}{sign}" if abs(t) > step / 2 else "0" for t in ticks]


def _exponent(text: str) -> str:
    """1e-05 as 1e-5, 1e+06 as 1e6."""
    number, e, power = text.partition("e")
    return f"{number}e{int(power)}" if e else number


def _between_tens(
    low: float, high: float, first: int, last: int, count: int
) -> tuple[float, float, list[float]]:
    """A loss seldom spans a power of ten: then 1, 2 and 5 of each are ticks, too; and what spans less than
    those gets ticks as on a linear axis."""
    ticks = [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5)]
    if sum(low <= t <= high for t in ticks) < 2:
        least, most, even = y_axis(low, high, count, log=False)
        if least > 0:
            return least, most, even
    least = max((t for t in ticks if t <= low * (1 + 1e-9)), default=ticks[0])
    most = min((t for t in ticks if t >= high * (1 - 1e-9) and t > least), default=ticks[-1])
    return least, most, [t for t in ticks if least <= t <= most]


def x_end(first: float, last: float, end: float) -> float:
    """Where the axis of a growing curve ends: rarely moved, at most `end` (when that is known)."""
    span = max(last - first, 10.0)
    power = 10.0 ** math.floor(math.log10(span))
    grown = first + next(m * power for m in (1, 1.5, 2, 3, 5, 7, 10) if m * power >= span)
    return max(last, min(grown, end)) if end else grown
