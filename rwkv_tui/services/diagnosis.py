"""Why a run failed, what says so, and what to change: read from its last words, its log and its curves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.contract.events import Failed
from engine.contract.i18n import N_, _
from engine.contract.memory import on_cpu, savings, without_gpu
from engine.contract.rundir import Status
from engine.contract.settings import TrainSettings
from rwkv_tui.plain import plain, short
from rwkv_tui.services.postmortem import Shortage
from rwkv_tui.services.run_tail import RunModel

Fix = Callable[[TrainSettings], dict[str, str]]
LINES = 3
UNKNOWN = N_("Its process ended without a word: killed, out of memory, or the machine was restarted.")


@dataclass(frozen=True)
class Diagnosis:
    """A sentence each for cause and remedy; `changes` are parameters and the values they would better have,
    as one types them."""

    cause: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""
    changes: tuple[tuple[str, str], ...] = ()


def _less_memory(s: TrainSettings) -> dict[str, str]:
    """The cheapest of the changes that save memory."""
    return next((saving.changes for saving in savings(s)), {})


def _lower_rate(s: TrainSettings) -> dict[str, str]:
    """A tenth, and no more than is advised."""
    rate = min(s.lr_init / 10, 1.0 if s.method == "state" else 1e-4)
    return {"lr_init": f"{rate:g}", "lr_final": f"{min(s.lr_final, rate):g}"}


def _fp32(s: TrainSettings) -> dict[str, str]:
    return {"precision": "fp32"} if s.precision != "fp32" else {}


def _plain_op(s: TrainSettings) -> dict[str, str]:
    return {"op": "chunked"} if s.op != "chunked" else {"accelerator": "cpu"}


def _nothing(s: TrainSettings) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class _Sign:
    """What tells a cause: the engine's word for it, or what libraries and the system say when it happens."""

    word: str
    pattern: str
    cause: str
    remedy: str
    fix: Fix


_SIGNS = (
    _Sign(
        "memory",
        r"out of memory|OutOfMemoryError|MemoryError|DefaultCPUAllocator|STATUS_ALLOC_FAILED",  # unsaid
        N_("The memory did not suffice for a step."),
        N_("Checkpoint the activations, then make a step smaller: first micro_bsz, then ctx_len."),
        _less_memory,
    ),
    _Sign(
        "diverged", "",
        N_("The training diverged."),
        N_("Start again with a tenth of the learning rate."),
        _lower_rate,
    ),
    _Sign(
        "disk",
        r"No space left on device|Errno 28",  # unsaid
        N_("The disk is full."),
        N_("Free some space, then resume the run; keep_checkpoints 2 keeps fewer files."),
        lambda s: {"keep_checkpoints": "2"} if not s.keep_checkpoints else {},
    ),
    _Sign(
        "precision",
        r"not implemented for 'Half'|value cannot be converted to type at::Half",  # unsaid
        N_("This number format cannot be computed with here."),
        N_("Compute in fp32."),
        _fp32,
    ),
    _Sign(
        "operator",
        r"nvcc|ninja|CUDA_HOME|Triton|triton|no kernel image",  # unsaid
        N_("The kernel of the recurrence cannot be built or run here."),
        N_("Take the operator that needs no compiler."),
        _plain_op,
    ),
    _Sign(
        "gpu",
        r"GPU is lost|fallen off the bus|CUDA error|uncorrectable ECC",  # unsaid
        N_("The GPU reported an error."),
        N_("See dmesg for its cause, restart the machine if need be, and resume the run."),
        _nothing,
    ),
    _Sign(
        "file",
        r"DataLoader worker|Permission denied|No such file",  # unsaid
        N_("A file of the run could not be read or written."),
        N_("Put the file back or mend its permissions, then resume the run."),
        _nothing,
    ),
)  # fmt: skip


def diagnose(
    status: Status,
    model: RunModel,
    printed: str,
    settings: TrainSettings | None,
    shortage: Shortage | None = None,
) -> Diagnosis | None:
    """Of a run that failed or died; `printed` is the end of its log and `shortage` what it is known to have
    lacked. None when there is nothing to say."""
    closing = model.closing
    if settings and model.plan and on_cpu(model.plan.device):
        settings = without_gpu(settings)
    if status == "failed" and isinstance(closing, Failed):
        sign = _sign(f"{closing.reason}\n{closing.detail}", closing.cause) if settings else None
        changes = closing.fix or (sign.fix(settings) if sign and settings else {})
        evidence = (*_seen(closing.reason, printed), *_trend(model))
        remedy = closing.remedy or (_(sign.remedy) if sign else "")
        cause = _(sign.cause) if sign and not closing.remedy else closing.reason
        return Diagnosis(plain(cause).strip(), evidence, plain(remedy).strip(), tuple(changes.items()))
    if status == "died":
        if shortage is not None:
            return Diagnosis(shortage.said, _last(printed), shortage.remedy, tuple(shortage.changes.items()))
        sign = _sign(printed)
        if sign is not None:
            changes = sign.fix(settings) if settings else {}
            return Diagnosis(
                _(sign.cause), (*_last(printed), *_trend(model)), _(sign.remedy), tuple(changes.items())
            )
        return Diagnosis(
            _(UNKNOWN),
            _last(printed),
            _("Resume it. If that happens again it lacks memory: make a step smaller."),
            tuple(_less_memory(settings).items()) if settings else (),
        )
    return None


def _sign(words: str, cause: str = "") -> _Sign | None:
    """By the engine's word, which is the same in every language; else by the words of libraries."""
    told = next((s for s in _SIGNS if s.word == cause), None)
    patterns = (s for s in _SIGNS if s.pattern and re.search(s.pattern, words, re.IGNORECASE))
    return told or next(patterns, None)


def _seen(reason: str, printed: str) -> tuple[str, ...]:
    """The last lines of the log, unless they only repeat the reason."""
    return tuple(line for line in _last(printed) if line.strip() not in plain(reason))


def _last(printed: str) -> tuple[str, ...]:
    return tuple(plain(printed).strip().splitlines()[-LINES:])


def _trend(model: RunModel) -> tuple[str, ...]:
    """Whether the loss or the gradient had risen before the end."""
    if len(model.loss_smooth) < 20:
        return ()
    lines = []
    last, least = model.loss_smooth.last, model.loss_smooth.extremes()[0]
    if last is not None and last > 1.1 * least:
        lines.append(
            _("The smoothed loss had risen from {least} to {last}.", least=short(least), last=short(last))
        )
    count = len(model.grad_norm)
    usual, end = model.grad_norm.extremes(0, count // 2)[1], model.grad_norm.extremes(count - 10)[1]
    if end > 10 * usual > 0:
        lines.append(
            _(
                "The gradient's norm had risen to {end}; in the first half it was at most {usual}.",
                end=short(end),
                usual=short(usual),
            )
        )
    return tuple(lines)
