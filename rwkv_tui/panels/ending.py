"""The card that says how a run ended, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from engine.contract.events import Finished
from engine.contract.rundir import RunDir, Status
from rwkv_tui.plain import duration, moment, one_line, plain
from rwkv_tui.services.diagnosis import Diagnosis
from rwkv_tui.services.run_tail import RunModel


def change(before: float, after: float) -> str:
    """A loss before and after with the change in percent."""
    percent = f" ({(after - before) / before:+.0%})" if before else ""
    return f"{before:.4f} -> {after:.4f}{percent}"


def ending(
    status: Status, run: RunDir, model: RunModel, found: Diagnosis | None, resumable: int = 0
) -> Content | None:
    """The card's text, or None while the run goes on. `resumable` is the step after which it can go on."""
    if isinstance(model.closing, Finished):
        return _finished(status, model.closing, model)
    if found is None:
        return None
    if status == "failed":
        where = f" at step {model.step:,} of {model.steps:,}" if model.steps else " before the first step"
        return _card(f"The run failed{where}", found, run, model, resumable)
    seen = f" (last seen {moment(model.last_t)})" if model.last_t else ""
    where = f"at step {model.step:,}" if model.step else "before the first step"
    return _card(f"The run died {where}{seen}", found, run, model, resumable)


def _finished(status: Status, closing: Finished, model: RunModel) -> Content:
    asked = " as you asked" if status == "stopped" else ""
    lines = [Content.assemble(
        (f"The run {closing.status}{asked}", "bold $warning" if asked else "bold $success"),
        f" at step {closing.step:,} of {model.steps:,}, after {duration(closing.seconds)}",
    )]  # fmt: skip
    if closing.loss_before is not None and closing.loss_after is not None:
        lines.append(Content(f"Loss {change(closing.loss_before, closing.loss_after)}"))
    lines.append(
        Content.assemble(("Press Enter", "bold"), " to see its files, a sample and what to do next.")
    )
    return Content("\n").join(lines)


def _card(title: str, found: Diagnosis, run: RunDir, model: RunModel, resumable: int) -> Content:
    lines = [Content.assemble((title, "bold $error")), Content(found.cause)]
    if found.remedy:
        lines.append(Content.assemble(("What to do: ", "bold"), found.remedy))
    if found.changes:
        changes = ", ".join(f"{name} {value}" for name, value in found.changes)
        lines.append(Content.assemble(("b", "bold $primary"), f" goes back to the parameters with {changes}"))
    if resumable:
        lines.append(Content.assemble(("r", "bold $primary"), f" resumes it after step {resumable:,}"))
    kept = ", ".join(Path(c.path).name for c in model.checkpoints[-4:]) or "nothing had been saved yet"
    lines.append(Content.assemble(("Kept: ", "bold"), one_line(kept)))
    lines.append(Content.assemble(("Log: ", "bold"), one_line(str(run.log)), ("   l shows all of it", "dim")))
    lines += [Content.assemble((f"  {plain(line)}", "dim")) for line in found.evidence]
    return Content("\n").join(lines)
