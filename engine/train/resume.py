"""What a run needs to go on exactly where it was: written beside its trained files, read by `resume`.

A point is a nested dictionary of tensors and plain values that loads without running code:

step        steps taken                    optimizer   the optimizer's state_dict
parameters  what is trained, by name       scaler      the loss scale of fp16, empty elsewhere
gradients   of an unfinished accumulation  callbacks   each callback's state_dict, by its key
probe       what was measured before       logs        bytes of each log that grows with the run
seconds     the run has taken so far       rng         generators' states, by device
op          the operator of the recurrence spread      strategy and processes

Of several processes each beside the first writes a file of what is its own: rng, gradients, and its part of
the optimizer.

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
from engine.contract.i18n import N_, _
from engine.contract.rundir import RunDir
from engine.train.group import Group

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


def write_point(run: RunDir, step: int, document: dict[str, Any], group: Group) -> None:
    """Writes the point after `step` and forgets all but the newest two. Raises UserError in all processes
    when one of them cannot write its file.

    The checksums come last: without them the point does not count.
    """
    path = run.resume_file(step, group.place.local)
    failure = None
    try:
        save_document({"step": step, **document}, path)
    except UserError as error:
        failure = error
    if group.any(failure is not None):
        path.unlink(missing_ok=True)
        raise failure or UserError(
            _("Another process could not write its part of {path}.", path=run.resume_file(step))
        )
    if not group.leads:
        return
    try:
        paths = [run.resume_file(step, local) for local in range(group.place.here)]
        write_atomic(run.resume_digest(step), "".join(f"{sha256(p)}  {p.name}\n" for p in paths))
        for old in run.resume_steps()[KEPT:]:
            _forget(run, old)
    except OSError as error:
        raise UserError(
            _("Cannot write {path} ({strerror}).", path=path, strerror=error.strerror), _("Free some space.")
        ) from error


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
        said = N_("{names} is damaged: going on from the beginning instead")
        if found.step:
            said = N_("{names} is damaged: going on from step {step} instead")
        emit(events.Warned(text=_(said, names=names, step=found.step)))
    return found


def _read(run: RunDir, step: int) -> dict[str, Any] | None:
    """A point's document, or None when it is gone or not what was written."""
    try:
        lines = run.resume_digest(step).read_text(encoding="ascii", errors="replace").splitlines()
        digests = [line.split() for line in lines]
        if not digests or any(sha256(run.path / Path(name).name) != wanted for wanted, name in digests):
            return None
        document: Any = _load(run.resume_file(step))
    except Exception:  # torch raises whatever its reading of a foreign file came upon
        return None
    return document if isinstance(document, dict) and document.get("step") == step else None


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def shared_point(run: RunDir, point: Point, group: Group) -> Point:
    """The point that the leading process has found, as this one needs it. Raises UserError when machines
    disagree about it."""
    steps = group.gather(point.step)[:: group.place.here]
    if len({step for (step,) in steps}) > 1:
        said = ", ".join(
            _("node {node} from step {step}", node=node, step=at) for node, (at,) in enumerate(steps)
        )
        raise UserError(
            _("The machines would go on from different steps: {said}.", said=said),
            _(
                "Remove the resume files of later steps (.pt and .sha256) where there are any, or "
                "copy those of the earliest from one proj_dir to the others."
            ),
        )
    step = steps[0][0]
    if not step or group.leads:
        return point
    return Point(step, _load(run.resume_file(step)) | _load(run.resume_file(step, group.place.local)))


def _tidy(run: RunDir) -> None:
    """Removes files that were being written when the run ended; those of a large model are large."""
    complete = {path.name for step in run.resume_steps() for path in run.resume_files(step)}
    for pattern in (".rwkv-*.part", ".resume-*.part", "resume-*.pt"):
        for path in run.path.glob(pattern):
            if path.name not in complete:
                path.unlink()


def _forget(run: RunDir, step: int) -> None:
    run.resume_digest(step).unlink(missing_ok=True)
    for path in run.resume_files(step):
        path.unlink(missing_ok=True)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What is trained, by name."""
    return {name: owned(p.detach()) for name, p in model.named_parameters() if p.requires_grad}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Within an accumulation, its gradients so far."""
    return {name: owned(p.grad) for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def restore_parameters(model: nn.Module, document: dict[str, Any]) -> None:
    """Puts back what was trained. Raises UserError when something else is trained now."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    saved: dict[str, Tensor] = document.pop("parameters")
    shapes = {name: p.shape for name, p in learned.items()}
    if shapes != {name: t.shape for name, t in saved.items()}:
        raise UserError(
            _("The saved run trains other parameters than its settings say."),
            _("Put back settings.yaml and the model as they were, or start a new run."),
        )
    for name, p in learned.items():
        p.copy_(saved[name])


def restore_gradients(model: nn.Module, document: dict[str, Any]) -> None:
    """Puts back the gradients of an unfinished accumulation."""
    gradients: dict[str, Tensor] = document.pop("gradients")
    for name, p in model.named_parameters():
        if name in gradients:
            p.grad = gradients[name].to(p.device)


def rng_state() -> dict[str, Any]:
    """Of the CPU, and of the GPU that this process uses: to ask another one takes memory of it."""
    gpus = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {"cpu": torch.get_rng_state(), "cuda": gpus}


def restore_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state["cuda"][0])


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

    Of several processes each takes its `share` (rank, size) of each step, `micro_bsz` items. It has no
    length, so that Lightning ends each epoch where its data end: the first one is shorter.
    """

    def __init__(
        self, order: EpochOrder, epoch: int, skip: int, micro_bsz: int = 1, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.order, self.first, self.skip, self.epoch = order, epoch, skip, epoch
        self.micro_bsz, self.share = micro_bsz, share
        order.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        rest = islice(iter(self.order), self.skip if self.epoch == self.first else 0, None)
        rank, size = self.share
        return (index for i, index in enumerate(rest) if i // self.micro_bsz % size == rank)
