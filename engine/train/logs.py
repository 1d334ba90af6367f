"""Where the events of a run go: its event file, loss_data.jsonl, and Weights & Biases when asked for."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.flags import changed
from engine.contract.i18n import _
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.packages import require
from engine.train.finish import OnFinish
from engine.train.writer import EventWriter


class Unheard:
    """The log of a process whose events another one tells."""

    continued = False

    def begin(self, settings: TrainSettings) -> None: ...
    def __call__(self, event: events.Event) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """Takes the events of one run; `continued` says that an earlier process has told some.

    `begin` opens what the settings ask for, `close` ends all.
    """

    def __init__(self, run: RunDir, on_finish: str = "") -> None:
        self._run = run
        self._on_finish = OnFinish(run, on_finish)
        self._events = EventWriter(run.events)
        self.continued = self._events.continued
        self._losses: LossData | None = LossData(run.loss_data)
        self._wandb: WandbLog | None = None

    def begin(self, settings: TrainSettings) -> None:
        """Raises UserError when Weights & Biases is asked for and cannot be had."""
        if settings.wandb:
            self._wandb = WandbLog(self._run, settings)

    def __call__(self, event: events.Event) -> None:
        self._events(event)
        self._note_loss(event)
        self._on_finish(event)
        self._follow(lambda log: log(event))

    def close(self) -> None:
        self._follow(lambda log: log.close())
        self._events.close()
        if self._losses:
            self._losses.close()
        self._on_finish.close()

    def _note_loss(self, event: events.Event) -> None:
        """As `_follow`."""
        if self._losses is None:
            return
        try:
            self._losses(event)
        except OSError as error:
            self._losses.close()
            self._losses = None
            self._events(
                events.Warned(
                    text=_(
                        "{loss_data} is no longer written ({strerror})",
                        loss_data=self._run.loss_data,
                        strerror=error.strerror,
                    )
                )
            )

    def _follow(self, act: Callable[[WandbLog], None]) -> None:
        """Whatever goes wrong in a log elsewhere, it must not end the run."""
        if self._wandb:
            try:
                act(self._wandb)
            except Exception as error:
                self._wandb = None
                self._events(
                    events.Warned(
                        text=_("wandb: no longer logged to ({error}); the run goes on", error=error)
                    )
                )


class LossData:
    """loss_data.jsonl as the incumbent's tools plot it: a line a step with loss, t_cost and kt_s.

    t_cost is, despite its name, steps a second. Line n is step n: a run that continues at an earlier
    step takes back the lines from there on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def __call__(self, event: events.Event) -> None:
        if not isinstance(event, events.Step):
            return
        if self._file is None:
            self._file = self._open(event.step)
        loss = event.loss if event.loss is not None and math.isfinite(event.loss) else None
        line = {"loss": loss, "t_cost": 1 / max(event.step_s, 1e-9), "kt_s": event.kt_s}
        self._file.write(json.dumps(line) + "\n")

    def _open(self, step: int) -> Any:
        file = self._path.open("a+", encoding="utf-8", buffering=1)
        file.seek(0)
        for _line in range(step - 1):
            file.readline()
        file.truncate(file.tell())
        return file

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk does not take what is left
                self._file.close()


class WandbLog:
    """A run of its own in the project `wandb`; its files are in proj_dir/wandb.

    Whether it is sent, only written or dropped, wandb itself decides by WANDB_MODE and by who is
    logged in. Raises UserError when it cannot start.
    """

    def __init__(self, run: RunDir, settings: TrainSettings) -> None:
        wandb = require("wandb")
        config = {name: v if isinstance(v, (int, float, dict)) else str(v)
                  for name, v in changed(settings).items()}  # fmt: skip
        try:
            self._run = wandb.init(
                project=settings.wandb, name=run.name(), dir=str(run.path), config=config,
                settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
            )  # fmt: skip
        except wandb.errors.Error as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(
                _("wandb: cannot start ({reason}).", reason=reason),
                _(
                    "Log in with `wandb login`, set WANDB_MODE=offline to only write it, or leave wandb "
                    "empty."
                ),
            ) from None
        self._run.define_metric("*", step_metric="step")  # ours, so that any order of events is kept
        self._step = 0
        self._failed = True

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Started(plan=plan):
                self._run.config.update({"plan": plan.model_dump()})
            case events.Step():
                names = ("loss", "loss_smooth", "lr", "kt_s", "grad_norm", "tokens", "epoch")
                self._step = event.step
                self._log({name: getattr(event, name) for name in names})
            case events.Validated():
                self._log({"val_loss": event.loss})
            case events.Epoch():
                self._log({"epoch_loss": event.loss})
            case events.Evaluated():
                self._run.summary[f"loss_{event.when}"] = event.loss
            case events.Finished():
                self._failed = False
                self._run.summary["status"] = event.status

    def _log(self, values: dict[str, Any]) -> None:
        self._run.log({"step": self._step, **{name: v for name, v in values.items() if v is not None}})

    def close(self) -> None:
        self._run.finish(exit_code=int(self._failed))
