"""The curves of a run, and how one looks at them: which stretch, along what, how much smoothed."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from textual.app import ComposeResult

from engine.contract.i18n import _
from rwkv_tui.panels.looking import Looking
from rwkv_tui.series import Series
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.widgets.axes import Unit, XAxis
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.plot import Curve

NAMES = ("loss", "lr", "kt_s", "grad_norm")
SMOOTHED = ("loss", "kt_s", "grad_norm")


class Charts(Looking):
    """Four charts that share their axis. `show` gives them the run."""

    def __init__(self) -> None:
        super().__init__("charts")
        self._model = RunModel()
        self._large = ""

    def compose(self) -> ComposeResult:
        yield LineChart(_("Loss, nats a token"), brief=_("Loss"), id="loss")
        yield LineChart(_("Learning rate"), id="lr", from_zero=True)
        yield LineChart(_("Speed, kt/s"), id="kt_s", from_zero=True)
        yield LineChart(_("Gradient norm"), id="grad_norm", from_zero=True)

    async def show(self, model: RunModel) -> None:
        """Draws one chart after the other; in between keys get their turn."""
        if model is not self._model:
            self._model = model
        await self._draw_in_turn(NAMES)

    async def _draw_in_turn(self, names: Sequence[str]) -> None:
        for name in names:
            self._draw([name])
            await asyncio.sleep(0)

    def _answer(self) -> None:
        """A key has changed how one looks at the curves: it shows in the first chart at once."""
        first, *others = [name for name in NAMES if self.query_one(f"#{name}").display]
        self._draw([first])
        if others:
            self.call_after_refresh(self._draw_in_turn, others)

    @property
    def large(self) -> str:
        """The chart that has the room of all, "" for none."""
        return self._large

    def enlarge(self, name: str) -> None:
        """Gives one chart the room of all; the same name again, or "", gives it back."""
        self._large = "" if name == self._large else name
        self.set_class(bool(self._large), "-one")
        for chart in self.query(LineChart):
            chart.set_class(chart.id == self._large, "-large")
        self.call_after_refresh(self._draw)

    def leave(self) -> bool:
        """Puts the cursor away, else makes the large chart small again; False when there was neither."""
        if super().leave():
            return True
        if self._large:
            self.enlarge("")
            return True
        return False

    def _scaled(self) -> str:
        return self._large or "loss"

    def _with_end(self) -> XAxis:
        """How far the whole run will go is known in steps, and guessed of the others."""
        model, unit = self._model, self._axis.unit
        if unit == "step" or not model.steps or not model.step:
            return replace(self._axis, end=model.steps)
        return replace(self._axis, end=self._span()[1] / model.step * model.steps)

    def _places(self, unit: Unit) -> Sequence[float]:
        model = self._model
        return {"step": model.loss.xs, "tokens": model.tokens_at.ys, "time": model.seconds_at.ys}[unit]

    def _at(self, steps: Sequence[float]) -> list[float]:
        """Where steps lie on the axis."""
        if self._axis.unit == "step":
            return list(steps)
        known, places = self._model.loss.xs, self._places(self._axis.unit)
        return [places[min(len(places) - 1, bisect_left(known, step))] for step in steps] if known else []

    def _draw(self, names: Sequence[str] = NAMES) -> None:
        if not len(self._model.loss):
            return
        model, axis = self._model, self._with_end()
        epochs, saves = self._at(model.epoch_marks), self._at([c.step for c in model.checkpoints])
        for name in names:
            chart = self.query_one(f"#{name}", LineChart)
            if chart.display or chart.is_empty:  # one that a later layout shows has all at once then
                chart.show(self._curves(name), axis=axis, epochs=epochs, saves=saves, log=name in self._log)

    def _curves(self, name: str) -> list[Curve]:
        series: Series = getattr(self._model, name)
        places = self._places(self._axis.unit)
        if name not in SMOOTHED or not self._strength:
            curves = [Curve(series, "", "main", places)]
        else:
            curves = [
                Curve(series, _("raw"), "raw", places),
                Curve(
                    self._smoothed(name, series),
                    _("smooth {strength:g}", strength=self._strength),
                    "main",
                    places,
                ),
            ]
        if name == "loss" and len(self._model.valid_loss):
            valid = self._model.valid_loss
            curves.append(Curve(valid, _("validation"), "point", self._at(valid.xs), dots=True))
        return curves
