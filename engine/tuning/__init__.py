"""What is trained: one class a method, each attaching to a loaded model and saving what it trained."""

from __future__ import annotations

from engine.tuning.base import Tuning
from engine.tuning.full import FullTuning
from engine.tuning.state import StateTuning

__all__ = ["Tuning", "tuning_for"]


def tuning_for(method: str) -> Tuning:
    """The tuning of a method's name; the settings were checked before, so an unknown one is a defect."""
    known: dict[str, type[Tuning]] = {"state": StateTuning, "full": FullTuning}
    return known[method]()
