"""What a run needs to go on exactly where it was: written beside its trained files, read by `resume`.

A point is a nested dictionary of tensors and plain values that loads without running code:

step        steps taken                    optimizer   the optimizer's state_dict
parameters  what is trained, by name       scaler      the loss scale of fp16, empty elsewhere
gradients   of an unfinished accumulation  callbacks   each callback's state_dict, by its key
probe       what was measured before       logs        bytes of each log that grows with the run
seconds     the run has taken so far       rng         generators' states, by device
op          the operator of the recurrence

The data order needs nothing: it follows from the seed and the step.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from engine.checkpoints.save import owned, save_document
from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.files import write_atomic
from engine.contract.rundir import RunDir

KEPT = 2
LOGS = ("train_log.txt", "loss_data.jsonl")
BLOCK = 1 << 20


@dataclass
class Point:
    """Where a run goes on. `document` is empty at its beginning."""

    step: int = 0
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return float(self.document.get("seconds", 0.0))


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_point(run: RunDir, step: int, document: dict[str, Any]) -> None:
    """Writes the point after `step` and forgets all but the newest two. Raises UserError.

    The checksum comes last: without it the point does not count.
    """
    path = run.resume_file(step)
    save_document({"step": step, **document}, path)
    try:
        write_atomic(run.resume_digest(step), f"{sha256(path)}  {path.name}\n")
        for old in run.resume_steps()[KEPT:]:
            _forget(run, old)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}).", "Free some space.") from error


def newest_point(run: RunDir, emit: events.Emit) -> Point:
    """The newest point that is undamaged, else the run's beginning. Later ones are removed, and told.

    Only the process that trains the run may ask: it also removes what an earlier one left half-written.
    """
    _tidy(run)
    damaged, found = [], Point()
    for step in run.resume_steps():
        document = _read(run, step)
        if document is not None:
            found = Point(step, document)
            break
        damaged.append(step)
    for step in damaged:
        _forget(run, step)
    if damaged:
        names = ", ".join(run.resume_file(step).name for step in damaged)
        place = f"step {found.step}" if found.step else "the beginning"
        emit(events.Warned(text=f"{names} is damaged: going on from {place} instead"))
    return found


def _read(run: RunDir, step: int) -> dict[str, Any] | None:
    """A point's document, or None when it is gone or not what was written."""
    path = run.resume_file(step)
    try:
        wanted = run.resume_digest(step).read_text(encoding="ascii", errors="replace").split()
        if wanted[:1] != [sha256(path)]:
            return None
        document: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises whatever its reading of a foreign file came upon
        return None
    return document if isinstance(document, dict) and document.get("step") == step else None


def _tidy(run: RunDir) -> None:
    """Removes files that were being written when the run ended; those of a large model are large."""
    complete = {run.resume_file(step).name for step in run.resume_steps()}
    for pattern in (".rwkv-*.part", ".resume-*.part", "resume-*.pt"):
        for path in run.path.glob(pattern):
            if path.name not in complete:
                path.unlink()


def _forget(run: RunDir, step: int) -> None:
    run.resume_digest(step).unlink(missing_ok=True)
    run.resume_file(step).unlink(missing_ok=True)


def model_state(model: nn.Module) -> dict[str, Any]:
    """What is trained and, within an accumulation, its gradients so far."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {
        "parameters": {name: owned(p.detach()) for name, p in trained.items()},
        "gradients": {name: owned(p.grad) for name, p in trained.items() if p.grad is not None},
    }


@torch.no_grad()
def restore_parameters(model: nn.Module, document: dict[str, Any]) -> None:
    """Puts back what was trained. Raises UserError when something else is trained now."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    saved: dict[str, Tensor] = document.pop("parameters")
    shapes = {name: p.shape for name, p in trained.items()}
    if shapes != {name: t.shape for name, t in saved.items()}:
        raise UserError(
            "The saved run trains other parameters than its settings say.",
            "Put back settings.yaml and the model as they were, or start a new run.",
        )
    for name, p in trained.items():
        p.copy_(saved[name])


def restore_gradients(model: nn.Module, document: dict[str, Any]) -> None:
    """Puts back the gradients of an unfinished accumulation."""
    gradients: dict[str, Tensor] = document.pop("gradients")
    for name, p in model.named_parameters():
        if name in gradients:
            p.grad = gradients[name].to(p.device)


def rng_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    for device, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one, device)


def log_sizes(run: RunDir) -> dict[str, int]:
    """Bytes of the logs that grow with the run."""
    return {name: size for name in LOGS if (size := _size(run.path / name))}


def cut_logs(run: RunDir, sizes: dict[str, int]) -> None:
    """Takes back what was logged after the point."""
    for name in LOGS:
        path = run.path / name
        if _size(path) > sizes.get(name, 0):
            os.truncate(path, sizes.get(name, 0))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class EpochOrder(Protocol):
    """A data order with an epoch, see engine.data.dataset."""

    def set_epoch(self, epoch: int) -> None: ...
    def __iter__(self) -> Iterator[int]: ...


class Remaining(Sampler[int]):
    """A data order without the first `skip` items of epoch `epoch`, which were trained before.

    It has no length, so that Lightning ends each epoch where its data end: the first one is shorter.
    """

    def __init__(self, order: EpochOrder, epoch: int, skip: int) -> None:
        self.order, self.first, self.skip, self.epoch = order, epoch, skip, epoch
        order.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.order), self.skip if self.epoch == self.first else 0, None)
