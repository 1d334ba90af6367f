"""The job `chat`: requests on stdin, events on stdout, one model that stays loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor

from engine.chat.talk import Talk, tell
from engine.checkpoints.adapter import Adapter
from engine.checkpoints.inspect import inspect_model
from engine.checkpoints.save import load_state_file
from engine.contract.errors import first_line
from engine.contract.events import Emit, Failed, Progress, Ready, Who
from engine.contract.i18n import N_, _
from engine.contract.talk import Ask, Forget, Halt, parse_request
from engine.models import load_model
from engine.models.build import set_state


def open_talks(
    path: Path, state: Path | None, adapter: Adapter | None, quant: str, device: str, emit: Emit,
    cache: Path | None = None,
) -> dict[Who, Talk]:  # fmt: skip
    """The model as the base, if it costs nothing to have both, and as it was tuned. Tells the loading."""
    info = inspect_model(path)
    tensors = load_state_file(state) if state else None  # what can be wrong with it is said before the wait
    done = 0

    def tell_loading(name: str, weight: Tensor) -> Tensor:
        nonlocal done
        done += weight.numel() * weight.element_size()
        emit(Progress(phase=N_("loading the model"), done=done, total=info.file_bytes, unit="B"))
        return weight

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = load_model(
        path, device=device, dtype=dtype, adapter=adapter, quant=quant, adjust=tell_loading,
        host_emb=device == "cuda", cache=cache,
    )  # fmt: skip
    model.requires_grad_(False)
    talks: dict[Who, Talk] = {}
    if tensors is not None:
        talks["base"] = Talk(model, [mixer.time_state for mixer in model.time_mixers()])
        set_state(model, tensors)
    talks["tuned"] = Talk(model, [mixer.time_state for mixer in model.time_mixers()])
    emit(Ready(who=tuple(talks)))
    return talks


def converse(talks: dict[Who, Talk], lines: Iterable[str], emit: Emit) -> None:
    """Answers the requests, one after the other, until there are no more lines.

    A Halt ends all answers that were asked for before it; so does the end of the lines.
    """
    requests: SimpleQueue[tuple[int, Ask | Forget] | None] = SimpleQueue()
    halted = 0  # the number of the last request whose answer is not wanted any more

    def listen() -> None:
        nonlocal halted
        number = 0
        for line in lines:
            try:
                request = parse_request(line)
            except ValueError as error:
                emit(Failed(cause="request", reason=_("No request: {error}", error=first_line(error))))
                continue
            if isinstance(request, Halt):
                halted = number
            else:
                number += 1
                requests.put((number, request))
        halted = number
        requests.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (asked := requests.get()) is not None:
        number, request = asked
        if isinstance(request, Forget):
            for talk in talks.values():
                talk.forget()
            continue
        for who in request.who:
            if who in talks:
                tell(talks[who], who, request, lambda number=number: number <= halted, emit)  # type: ignore[misc]
