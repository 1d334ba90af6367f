"""The processes that train one run together, and what they tell each other between their steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from engine.train.ranks import Place

# Longer than one process ever keeps the others waiting, e.g. to write a large model. One that is dead is
# noticed at once, by its closed connections and by who started it.
PATIENCE = timedelta(hours=4)
BUCKET = 1 << 24  # elements that travel together


class Group:
    """Talks to the run's other processes; a run of one talks to nobody. All of them must call alike."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place = place or Place()
        self.rank, self.size, self.leads = place.rank, place.size, place.leads

    def join(self, device: str) -> None:
        """Waits until all are there. Numbers of the host go over gloo, tensors of a GPU over NCCL."""
        if device == "cuda":
            torch.cuda.set_device(self.place.local)
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.place.here))
        if self.size > 1:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", init_method=self.place.meeting,
                rank=self.rank, world_size=self.size, timeout=PATIENCE,
            )  # fmt: skip

    def gather(self, *values: int) -> list[list[int]]:
        """The values of every process, by rank."""
        if self.size == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.int64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [t.tolist() for t in found]

    def sum(self, *values: float) -> list[float]:
        """Each value added up over the processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is true in one of them."""
        return self.sum(float(flag))[0] > 0

    def wait(self) -> None:
        """Until all processes are here."""
        self.sum(0)

    def tell(self, text: str = "") -> str:
        """What the first process says."""
        if self.size == 1:
            return text
        data = text.encode()
        ((length,), *_) = self.gather(len(data))
        box = torch.zeros(length, dtype=torch.uint8)
        if self.rank == 0:
            box.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(box, 0)
        return bytes(box.tolist()).decode()

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes."""
        if self.size == 1:
            return
        for bucket in _buckets([t.detach() for t in tensors]):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            for t, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                t.copy_(part.view_as(t))

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's tensors."""
        if self.size > 1:
            for t in tensors:
                dist.broadcast(t.detach(), 0)


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in groups of one type and not much more than BUCKET elements."""
    found: list[list[Tensor]] = []
    room = 0
    for t in tensors:
        if not found or room < t.numel() or found[-1][0].dtype != t.dtype:
            found.append([])
            room = BUCKET
        found[-1].append(t)
        room -= t.numel()
    return found
