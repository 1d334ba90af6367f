"""A run as it goes: curves, speed, time left, devices, log. Watching it never touches it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer, Static

from engine.contract.errors import UserError
from engine.contract.events import Finished
from engine.contract.rundir import RunDir, Status
from rwkv_tui.panels.devices import Devices
from rwkv_tui.panels.ending import ending
from rwkv_tui.panels.log import LogPanel
from rwkv_tui.panels.progress import Bars, Head, Phases
from rwkv_tui.plain import one_line
from rwkv_tui.screens.ask import AskScreen
from rwkv_tui.screens.log import LogScreen
from rwkv_tui.services.gpu import GpuReading, GpuSampler
from rwkv_tui.services.run_tail import RunModel, RunWatch
from rwkv_tui.services.runs import engine_log_tail, is_alive, status_of, stop_run
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.plot import Curve
from rwkv_tui.widgets.trail import Trail

TICK_S = 0.5
SLICE_BYTES = 1 << 20
"""How much of a long event file is read at once, so that keys stay quick meanwhile."""
GPU_S = 2.0
ENDED = ("finished", "stopped", "failed", "died")
CHARTS = ("loss", "lr", "kt_s", "grad_norm")


class GpuSource(Protocol):
    """Where GPU readings come from; see GpuSampler."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def snapshot(self) -> GpuReading | None: ...


