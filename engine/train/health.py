"""Whether training still goes well: numbers that are none, gradients that explode, losses that run away."""

from __future__ import annotations

import math
from typing import Any

from engine.contract import events
from engine.contract.errors import Diverged, NoNumbers, UserError
from engine.contract.i18n import _

SMOOTHING = 0.95  # weight of the past in an average
BAD_STEPS = 3  # in a row without a finite loss, which end a run
LEAST_SCALE = 1.0  # of the loss in fp16; it starts at 65536 and halves with each overflow
STEEP = 100.0  # times the usual norm of the gradients
FAR = 3.0  # nats above the lowest average loss: twenty times its perplexity
WARN_AFTER, STOP_AFTER = 3, 50  # steps in a row that are steep or far
USUAL_STEPS = 20  # before there is a usual norm
IDLE_STEPS = 10  # whose gradients are all zero, from the first one on


class Average:
    """Exponential average without the bias towards its start."""

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def add(self, value: float) -> None:
        self.total = SMOOTHING * self.total + (1 - SMOOTHING) * value
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight else None


class Health:
    """Follows a run's steps; warns, and raises Diverged when going on makes no sense."""

    def __init__(self, emit: events.Emit, *, fp16: bool = False) -> None:
        self.emit = emit
        self.fp16 = fp16
        self.smooth = Average()
        self.lowest = math.inf
        self.norms = Average()  # of their logarithms, while all is well
        self.bad_steps = 0
        self.wild_steps = 0
        self.idle_steps = 0  # -1 once a gradient was not zero

    def state_dict(self) -> dict[str, Any]:
        averages = [(a.total, a.weight) for a in (self.smooth, self.norms)]
        return {"averages": averages, "lowest": self.lowest, "steps": (self.bad_steps, self.wild_steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for average, numbers in zip((self.smooth, self.norms), state["averages"], strict=True):
            average.total, average.weight = numbers
        self.lowest = state["lowest"]
        self.bad_steps, self.wild_steps = state["steps"]

    @property
    def ill(self) -> bool:
        """Whether it went wrong in the last step."""
        return bool(self.bad_steps or self.wild_steps)

    def note(self, step: int, loss: float, rate: float, norm: float | None) -> None:
        """A step with its loss (nats), learning rate and the gradients' norm before clipping."""
        if not math.isfinite(loss):
            self.bad_steps += 1
            if self.bad_steps >= BAD_STEPS:
                raise self._no_numbers(step - BAD_STEPS + 1, loss, rate)
            return
        self.bad_steps = 0
        self.smooth.add(loss)
        self._note_idleness(norm)
        self._note_wildness(step, loss, rate, norm)
        average = self.smooth.value
        assert average is not None
        self.lowest = min(self.lowest, average)

    def _no_numbers(self, since: int, loss: float, rate: float) -> UserError:
        if self.smooth.value is None:  # no step has had a loss: nothing that was learned can be the reason
            return NoNumbers(
                _("The loss is {loss} from the first step on, before anything was learned.", loss=loss),
                _(
                    "The model, or the state it begins with, overflows or is damaged: set precision to fp32, "
                    "or take another file."
                ),
            )
        return Diverged(
            _(
                "The loss is {loss} since step {step} (learning rate {rate:g}).",
                loss=loss,
                step=since,
                rate=rate,
            ),
            _(
                "Lower lr_init, or lengthen warmup_steps; files saved before are intact. What overflows in "
                "fp16 may be fine in bf16."
            )
            if self.fp16
            else _("Lower lr_init, or lengthen warmup_steps; files saved before are intact."),
        )

    def note_overflow(self, step: int, scale: float) -> None:
        """A step whose gradients overflowed in fp16; the loss scale is now `scale`."""
        if scale < LEAST_SCALE:
            raise Diverged(
                _(
                    "The gradients are beyond fp16 at step {step}, however small the loss is scaled.",
                    step=step,
                ),
                _("Set precision to bf16 or fp32, or lower lr_init; files saved before are intact."),
            )
        self.emit(
            events.Log(
                text=(
                    _(
                        "step {step}: a gradient overflowed in fp16, so the parameters did not move; loss "
                        "scale now {scale:g}",
                        step=step,
                        scale=scale,
                    )
                )
            )
        )

    def _note_idleness(self, norm: float | None) -> None:
        """Warns once when nothing is learned from the beginning on."""
        if norm is None or self.idle_steps < 0:
            return
        self.idle_steps = self.idle_steps + 1 if norm == 0 else -1
        if self.idle_steps == IDLE_STEPS:
            self.emit(
                events.Warned(
                    text=_(
                        "Nothing is learned: the gradient has been zero for {n} steps on end. A model of "
                        "random weights must be trained whole first (method full); else look at the tokens "
                        "of the data, whether any of them is learned.",
                        n=IDLE_STEPS,
                    )
                )
            )

    def _note_wildness(self, step: int, loss: float, rate: float, norm: float | None) -> None:
        usual = self.norms.value if self.norms.weight > 1 - SMOOTHING**USUAL_STEPS else None
        steep = norm is not None and usual is not None and norm > STEEP * math.exp(usual)
        if not steep and loss <= self.lowest + FAR:
            if self.wild_steps >= WARN_AFTER:
                self.emit(
                    events.Log(
                        text=_("step {step}: loss and gradients are back to what they were", step=step)
                    )
                )
            self.wild_steps = 0
            if norm is not None and 0 < norm < math.inf:
                self.norms.add(math.log(norm))
            return
        self.wild_steps += 1
        parts = [_("the loss is {loss:.3g}", loss=loss)]
        if math.isfinite(self.lowest):
            parts.append(_("{loss:.3g} before", loss=self.lowest))
        if norm is not None:
            parts.append(_("the gradients' norm {norm:.3g}", norm=norm))
        what = _("{what} (learning rate {rate:g})", what=_(", ").join(parts), rate=rate)
        if self.wild_steps == WARN_AFTER:
            self.emit(events.Warned(text=_("step {step}: training runs away: {what}", step=step, what=what)))
        if self.wild_steps >= STOP_AFTER:
            raise Diverged(
                _("Training has run away since step {step}: {what}.", step=step - STOP_AFTER + 1, what=what),
                _(
                    "Lower lr_init, or lengthen warmup_steps, or lower grad_clip; files saved before are "
                    "intact."
                ),
            )
