"""An exception that ended a run, as a person should hear of it."""

from __future__ import annotations

import traceback

import torch

from engine.contract import events
from engine.contract.errors import UserError, first_line
from engine.contract.memory import advice, savings
from engine.contract.rundir import RunDir


def failed(error: Exception, run: RunDir) -> events.Failed:
    """What happened and what to do; for what nobody foresaw the report is in engine.log, too."""
    if isinstance(error, UserError):
        return events.Failed(reason=error.message, remedy=error.remedy)
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        whose = "GPU" if isinstance(error, torch.OutOfMemoryError) else "computer"
        reason = f"The memory of the {whose} is full: {first_line(error)}."
        remedy, fix = _less_memory(run)
        return events.Failed(reason=reason, remedy=remedy, detail=detail, fix=fix)
    if isinstance(error, OSError) and error.filename is not None:
        reason = f"{error.filename}: {error.strerror}."
        return events.Failed(reason=reason, remedy="Check disk and permissions.", detail=detail)
    reason = f"{type(error).__name__}: {first_line(error)}."
    return events.Failed(reason=reason, remedy=f"The full report is in {run.log}.", detail=detail)


def _less_memory(run: RunDir) -> tuple[str, dict[str, str]]:
    """What to do, and the first of it as settings."""
    try:
        settings = run.read_settings()
    except UserError:
        return "Take a smaller model.", {}
    return advice(settings), next((saving.changes for saving in savings(settings)), {})
