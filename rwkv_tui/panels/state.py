"""The health of the state that is tuned: how large each layer's and head's part is, and was."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from statistics import median

from rich.cells import cell_len
from textual.content import Content

from engine.contract.i18n import _, n_, p_
from rwkv_tui.panels.panel import Panel, fill
from rwkv_tui.plain import column, short
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
        warnings = [line.text for line in model.log if line.about == "state"]
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
            fill(_(" {title} after step {step}: {least} to {most}, median {middle}"),
                 title=Content.styled(_("Norm of the initial state"), "bold"), step=f"{last.step:,}",
                 least=short(min(last.norms)), most=short(max(last.norms)), middle=short(median(last.norms))),
            Content.styled(
                f" {column(_('layer'), 6)} {column(_('over time'), times)}   {_('heads now')}", "dim"
            ),
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
        largest = ", ".join(f"{_place(place)} ({short(norm)})" for place, norm in largest_heads(last))
        dead = dead_heads(last)
        named = ", ".join(map(_place, dead[:NAMED])) or p_("heads", "none")
        if len(dead) > NAMED:
            named = n_("{heads} and {n} more", "{heads} and {n} more", len(dead) - NAMED, heads=named)
        rows = ((_("largest"), largest), (p_("heads", "dead"), named))
        width = max(cell_len(name) for name, _heads in rows) + 2
        lines = [Content.assemble((f" {column(name, width)}", "bold"), heads) for name, heads in rows]
        warning = Content.styled(f" {self._warning}", "$warning")
        return [*(line.truncate(self.size.width, ellipsis=True) for line in lines), warning]

    def _nothing(self) -> str:
        if self._method not in ("", "state"):
            return " " + _("Only state tuning has a state to look at.")
        return " " + _("The state is told after the first steps.")


def _place(place: Head) -> str:
    return _("layer {layer} head {head}", layer=place[0], head=place[1])


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
