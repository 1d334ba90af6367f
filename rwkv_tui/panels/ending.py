"""The card that says how a run ended, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from textual.content import Content

from engine.contract.events import Finished
from engine.contract.i18n import _
from engine.contract.rundir import RunDir, Status
from rwkv_tui.panels.panel import fill
from rwkv_tui.plain import duration, moment, nats, one_line, plain
from rwkv_tui.services.diagnosis import Diagnosis
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import place_of

Key = Callable[[str], str]
"""How the key is spelled that does what has this name."""


def change(before: float | None, after: float | None) -> str:
    """A loss before and after with the change in percent."""
    share = (after - before) / before if before and after is not None else None
    percent = "" if share is None else f" ({share:+.1%})" if abs(share) < 0.1 else f" ({share:+.0%})"
    return f"{nats(before)} -> {nats(after)}{percent}"


def ending(
    status: Status, run: RunDir, model: RunModel, found: Diagnosis | None, key: Key, resumable: int = 0
) -> Content | None:
    """The card's text, or None while the run goes on. `resumable` is the step after which it can go on."""
    if isinstance(model.closing, Finished):
        return _finished(status, model.closing, model, key, resumable)
    if found is None:
        return None
    return _card(_title(status, model), found, run, model, key, resumable)


def _title(status: Status, model: RunModel) -> str:
    step, when = place_of(model.step, model.steps), moment(model.last_t) if model.last_t else "-"
    if status == "failed":
        return (
            _("The run failed at {step}", step=step)
            if model.steps
            else _("The run failed before the first step")
        )
    if model.step:
        return _("The run died at {step} (last seen {when})", step=step, when=when)
    return _("The run died before the first step (last seen {when})", when=when)


def _finished(status: Status, closing: Finished, model: RunModel, key: Key, resumable: int) -> Content:
    stopped = status == "stopped"
    told = _("The run stopped as you asked") if stopped else _("The run finished")
    bright = Content.styled(told, "bold $warning" if stopped else "bold $success")
    step, took = place_of(closing.step, model.steps), duration(closing.seconds)
    lines = [fill(_("{told} at {step}, after {time}"), told=bright, step=step, time=took)]
    if model.gain:
        lines.append(Content(_("Loss {change}", change=change(*model.gain))))
    lines.append(fill(_("{key} shows its files, a sample and what to do next."),
                      key=Content.styled(key("monitor.done"), "bold $primary")))  # fmt: skip
    if stopped:
        lines.append(_resuming(key, resumable))
    return Content("\n").join(lines)


def _resuming(key: Key, step: int) -> Content:
    pressed = Content.styled(key("monitor.resume"), "bold $primary")
    if not step:
        return fill(_("{key} begins it anew: nothing was saved to go on from"), key=pressed)
    return fill(_("{key} resumes it after step {step}"), key=pressed, step=f"{step:,}")


def _card(title: str, found: Diagnosis, run: RunDir, model: RunModel, key: Key, resumable: int) -> Content:
    def pressing(name: str) -> Content:
        return Content.styled(key(name), "bold $primary")

    lines = [Content.styled(title, "bold $error"), Content(found.cause)]
    if found.remedy:
        lines.append(Content.assemble((_("What to do:"), "bold"), " ", found.remedy))
    if found.changes:
        changes = ", ".join(f"{name} {value}" for name, value in found.changes)
        back = _("{key} goes back to the parameters with {changes}")
        lines.append(fill(back, key=pressing("monitor.fix"), changes=changes))
    lines.append(_resuming(key, resumable))
    names = list(dict.fromkeys(Path(c.path).name for c in model.checkpoints))  # resumed, it saves one again
    kept = ", ".join(names[-4:]) or _("nothing had been saved yet")
    lines.append(Content.assemble((_("Kept:"), "bold"), " ", one_line(kept)))
    whole = fill(_("{key} shows all of it"), key=key("monitor.log")).stylize("dim")
    lines.append(Content.assemble((_("Log:"), "bold"), " ", one_line(str(run.log)), "   ", whole))
    lines += [Content.assemble((f"  {plain(line)}", "dim")) for line in found.evidence]
    return Content("\n").join(lines)
