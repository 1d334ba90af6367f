"""An exception that ended a run, as a person should hear of it."""

from __future__ import annotations

import errno
import math
import traceback

import torch

from engine.checkpoints.inspect import with_size
from engine.contract import events
from engine.contract.errors import UserError, first_line
from engine.contract.i18n import N_, _
from engine.contract.memory import advice, savings, without_gpu
from engine.contract.oom import room
from engine.contract.rundir import RunDir
from engine.estimate import needed, needed_of_host, what_fits

# As CUDA says it where it is not torch that asks for memory: a kernel's start, the workspace of cuBLAS.
GPU_IS_FULL = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # unsaid
# After these nothing works on the GPU any more in this process.
BROKEN = (
    "illegal memory access", "misaligned address", "illegal instruction", "device-side assert",  # unsaid
    "unspecified launch failure", "hardware stack error", "uncorrectable", "fallen off the bus",  # unsaid
)  # fmt: skip
FOREIGN = "no kernel image is available"  # unsaid


def failed(error: Exception, run: RunDir) -> events.Failed:
    """What happened and what to do; for what nobody foresaw the report is in engine.log, too."""
    if isinstance(error, UserError):
        return events.Failed(reason=error.message, remedy=error.remedy, cause=error.cause)
    detail = "".join(traceback.format_exception(error))
    gpu = isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in GPU_IS_FULL)
    if gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        said = (
            N_("The memory of the GPU is full: {error}.")
            if gpu
            else N_("The memory of the computer is full: {error}.")
        )
        reason = _(said, error=first_line(error))
        remedy, fix = _less_memory(run, gpu)
        return events.Failed(reason=reason, remedy=remedy, detail=detail, fix=fix, cause="memory")
    if FOREIGN in str(error):
        return events.Failed(
            reason=_("torch {version} has no code for this GPU, which is older than it knows or newer.",
                     version=torch.__version__),
            remedy=_("Install a torch that was built for it, or set accelerator to cpu."), detail=detail,
        )  # fmt: skip
    if any(said in str(error) for said in BROKEN):
        return events.Failed(
            reason=_("The GPU has stopped computing: {error}.", error=first_line(error)),
            remedy=_(
                "`rwkv-tune resume` goes on from the last saved step. If it comes again, set op to chunked, "
                "which needs no kernels of ours; a broken GPU tells so in `dmesg` (Xid)."
            ),
            detail=detail,
        )  # fmt: skip
    if isinstance(error, OSError) and error.filename is not None:
        cause = "disk" if error.errno == errno.ENOSPC else "file"
        reason = f"{error.filename}: {error.strerror}."
        remedy = _("Check disk and permissions.")
        return events.Failed(reason=reason, remedy=remedy, detail=detail, cause=cause)
    reason = f"{type(error).__name__}: {first_line(error)}."
    return events.Failed(reason=reason, remedy=_("The full report is in {log}.", log=run.log), detail=detail)


def _less_memory(run: RunDir, gpu: bool) -> tuple[str, dict[str, str]]:
    """What to do to fit into the GPU, or the computer, and the same, or the first of it, as settings."""
    try:
        settings = run.read_settings() if gpu else without_gpu(run.read_settings())
        host = room() // max(1, settings.devices)
        free, need = (_room(), needed) if gpu else (host, needed_of_host)
        found = what_fits(with_size(settings), free, need, host or math.inf) if free else None
    except UserError:
        return _("Take a smaller model."), {}
    return found or (advice(settings), next((saving.changes for saving in savings(settings)), {}))


def _room() -> int:
    """Bytes of the GPU that this process has or could have; 0 when the driver does not say."""
    try:
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    except (RuntimeError, AssertionError):  # the latter from a torch without CUDA
        return 0
