"""What is trained: one class a method, each attaching to a loaded model and saving what it trained."""

from __future__ import annotations

from engine.contract.adapter import adapter_options
from engine.contract.settings import TrainSettings
from engine.tuning.adapter import AdapterTuning
from engine.tuning.base import Tuning
from engine.tuning.full import FullTuning
from engine.tuning.pissa import PissaTuning
from engine.tuning.state import StateTuning

__all__ = ["Tuning", "tuning_for"]


def tuning_for(settings: TrainSettings) -> Tuning:
    """The tuning that the settings ask for; they were checked before."""
    if settings.method == "state":
        return StateTuning()
    if settings.method == "full":
        return FullTuning()
    kind = PissaTuning if settings.method == "pissa" else AdapterTuning
    parts = tuple(filter(None, settings.train_parts.split(",")))
    return kind(settings.method, adapter_options(settings)[0], parts)
