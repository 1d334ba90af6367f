"""What waits in the host's memory: inputs for the backward pass, which computes anew what was made of them,
and a frozen head for the next loss.

torch's own `save_on_cpu` copies on the stream that computes, which stands still meanwhile. Here a second
stream copies: out while the input's own half of a block is computed, and back while the half after it
(in the backward pass, before it) is.

Why no copy can meet memory that is someone else's, though no tensor is told of the second stream:

- All memory on the GPU is allocated, used and given back by the computing stream `now`, whose allocator
  hands it on in the order of `now`. So a copy has to lie between two points of `now`.
- It begins after `now` has come to where it was asked for: the second stream waits for that. Then the input
  is computed, or whoever had the memory before is done with it.
- It ends before `now` goes on to where that memory can be given back: `now` waits for the copy's event while
  something still holds the tensor. Out, that is `through`, whose caller holds the input; back, it is `ahead`,
  which holds what is fetched until `now` has waited, even if a backward pass ends in an error midway; of a
  head it is `here`.
- Pinned memory is the host allocator's. It notes each copy that does not block, and hands memory on only
  when these are done. What comes back was written by the same stream before, so it is there.
- The host's program is never waited for: all waits are the GPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from engine.contract.errors import UserError, first_line
from engine.contract.i18n import _


@dataclass(frozen=True)
class Away:
    """A tensor's values in pinned memory, there once `copied`; `before` left before it and returns after."""

    values: Tensor
    device: torch.device
    copied: torch.cuda.Event
    before: Away | None


@dataclass(frozen=True)
class Ahead:
    """What is fetched: on its device once `copied`."""

    away: Away
    values: Tensor
    copied: torch.cuda.Event


class NoRoom(UserError):
    """The host lacks the memory for what is to wait there."""

    cause = "memory"


def pinned(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Memory of the host that a GPU reads and writes by itself. Raises NoRoom."""
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        if "out of memory" not in str(error):  # unsaid
            raise
        raise NoRoom(
            _(
                "grad_cp: 2 needs more of the computer's memory than it gives: {error}.",
                error=first_line(error),
            ),
            _("Set grad_cp to 1, lower ctx_len or micro_bsz, or end other programs."),
        ) from error


class Beside:
    """A stream that copies."""

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream | None = None

    def copy(self, to: Tensor, of: Tensor, device: torch.device) -> torch.cuda.Event:
        """After all that the computing stream of `device` has been given so far."""
        if self.stream is None:
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self.stream):
            to.copy_(of, non_blocking=True)
            copied: torch.cuda.Event = self.stream.record_event()
            return copied


class Waiting:
    """The inputs of a model's halves of blocks that are away.

    Each takes as much of the host's memory as the largest so far: its allocator gives nothing back, and of
    batches that differ in length would keep what it handed out for each power of two.
    """

    def __init__(self) -> None:
        self.largest = 0
        self.beside = Beside()
        self.last: Away | None = None
        self.ahead: Ahead | None = None

    @staticmethod
    def leaves(x: Tensor) -> bool:
        """Whether there is another place for x to wait in."""
        return x.is_cuda

    def begin(self) -> None:
        """A forward pass begins: nothing left before what it sends away."""
        self.last = None
        self._arrived()

    def through(self, half: Callable[..., Any], x: Tensor, *more: Any) -> Any:
        """half(x, *more), which the backward pass computes anew: x waits for that in the host's memory, and
        `more`, which several halves share, where it is."""
        away, own = self._send(x), id(x)
        self.last = away
        try:
            # By its id, for autograd keeps the hooks, and they would keep x.
            with saved_tensors_hooks(lambda t: away if id(t) == own else t, self._unpack):
                return checkpoint(half, x, *more, use_reentrant=False)
        finally:
            torch.cuda.current_stream(x.device).wait_event(away.copied)

    def _send(self, x: Tensor) -> Away:
        self.largest = max(self.largest, x.nbytes)
        values = pinned(torch.Size([self.largest]), torch.uint8)[: x.nbytes].view(x.dtype).view(x.shape)
        return Away(values, x.device, self.beside.copy(values, x.detach(), x.device), self.last)

    def _fetch(self, away: Away) -> Ahead:
        values = torch.empty_like(away.values, device=away.device, pin_memory=False)
        return Ahead(away, values, self.beside.copy(values, away.values, away.device))

    def _unpack(self, kept: Away | Tensor) -> Tensor:
        """What autograd asks for; the one that it will ask for next is fetched ahead."""
        if isinstance(kept, Tensor):
            return kept
        found = self._arrived()
        if found is None or found.away is not kept:
            self.ahead = self._fetch(kept)
            found = self._arrived()
        assert found is not None
        if kept.before is not None:
            self.ahead = self._fetch(kept.before)
        return found.values

    def _arrived(self) -> Ahead | None:
        """What was fetched last; whatever is computed from now on finds it there."""
        found = self.ahead
        if found is not None:
            torch.cuda.current_stream(found.values.device).wait_event(found.copied)
            self.ahead = None
        return found


class HostHead(nn.Linear):
    """A frozen head [V, D] that is on its GPU from the beginning of the forward pass until the loss is known:
    the backward pass, which works with the most, does without. Who else uses it has it until the next loss.
    """

    def __init__(self, weight: Tensor) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", None)
        self.beside = Beside()  # not that of the inputs, which would wait for all of it
        self.device = weight.device
        self.values = pinned(weight.shape, weight.dtype).copy_(weight.detach())
        self.here: tuple[Tensor, torch.cuda.Event] | None = None

    def come(self) -> None:
        """Is going to be used."""
        if self.here is None:
            weight = torch.empty_like(self.values, device=self.device, pin_memory=False)
            self.here = weight, self.beside.copy(weight, self.values, self.device)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """On the GPU, for whatever is computed from now on."""
        self.come()
        assert self.here is not None
        torch.cuda.current_stream(self.device).wait_event(self.here[1])
        return self.here[0]

    def go(self) -> None:
        """Is not used for a while."""
        if self.here is not None:
            torch.cuda.current_stream(self.device).wait_event(self.here[1])
            self.here = None