class MonitorScreen(Screen[None]):
    """Shows one run. `gpus` and `clock` (seconds since the epoch) can be replaced by a test."""

    CSS_PATH = "../styles/monitor.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (36, "-tall")]
    HELP_TEXT = (
        "The run is a process of its own: leaving this screen, or losing the connection, does not touch it.\n"
        "In the charts ┊ ends an epoch and ◆ is a saved file."
    )
    BINDINGS = [
        Binding("enter", "done", "Files and next steps"),
        Binding("s", "stop", "Stop the run"),
        Binding("q,escape", "leave", "Leave", key_display="q"),
        Binding("l", "log", "Whole log"),
        Binding("1", "enlarge('loss')", "Enlarge a chart", key_display="1-4"),
        Binding("2", "enlarge('lr')", "Enlarge the learning rate", show=False),
        Binding("3", "enlarge('kt_s')", "Enlarge the speed", show=False),
        Binding("4", "enlarge('grad_norm')", "Enlarge the gradient's norm", show=False),
        Binding("y", "log_scale", "Logarithmic loss", show=False),
    ]

    def __init__(
        self,
        name: str,
        run: RunDir,
        *,
        gpus: GpuSource | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.run_name = name
        self.run_dir = run
        self.status: Status = "starting"
        self._gpus = gpus or GpuSampler(GPU_S)
        self._clock = clock
        self._watch = RunWatch(run)
        self._opened = clock()
        self._log_scale = False
        self._shown: Status = "starting"

    def compose(self) -> ComposeResult:
        yield Trail("Monitor")
        yield Head(self.run_name)
        yield Bars()
        yield Static(id="ending", markup=False)
        yield Phases()
        with Container(id="charts"):
            yield LineChart("Loss", id="loss")
            yield LineChart("Learning rate", id="lr", from_zero=True)
            yield LineChart("Speed, kt/s", id="kt_s", from_zero=True)
            yield LineChart("Gradient norm", id="grad_norm", from_zero=True)
        yield Devices()
        yield LogPanel()
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        self.query_one("#ending").display = False
        self.query_one("#charts").display = False
        self._gpus.start()
        self.set_interval(TICK_S, self._tick)
        await self._tick()

    def on_unmount(self) -> None:
        self._gpus.stop()

    @property
    def _model(self) -> RunModel:
        return self._watch.model

    async def _tick(self) -> None:
        alive = is_alive(self.run_dir)  # before reading: a run that ends in between has then told so
        self._watch.poll(SLICE_BYTES)
        if self._watch.behind:
            self.call_later(self._tick)
            return
        model, before = self._model, self.status
        self.status = status_of(
            self.run_dir, alive=alive, began=model.started is not None, closing=model.closing
        )
        if self.status != before:
            self.refresh_bindings()
        if self.app.screen is self or self.app.screen.is_modal:  # else it is covered
            await self._show()

    async def _show(self) -> None:
        model = self._model
        stepped = bool(len(model.loss))
        self.query_one("#charts").display = stepped
        self.query_one(Bars).display = model.plan is not None
        self.query_one(Phases).display = not stepped and self.status not in ENDED
        self.query_one(Head).show(self.status, model)
        silence = None if self.status in ENDED else self._clock() - (model.last_t or self._opened)
        self.query_one(Bars).show(model, silence)
        self.query_one(Phases).show(model, silence)
        self.query_one(LogPanel).show(model)
        if self.status != self._shown:
            self._shown = self.status
            self._show_ending()
        if stepped:
            self._show_charts()
        await self.query_one(Devices).show(self._gpus.snapshot())

    def _show_ending(self) -> None:
        card = ending(self.status, self.run_dir, self._model, engine_log_tail(self.run_dir))
        place = self.query_one("#ending", Static)
        place.display = card is not None
        place.update(card or "")
        self.set_class(self.status in ENDED, "-over")
        self.set_class(self.status in ("failed", "died"), "-error")

    def _show_charts(self) -> None:
        model = self._model
        curves = {
            "loss": (Curve(model.loss, "raw", "raw"), Curve(model.loss_smooth, "smooth", "main")),
            "lr": (Curve(model.lr, "", "main"),),
            "kt_s": (Curve(model.kt_s, "", "main"),),
            "grad_norm": (Curve(model.grad_norm, "", "main"),),
        }
        saves = [c.step for c in model.checkpoints]
        for name in CHARTS:
            self.query_one(f"#{name}", LineChart).show(
                curves[name], end=model.steps, epochs=model.epoch_marks, saves=saves,
                log=self._log_scale and name == "loss",
            )  # fmt: skip

    def on_screen_resume(self) -> None:
        self.call_later(self._tick)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        if action == "stop":
            return self.status not in ENDED
        if action == "done":
            return isinstance(self._model.closing, Finished)
        return True

    def action_leave(self) -> None:
        if self.status not in ENDED:
            self.app.notify(
                f"The run {one_line(self.run_name)} goes on; open it again from home.", markup=False
            )
        self.dismiss()

    def action_done(self) -> None:
        from rwkv_tui.screens.done import DoneScreen

        self.app.switch_screen(DoneScreen(self.run_name, self.run_dir))

    def action_log(self) -> None:
        self.app.push_screen(LogScreen(self.run_name, self.run_dir, lambda: self._model))

    def action_enlarge(self, name: str) -> None:
        """Gives one chart the room of all; the same key again gives it back."""
        chart = self.query_one(f"#{name}")
        large = not chart.has_class("-large")
        for other in self.query(LineChart):
            other.remove_class("-large")
        chart.set_class(large, "-large")
        self.query_one("#charts").set_class(large, "-one")

    def action_log_scale(self) -> None:
        self._log_scale = not self._log_scale
        self._show_charts()

    def action_stop(self) -> None:
        """Asks once; a run that was asked already can be ended at once, after another question."""
        now = self.status == "stopping"
        self.app.push_screen(
            AskScreen(*self._stop_question(now)), lambda yes: self._stop(now) if yes else None
        )

    def _stop_question(self, now: bool) -> tuple[str, str]:
        name = one_line(self.run_name)
        if now:
            return (
                f"{name} was asked to stop and is still at it.\nEnd it at once? What it did since the last "
                "saved file is lost; the saved files stay.",
                "End it at once",
            )
        per_epoch = self._model.plan.epoch_steps if self._model.plan else 0
        file = ""
        if per_epoch and self._model.plan:
            epoch = self._model.plan.epoch_begin + max(0, self._model.step - 1) // per_epoch
            file = f" as {self.run_dir.checkpoint(epoch).name}"
        return (
            f"Stop {name}?\nIt finishes the step it is in, saves{file} and ends. "
            "If you say no it just goes on.",
            "Stop it",
        )

    def _stop(self, now: bool) -> None:
        try:
            if not stop_run(self.run_dir, now=now):
                self.notify("The run has ended already.")
        except UserError as error:
            self.notify(str(error), severity="error", markup=False)
        self.call_later(self._tick)
