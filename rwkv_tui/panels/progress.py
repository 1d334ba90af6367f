"""How far a run is: its head line, its bars and figures, and what it does before the first step."""

from __future__ import annotations

import time

from rich.cells import cell_len
from textual.content import Content

from engine.contract.events import Progress
from engine.contract.i18n import _
from engine.contract.rundir import Status
from rwkv_tui.panels.panel import Panel, bar
from rwkv_tui.plain import amount, column, duration, nats, one_line
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import status_word

STATUS_COLORS: dict[Status, str] = {
    "starting": "$primary",
    "running": "$primary",
    "stopping": "$warning",
    "finished": "$success",
    "stopped": "$warning",
    "failed": "$error",
    "died": "$error",
}
QUIET_S = 30.0


def about(model: RunModel) -> str:
    """The run's subject in a few words: version, layers x width, method."""
    plan = model.plan
    if plan is None:
        return ""
    batch = plan.micro_bsz * plan.devices
    return f"{plan.version}  {plan.n_layer}x{plan.n_embd}  {plan.method}  ctx {plan.ctx_len} x {batch}"


class Head(Panel):
    """One line: name, status, subject."""

    def __init__(self, name: str) -> None:
        super().__init__(id="head")
        self._run_name = one_line(name)
        self._status: Status = "starting"
        self._about = ""

    def show(self, status: Status, model: RunModel) -> None:
        self._status, self._about = status, about(model)
        self.touch()

    def draw(self) -> Content:
        left = Content.assemble(
            (f" {self._run_name} ", "bold"),
            " ",
            (status_word(self._status), f"bold {STATUS_COLORS[self._status]}"),
        )
        room = self.size.width - left.cell_length - cell_len(self._about) - 1
        return left if room < 2 else Content.assemble(left, " " * room, (self._about, "dim"))


class Bars(Panel):
    """Three lines: steps with time left, the epoch, speed and what has been measured."""

    def __init__(self) -> None:
        super().__init__(id="bars")
        self._model = RunModel()
        self._silence: float | None = None

    def show(self, model: RunModel, silence: float | None) -> None:
        """`silence` is how many seconds ago a living run was last heard of, None when it lives no more."""
        self._model, self._silence = model, silence
        self.touch()

    def draw(self) -> Content:
        model, plan = self._model, self._model.plan
        per_epoch = plan.epoch_steps if plan else 0
        whole = len(f"{model.steps:,}")
        in_epoch = (model.step - 1) % per_epoch + 1 if per_epoch and model.step else 0
        number = (model.step - 1) // per_epoch + 1 if per_epoch and model.step else 0
        steps = f"{model.step:>{whole},}/{model.steps:,}"
        epochs = f"{number}/{plan.epoch_count if plan else 0}"
        place = _("step {step:,} of {steps:,}", step=in_epoch, steps=per_epoch)
        lines = (
            self._line(_("step"), steps, model.step, model.steps, self._left()),
            self._line(_("epoch"), epochs, in_epoch, per_epoch, place),
            self._figures(),
        )
        return Content("\n").join(lines)

    def _line(self, name: str, figure: str, done: int, total: int, note: str) -> Content:
        head = f" {column(name, 5)} {figure:>19} "
        share = done / total if total else 0.0
        space = max(4, self.size.width - cell_len(head) - 7 - 33)
        return Content.assemble(head, bar(share, space), f"{share:>5.0%}  ", (note, "dim"))

    def _left(self) -> str:
        model = self._model
        if self._silence is None:
            return _("took {time}", time=duration(model.elapsed))
        left = model.seconds_left
        if left is None or model.last_t is None:
            return _("time left: not known yet")
        ends = _moment(model.last_t + left, left)
        return _("{time} left, ends {moment}", time=duration(left), moment=ends)

    def _figures(self) -> Content:
        model, speed = self._model, self._model.kt_s.last
        if model.activity and model.started:
            return Content.assemble(" ", _phase(model.activity, self.size.width - 2, model.phase_left))
        parts = [
            f"{'-' if speed is None else f'{speed:.3g}'} kt/s",
            _("{seconds:.3g} s a step", seconds=model.step_s),
            _("{count:,} tokens", count=model.tokens),
        ] if model.step else []  # fmt: skip
        if self._silence is not None:
            quiet = self._silence > max(QUIET_S, 5 * model.step_s)
            parts.append(
                _("nothing new for {time}", time=_rounded(self._silence))
                if quiet
                else _("running for {time}", time=duration(model.elapsed))
            )
        if model.before and self.size.width >= 100:
            parts.append(_("loss before training {loss}", loss=nats(model.before.loss)))
        return Content(" " + "   ".join(parts))


def _moment(t: float, ahead: float) -> str:
    """Local time of day, with the date when it may not be today's."""
    return time.strftime("%H:%M" if ahead < 43_200 else "%m-%d %H:%M", time.localtime(t))


def _rounded(seconds: float) -> str:
    """Coarse, so that a waiting screen is seldom painted."""
    return f"{int(seconds // 30) * 30} s" if seconds < 120 else f"{int(seconds // 60)} min"


def _phase(progress: Progress, width: int, left: float | None = None) -> Content:
    """What is done, how much of it, and how many seconds are `left`."""
    phase = one_line(_(progress.phase))
    if not progress.total:
        return Content(phase)
    unit = "" if progress.unit == "B" else one_line(_(progress.unit))
    done, total = amount(progress.done, progress.unit), amount(progress.total, progress.unit)
    note = " " + _("{done} of {total} {unit}", done=done, total=total, unit=unit).rstrip()
    if left is not None and progress.done < progress.total:
        note = _("{done}, {time} left", done=note, time=duration(left))
    room = min(30, width - 26 - 36)
    return Content.assemble(
        f"{column(phase, 25)} ", bar(progress.done / progress.total, max(0, room)), (note, "dim")
    )


class Phases(Panel):
    """What happens before the first step, one line each."""

    def __init__(self) -> None:
        super().__init__(id="phases")
        self._model = RunModel()
        self._silence: float | None = None

    def show(self, model: RunModel, silence: float | None) -> None:
        self._model, self._silence = model, silence
        self.touch()

    def draw(self) -> Content:
        model = self._model
        if model.plan:
            now = _("Ready; the first step is being taken.")
        elif model.phases:
            now = _("Preparing the run:")
        else:
            now = _("The engine is starting; loading its libraries takes some seconds.")
        lines = [Content.assemble((now, "bold")), Content("")]
        for progress in model.phases.values():
            over = progress is not model.activity or (progress.total and progress.done >= progress.total)
            # the last that was told of one that is over may be from before its end
            shown = progress.model_copy(update={"done": progress.total}) if over else progress
            sign = Content.assemble(("✓ ", "$success")) if over else Content.assemble(("› ", "$primary"))
            left = None if over else model.phase_left
            lines.append(Content.assemble(sign, _phase(shown, self.size.width - 2, left)))
        if model.before:
            lines.append(
                Content.assemble(
                    ("✓ ", "$success"), _("loss before training: {loss}", loss=nats(model.before.loss))
                )
            )
        return Content("\n").join(lines[: self.size.height])


def clock_time(t: float) -> str:
    """Local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(t))
