"""A run as it goes: curves, speed, time left, devices, state, samples, log. Watching it never touches it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from textual import getters
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Footer, Static

from engine.contract.check import check_values
from engine.contract.errors import UserError
from engine.contract.events import Finished
from engine.contract.flags import changed, spell
from engine.contract.i18n import N_, _
from engine.contract.presets import parse_yaml
from engine.contract.rundir import RunDir, Status
from engine.contract.settings import TrainSettings
from rwkv_tui.app import TuneApp
from rwkv_tui.keys import key_of
from rwkv_tui.panels.charts import Charts
from rwkv_tui.panels.devices import Devices
from rwkv_tui.panels.ending import ending
from rwkv_tui.panels.log import LogPanel
from rwkv_tui.panels.looking import CHART_KEYS, ChartKeys
from rwkv_tui.panels.progress import Bars, Head, Phases
from rwkv_tui.panels.samples import SamplesPanel
from rwkv_tui.panels.state import StatePanel
from rwkv_tui.plain import one_line
from rwkv_tui.screens.ask import AskScreen
from rwkv_tui.screens.base import Keys, TuneScreen
from rwkv_tui.screens.log import LogScreen
from rwkv_tui.screens.resuming import go_on
from rwkv_tui.services.diagnosis import Diagnosis, diagnose
from rwkv_tui.services.gpu import GpuReading, GpuSampler
from rwkv_tui.services.postmortem import shortage
from rwkv_tui.services.run_tail import RunModel, RunWatch
from rwkv_tui.services.runs import engine_log_tail, is_alive, status_of, stop_run
from rwkv_tui.widgets.trail import Trail

TICK_S = 0.75
SLICE_BYTES = 1 << 19
"""How much of a long event file is read at once, so that keys stay quick meanwhile."""
GPU_S = 2.0
ENDED = ("finished", "stopped", "failed", "died")
TOLD_OF_ONE = {"chart.move_back", "chart.zoom_in"}
"""Keys that the last line names while one chart has the screen."""
WHOLE = ("charts", "devices", "state", "samples")
"""What can have the whole screen."""


class GpuSource(Protocol):
    """Where GPU readings come from; see GpuSampler."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def history(self) -> tuple[GpuReading, ...]: ...


