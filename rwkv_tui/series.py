"""A growing curve whose extremes over any stretch are found without walking through it."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan

BLOCK = 64


@dataclass
class Series:
    """Points (x, y) with x strictly rising; y is NaN where there is no value. `xs` may be shared (`Columns`).

    `revision` changes with every change, so that a reader knows whether to draw again; `cuts` counts how
    often points were taken back, so that whoever keeps something per point knows to begin anew.
    """

    xs: array[float] = field(default_factory=lambda: array("d"))
    ys: array[float] = field(default_factory=lambda: array("d"))
    revision: int = 0
    cuts: int = 0
    _lows: array[float] = field(default_factory=lambda: array("d"))
    _highs: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.ys)

    def append(self, x: float, y: float | None) -> None:
        """Adds a point. Points at or beyond `x` are replaced: a resumed run repeats its last steps."""
        self.extend([x], [y])

    def extend(self, xs: Sequence[float], ys: Sequence[float | None]) -> None:
        """Adds points whose x rise strictly; as `append` for each, and quicker."""
        if xs:
            self.cut_after(math.nextafter(xs[0], -math.inf))
            self.xs.extend(array("d", xs))
            self.take(ys)

    def take(self, ys: Sequence[float | None]) -> None:
        """Adds values whose places are in `xs` already."""
        code = self.ys.typecode
        # an array has no None, and 100,000 numbers as a list of objects would stay in the process's memory
        values = array(code, ys if isinstance(ys, array) else [math.nan if y is None else y for y in ys])
        if not math.isfinite(sum(values)):
            values = array(code, [y if math.isfinite(y) else math.nan for y in values])
        self.ys.extend(values)
        self.revision += 1
        for start in range(len(self._lows) * BLOCK, len(self.ys) - BLOCK + 1, BLOCK):
            low, high = _span(self.ys[start : start + BLOCK])
            self._lows.append(low)
            self._highs.append(high)

    def cut_after(self, x: float) -> None:
        """Drops the points beyond `x`."""
        if self.xs and self.xs[-1] > x:
            length = bisect_right(self.xs, x)
            del self.xs[length:]
            self.cut(length)

    def cut(self, length: int) -> None:
        """Drops all values but the first `length`; places are left to whom they belong."""
        self.cuts += 1
        self.revision += 1
        del self.ys[length:], self._lows[length // BLOCK :], self._highs[length // BLOCK :]

    @property
    def last(self) -> float | None:
        """The newest value, or None when there is none or it is missing."""
        return self.ys[-1] if self.ys and not isnan(self.ys[-1]) else None

    def extremes(self, start: int = 0, stop: int | None = None) -> tuple[float, float]:
        """Least and greatest y of the points [start, stop); (inf, -inf) when none has a value."""
        stop = len(self.ys) if stop is None else stop
        first, end = -(-start // BLOCK), stop // BLOCK
        if first >= end:
            return _span(self.ys[start:stop])
        spans = (
            _span(self.ys[start : first * BLOCK]),
            _span(self.ys[end * BLOCK : stop]),
            (min(self._lows[first:end]), max(self._highs[first:end])),
        )
        return min(s[0] for s in spans), max(s[1] for s in spans)


class Columns:
    """Series that get their points together: one array of places for all of them.

    `codes` has a letter for each: "f" keeps seven digits, "d" all of them.
    """

    def __init__(self, codes: str) -> None:
        self.xs = array("d")
        self.series = tuple(Series(self.xs, array(code)) for code in codes)

    def extend(self, xs: Sequence[float], *ys: Sequence[float | None]) -> None:
        """As `Series.extend`, with values for each of the series."""
        if xs:
            self.cut_after(math.nextafter(xs[0], -math.inf))
            self.xs.extend(array("d", xs))
            for series, values in zip(self.series, ys, strict=True):
                series.take(values)

    def cut_after(self, x: float) -> None:
        """Drops the points beyond `x`."""
        if self.xs and self.xs[-1] > x:
            length = bisect_right(self.xs, x)
            del self.xs[length:]
            for series in self.series:
                series.cut(length)


class Smoothed:
    """An exponential average of a series without the bias towards its start; `series` is the result.

    `strength` is the weight of the past, 0 to below 1. A missing value leaves a gap and the average as it is.
    """

    def __init__(self, source: Series, strength: float) -> None:
        self.source, self.strength = source, strength
        self.series = Series(source.xs, array("f"))
        self._cuts = source.cuts
        self._total = self._weight = 0.0

    def update(self) -> Series:
        """Takes in the points that have come since the last call."""
        source, made = self.source, self.series
        if source.cuts != self._cuts:
            made.cut(0)
            self._cuts, self._total, self._weight = source.cuts, 0.0, 0.0
        keep, new, start = self.strength, 1 - self.strength, len(made)
        total, weight, values = self._total, self._weight, array("d")
        if start == len(source):
            return made
        for y in source.ys[start:]:
            if isnan(y):
                values.append(y)
                continue
            total, weight = keep * total + new * y, keep * weight + new
            values.append(total / weight)
        self._total, self._weight = total, weight
        made.take(values)
        return made


def _span(values: array[float]) -> tuple[float, float]:
    low, high = min(values, default=math.nan), max(values, default=math.nan)
    if low <= high and not isnan(sum(values)):
        return low, high
    present = [v for v in values if not isnan(v)]
    return (min(present), max(present)) if present else (math.inf, -math.inf)
