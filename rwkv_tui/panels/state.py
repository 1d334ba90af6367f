"""The health of the state that is tuned: how large each layer's and head's part is, and was."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from statistics import median

from textual.content import Content

from rwkv_tui.panels.panel import Panel
from rwkv_tui.plain import short
from rwkv_tui.services.run_tail import RunModel, StateNorms

SHADES = " ░▒▓█"
COLORS = ("$border", "$primary 60%", "$primary", "$success", "$accent")
DEAD = 1e-3  # of the median: less than that has no say
NAMED = 4
Head = tuple[int, int]


def dead_heads(state: StateNorms) -> list[Head]:
    """(layer, head) of those whose norm is next to nothing beside the others'."""
    middle = median(state.norms) if state.norms else 0.0
    return [divmod(n, state.heads) for n, norm in enumerate(state.norms) if norm <= DEAD * middle]


def largest_heads(state: StateNorms, count: int = NAMED) -> list[tuple[Head, float]]:
    """The (layer, head) with the greatest norms, greatest first."""
    order = sorted(range(len(state.norms)), key=lambda n: -state.norms[n])
    return [(divmod(n, state.heads), state.norms[n]) for n in order[:count]]


class StatePanel(Panel):
    """Two maps of the same rows, a layer each: on the left time runs to the right, on the right are the heads
    as they are now. The greatest of what shares a cell gives its shade, on a logarithmic scale."""

    def __init__(self) -> None:
        super().__init__(id="state")
        self._states: Sequence[StateNorms] = ()
        self._method = ""
        self._warning = ""
        self._count = -1

    def show(self, model: RunModel) -> None:
        self._states = model.states
        self._method = model.plan.method if model.plan else ""
        warnings = [line.text for line in model.log if line.level == "warning" and "state" in line.text]
        self._warning = warnings[-1] if warnings else ""
        if self._count != len(self._states) or not self._shown:
            self._count = len(self._states)
            self.touch()

    def draw(self) -> Content:
        if not self._states:
            return Content(self._nothing())
        last = self._states[-1]
        layers = len(last.norms) // last.heads
        values = [norm for state in self._states for norm in state.norms if norm > 0]
        low, high = (min(values), max(values)) if values else (1.0, 1.0)
        low = max(low, high * 1e-4)
        rows = max(1, min(layers, self.size.height - 6))
        room = max(10, self.size.width - 12)
        heads = min(last.heads, room // 3)
        times = min(len(self._states), room - heads)
        lines = [
            Content.assemble((" Norm of the initial state", "bold"), f" after step {last.step:,}: "
                             f"{short(min(last.norms))} to {short(max(last.norms))}, "
                             f"median {short(median(last.norms))}"),
            Content.styled(f" {'layer':<6} {_pad('over time', times)}   heads now", "dim"),
        ]  # fmt: skip
        for row in range(rows):
            first, end = row * layers // rows, max(row * layers // rows + 1, (row + 1) * layers // rows)
            past = _thinned([_greatest(s, first, end) for s in self._states], times)
            now = _thinned(_by_head(last, first, end), heads)
            name = f"{first}" if end == first + 1 else f"{first}-{end - 1}"
            lines.append(Content.assemble(
                (f" {name:<6} ", "dim"), _shades(past, low, high), "   ", _shades(now, low, high)
            ))  # fmt: skip
        return Content("\n").join([*lines, *self._names(last)])

    def _names(self, last: StateNorms) -> list[Content]:
        largest = ", ".join(
            f"layer {layer} head {head} ({short(norm)})" for (layer, head), norm in largest_heads(last)
        )
        dead = dead_heads(last)
        named = ", ".join(f"layer {layer} head {head}" for layer, head in dead[:NAMED]) or "none"
        more = f" and {len(dead) - NAMED} more" if len(dead) > NAMED else ""
        return [
            Content.assemble((" largest  ", "bold"), largest).truncate(self.size.width, ellipsis=True),
            Content.assemble((" dead     ", "bold"), named, more).truncate(self.size.width, ellipsis=True),
            Content.styled(f" {self._warning}", "$warning"),
        ]  # fmt: skip

    def _nothing(self) -> str:
        if self._method not in ("", "state"):
            return " Only state tuning has a state to look at."
        return " The state is told after the first steps."


def _pad(text: str, width: int) -> str:
    return text[:width].ljust(width)


def _greatest(state: StateNorms, first: int, end: int) -> float:
    return max(state.norms[first * state.heads : end * state.heads], default=0.0)


def _by_head(state: StateNorms, first: int, end: int) -> list[float]:
    part: array[float] = state.norms[first * state.heads : end * state.heads]
    return [max(part[head :: state.heads]) for head in range(state.heads)]


def _thinned(values: Sequence[float], width: int) -> list[float]:
    """`width` values, each the greatest of those it stands for."""
    count = len(values)
    return [max(values[n * count // width : max(n * count // width + 1, (n + 1) * count // width)])
            for n in range(width)]  # fmt: skip


def _shades(values: Sequence[float], low: float, high: float) -> Content:
    parts = []
    span = math.log(high / low) if high > low else 1.0
    for value in values:
        share = 0.0 if value <= 0 else 0.15 + 0.85 * max(0.0, math.log(max(value, low) / low) / span)
        level = min(len(SHADES) - 1, round(share * (len(SHADES) - 1)))
        parts.append((SHADES[level], COLORS[level]))
    return Content.assemble(*parts)
