"""The card that says how a run ended, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from engine.contract.events import Failed, Finished
from engine.contract.rundir import RunDir, Status
from rwkv_tui.panels.progress import clock_time
from rwkv_tui.plain import duration, one_line, plain
from rwkv_tui.services.run_tail import RunModel

LAST_LINES = 4


def change(before: float, after: float) -> str:
    """A loss before and after with the change in percent."""
    percent = f" ({(after - before) / before:+.0%})" if before else ""
    return f"{before:.4f} -> {after:.4f}{percent}"


def ending(status: Status, run: RunDir, model: RunModel, printed: str) -> Content | None:
    """The card's text, or None while the run goes on; `printed` is what its process printed last."""
    closing = model.closing
    if isinstance(closing, Finished):
        return _finished(status, closing, model)
    if isinstance(closing, Failed):
        where = f" at step {model.step:,} of {model.steps:,}" if model.steps else " before the first step"
        return _card(f"The run failed{where}", closing.reason, closing.remedy, run, model) + _last(printed)
    if status == "died":
        heard = f", last heard of at {clock_time(model.last_t)}" if model.last_t else ""
        where = f"at step {model.step:,}" if model.step else "before the first step"
        reason = "Its process ended without a word: killed, out of memory, or the machine was restarted."
        return _card(f"The run died {where}{heard}", reason, "", run, model) + _last(printed)
    return None


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


def _card(title: str, reason: str, remedy: str, run: RunDir, model: RunModel) -> Content:
    lines = [Content.assemble((title, "bold $error")), Content(plain(reason).strip())]
    if remedy:
        lines.append(Content.assemble(("What to do: ", "bold"), plain(remedy).strip()))
    kept = ", ".join(Path(c.path).name for c in model.checkpoints[-4:]) or "nothing had been saved yet"
    lines.append(Content.assemble(("Kept: ", "bold"), one_line(kept)))
    lines.append(Content.assemble(("Log: ", "bold"), one_line(str(run.log)), ("   l shows all of it", "dim")))
    return Content("\n").join(lines)


def _last(printed: str) -> Content:
    lines = plain(printed).strip().splitlines()[-LAST_LINES:]
    return Content.assemble(*[(f"\n  {line}", "dim") for line in lines])