class MonitorScreen(ChartKeys, TuneScreen[None]):
    """Shows one run. `gpus` and `clock` (seconds since the epoch) can be replaced by a test."""

    app = getters.app(TuneApp)
    CSS_PATH = "../styles/monitor.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (36, "-tall")]
    HELP_TEXT = N_(
        "The run is a process of its own: leaving this screen, or losing the connection, does not touch it.\n"
        "In the charts ┊ ends an epoch, ◆ is a saved file and • the loss on held-out documents. "
        "Each column shows the least and the greatest of its steps."
    )
    BINDINGS = [
        Binding("enter", "done", N_("Files and next steps"), id="monitor.done"),
        Binding("b", "fix", N_("Back to the parameters"), id="monitor.fix"),
        Binding("r", "resume", N_("Resume"), id="monitor.resume"),
        Binding("s", "stop", N_("Stop the run"), id="monitor.stop"),
        Binding("q", "leave", N_("Leave"), id="monitor.leave"),
        Binding("o", "log", N_("Log"), id="monitor.log"),
        Binding("t", "timeline", N_("Time line"), show=False, id="monitor.timeline"),
        Binding("1", "enlarge('loss')", N_("Enlarge"), key_display="1-7", id="monitor.chart_loss"),
        Binding("2", "enlarge('lr')", N_("Enlarge the learning rate"), show=False, id="monitor.chart_lr"),
        Binding("3", "enlarge('kt_s')", N_("Enlarge the speed"), show=False, id="monitor.chart_kt_s"),
        Binding(
            "4",
            "enlarge('grad_norm')",
            N_("Enlarge the gradient's norm"),
            show=False,
            id="monitor.chart_grad_norm",
        ),
        Binding(
            "5", "fill('devices')", N_("Devices and their history"), show=False, id="monitor.panel_devices"
        ),
        Binding("6", "fill('state')", N_("Health of the state"), show=False, id="monitor.panel_state"),
        Binding(
            "7",
            "fill('samples')",
            N_("Answers of base and tuned model"),
            show=False,
            id="monitor.panel_samples",
        ),
        *CHART_KEYS,
        Binding("escape", "back", N_("Back"), show=False, id="monitor.back"),
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
        self._gpus = gpus or GpuSampler(GPU_S, folder=run.path, owner=lambda: _pid(run), uses=self._uses)
        self._clock = clock
        self._watch = RunWatch(run)
        self._opened = clock()
        self._shown: Status = "starting"
        self._found: Diagnosis | None = None
        self._given: TrainSettings | None = None
        self._whole = ""
        self._lived = False

    def compose(self) -> ComposeResult:
        yield Trail("Monitor")
        yield Head(self.run_name)
        yield Bars()
        yield Static(id="ending", markup=False)
        yield Phases()
        yield Charts()
        yield StatePanel()
        yield SamplesPanel()
        yield Devices()
        yield LogPanel()
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        self._gpus.start()
        self.set_interval(TICK_S, self._tick)
        await self._tick()

    def on_unmount(self) -> None:
        self._gpus.stop()

    @property
    def _model(self) -> RunModel:
        return self._watch.model

    def _uses(self) -> tuple[str, ...]:
        """The UUIDs of the run's GPUs, once it has told them."""
        plan = self._model.plan
        return plan.gpus if plan else ()

    async def _tick(self) -> None:
        alive = is_alive(self.run_dir)  # before reading: a run that ends in between has then told so
        self._watch.poll(SLICE_BYTES)
        if self._watch.behind:
            self.call_later(self._tick)
            return
        model, before = self._model, self.status
        self.status = status_of(
            self.run_dir, alive=alive, began=model.started is not None, ending=model.ending
        )
        if self.status != before:
            self.refresh_bindings()
        if alive is not False:
            self._lived = True
        elif self._lived and self.status in ENDED:
            self._lived = False
            self.app.announce(self.run_name, self.status)
        if self.app.screen is self or self.app.screen.is_modal:  # else it is covered
            await self._show()

    async def _show(self) -> None:
        model = self._model
        stepped = bool(len(model.loss))
        self.set_class(stepped, "-stepped")
        self.set_class(model.plan is not None, "-planned")
        self.set_class(not stepped and self.status not in ENDED, "-waiting")
        self.query_one(Head).show(self.status, model)
        silence = None if self.status in ENDED else self._clock() - (model.last_t or self._opened)
        self.query_one(Bars).show(model, silence)
        self.query_one(Phases).show(model, silence)
        self.query_one(LogPanel).show(model)
        if self.status != self._shown:
            self._shown = self.status
            self._show_ending()
        if stepped:
            await self.charts.show(model)
        if self._whole == "state":
            self.query_one(StatePanel).show(model)
        elif self._whole == "samples":
            await self.query_one(SamplesPanel).show(model)
        await self.query_one(Devices).show(self._gpus.history())

    def _show_ending(self) -> None:
        printed, steps = engine_log_tail(self.run_dir), self.run_dir.resume_steps()
        self._given = self._settings() if self.status in ENDED else None
        plan = self._model.plan
        lacked = shortage(self.run_dir, plan.device if plan else "") if self.status == "died" else None
        self._found = diagnose(self.status, self._model, printed, self._given, lacked)
        resumable = steps[0] if steps else 0
        card = ending(self.status, self.run_dir, self._model, self._found, partial(key_of, self), resumable)
        self.query_one("#ending", Static).update(card or "")
        self.set_class(card is not None, "-card")
        self.set_class(self.status in ENDED, "-over")
        self.set_class(self.status in ("failed", "died"), "-error")
        self.refresh_bindings()

    def _settings(self) -> TrainSettings | None:
        """What the run was started with, also when its files have gone meanwhile."""
        try:
            values = parse_yaml(self.run_dir.settings.read_text(encoding="utf-8"), str(self.run_dir.settings))
        except (OSError, UserError):
            return None
        return check_values(values, files=False).settings

    def on_screen_resume(self) -> None:
        self.call_later(self._tick)

    @property
    def active_bindings(self) -> Keys:
        """While one chart has the screen, the last line names its keys, too."""
        found = super().active_bindings
        if self._whole != "charts":
            return found
        return {
            key: active._replace(binding=replace(active.binding, show=True))
            if active.binding.id in TOLD_OF_ONE
            else active
            for key, active in found.items()
        }

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        if action == "stop":
            return self.status not in ENDED
        if action == "done":
            return isinstance(self._model.closing, Finished)
        if action == "resume":
            return self.status in ("stopped", "failed", "died")
        if action == "fix":
            return self.status in ("failed", "died") and self._given is not None
        return True

    def action_leave(self) -> None:
        if self.status not in ENDED:
            said = _("The run {name} goes on; open it again from home.", name=one_line(self.run_name))
            self.app.notify(said, markup=False)
        self.dismiss()

    def action_done(self) -> None:
        from rwkv_tui.screens.done import DoneScreen

        self.app.switch_screen(DoneScreen(self.run_name, self.run_dir))

    def action_log(self) -> None:
        self.app.push_screen(LogScreen(self.run_name, self.run_dir, lambda: self._model))

    def action_timeline(self) -> None:
        self.app.push_screen(LogScreen(self.run_name, self.run_dir, lambda: self._model, timeline=True))

    def action_back(self) -> None:
        """Out of what was gone into: the cursor, a large chart, a panel; else out of the monitor."""
        if self._whole != "charts" and self._whole:
            self._fill("")
        elif self.charts.leave():
            self._fill("charts" if self.charts.large else "")
        else:
            self.action_leave()

    def action_enlarge(self, name: str) -> None:
        """Gives one chart the whole screen; the same key again gives it back."""
        charts = self.charts
        charts.enlarge(name if self._whole in ("", "charts") or charts.large != name else "")
        self._fill("charts" if charts.large else "")

    def action_fill(self, name: str) -> None:
        """Gives a panel the whole screen; the same key again gives it back."""
        if self.charts.large:
            self.charts.enlarge("")
        self._fill("" if self._whole == name else name)

    def _fill(self, name: str) -> None:
        self._whole = name
        self.refresh_bindings()
        for one in WHOLE:
            self.set_class(one == name, f"-whole-{one}")
        self.query_one(Devices).fill(name == "devices")
        if name == "samples":
            self.query_one(SamplesPanel).focus()
        else:
            self.set_focus(None)
        self.call_after_refresh(self._tick)

    @property
    def charts(self) -> Charts:
        return self.query_one(Charts)

    async def action_pan(self, by: int) -> None:  # type: ignore[override]
        """Moves along the axis; among the answers to an earlier or a later one."""
        if self._whole == "samples":
            await self.query_one(SamplesPanel).turn(by)
        else:
            self.charts.pan(by)

    def action_fix(self) -> None:
        """Opens the wizard with this run's settings and the remedy among them, for a run of its own."""
        given = changed(self._given) if self._given else {}
        values = {name: self._typed(value) for name, value in given.items() if name != "proj_dir"}
        changes = dict(self._found.changes) if self._found else {}
        draft = self.app.draft
        draft.load(values, one_line(self.run_name))
        for name, value in changes.items():
            draft.edit(name, value)
        draft.put("proj_dir", "")
        draft.suggest_proj_dir(self.app.cwd)
        self.app.open_wizard("Parameters", next(iter(changes), ""))

    def _typed(self, value: object) -> str:
        """As one would type it here: what lies below the current folder is named from there."""
        below = isinstance(value, Path) and value.is_relative_to(self.app.cwd)
        return spell(value.relative_to(self.app.cwd) if isinstance(value, Path) and below else value)

    def action_resume(self) -> None:
        """Starts a process that goes on with the run."""
        go_on(self.app, self.run_name, self.run_dir, lambda: self.call_later(self._tick))

    def action_stop(self) -> None:
        """Asks once; a run that was asked already can be ended at once, after another question."""
        now = self.status == "stopping"
        self.app.push_screen(
            AskScreen(*self._stop_question(now)), lambda yes: self._stop(now) if yes else None
        )

    def _stop_question(self, now: bool) -> tuple[str, str]:
        name = one_line(self.run_name)
        if now:
            question = _("{name} was asked to stop and is still at it.\nEnd it at once? What it did since "
                         "the last saved file is lost; the saved files stay.", name=name)  # fmt: skip
            return question, _("End it at once")
        per_epoch = self._model.plan.epoch_steps if self._model.plan else 0
        if not per_epoch or not self._model.plan:
            question = _("Stop {name}?\nIt finishes the step it is in, saves and ends. "
                         "If you say no it just goes on.", name=name)  # fmt: skip
            return question, _("Stop it")
        epoch = self._model.plan.epoch_begin + max(0, self._model.step - 1) // per_epoch
        question = _("Stop {name}?\nIt finishes the step it is in, saves as {file} and ends. "
                     "If you say no it just goes on.",
                     name=name, file=self.run_dir.checkpoint(epoch).name)  # fmt: skip
        return question, _("Stop it")

    def _stop(self, now: bool) -> None:
        try:
            if not stop_run(self.run_dir, now=now):
                self.notify(_("The run has ended already."))
        except UserError as error:
            self.notify(str(error), severity="error", markup=False)
        self.call_later(self._tick)


def _pid(run: RunDir) -> int | None:
    owner = run.owner()
    return owner.pid if owner is not None else None
