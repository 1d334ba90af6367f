"""Our CUDA C++ (`csrc`): compiled on demand by the machine's nvcc and kept in the user's cache folder.

A library serves one kind of GPU, one type and one head size, and takes some seconds once. It knows nothing
of Python or torch, so it outlives new versions of both; its name holds a digest of what it was made from.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from engine.contract.errors import UserError
from engine.contract.i18n import _

SOURCES = Path(__file__).parent / "csrc"
USUAL_PLACE = "/usr/local/cuda/bin/nvcc"  # where CUDA's installer puts it, on PATH or not
TYPES = {torch.float32: "float", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
FORWARD, REVERSE, COLUMNS = range(3)
CHUNK = 16  # C in common.cuh


class Launcher:
    """Starts a library's kernels on torch's current stream. Raises RuntimeError with CUDA's reason.

    `dtype` is the type that the sequences must have: the kernels know no other.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.library = ctypes.CDLL(str(path))
        self.library.explain.restype = ctypes.c_char_p
        self.library.launch.argtypes = [ctypes.c_int] * 4 + [ctypes.c_void_p] * 2

    def __call__(self, which: int, like: Tensor, *tensors: Tensor | None) -> None:
        """One pass; `like` [B, T, H, N] tells the sizes and the device. None: not wanted."""
        batch, steps, heads, _width = like.shape
        pointers = (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))
        stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else None
        with torch.cuda.device_of(like):  # type: ignore[no-untyped-call]
            code = self.library.launch(which, batch, steps, heads, pointers, stream)
        if code:
            raise RuntimeError(
                _("CUDA kernel {which}: {reason}", which=which, reason=self.library.explain(code).decode())
            )


def compiler() -> str | None:
    """Path of nvcc, None when there is none."""
    return shutil.which("nvcc") or shutil.which(USUAL_PLACE)


@functools.cache
def launcher(recurrence: str, dtype: torch.dtype, width: int, cache: Path | None) -> Launcher:
    """A recurrence's kernels for the GPU that is here. Raises UserError when they do not compile."""
    major, minor = torch.cuda.get_device_capability()
    with contextlib.ExitStack() as stack:  # what is loaded needs no file any more
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix="rwkv-tune-")) if cache is None else ""
        folder = Path(own) if cache is None else cache / "kernels"
        return Launcher(build(recurrence, dtype, width, f"sm_{major}{minor}", folder), dtype)


def build(recurrence: str, dtype: torch.dtype, width: int, arch: str, folder: Path) -> Path:
    """Compiles the kernels for `arch` unless the folder has them already. Raises UserError."""
    nvcc = compiler()
    if nvcc is None:
        raise UserError(_("There is no nvcc to compile the CUDA operator."), _("Use --op auto or triton."))
    kind = str(dtype).removeprefix("torch.")
    path = folder / f"{recurrence}-{kind}-{width}-{arch}-{_digest(recurrence, nvcc)}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        done = subprocess.run(
            [nvcc, "-O3", f"-arch={arch}", *definitions(dtype, width), "--shared", "-Xcompiler", "-fPIC",
             "-o", str(partial), str(SOURCES / f"{recurrence}.cu")],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise UserError(
                _(
                    "{nvcc} cannot compile {recurrence}.cu for {arch}: {reason}.",
                    nvcc=nvcc,
                    recurrence=recurrence,
                    arch=arch,
                    reason=said[-1] if said else _("no message"),
                ),
                _("Use --op auto or triton, or a CUDA toolkit that knows this GPU."),
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def definitions(dtype: torch.dtype, width: int) -> list[str]:
    """What tells the compiler the type and the head size."""
    return [f"-DTYPE={TYPES[dtype]}", f"-DWIDTH={width}"]


def _digest(recurrence: str, nvcc: str) -> str:
    version = subprocess.run([nvcc, "--version"], capture_output=True, check=False).stdout
    files = [SOURCES / name for name in ("common.cuh", "entry.cuh", f"{recurrence}.cu")]
    return hashlib.sha256(b"".join([version, *(f.read_bytes() for f in files)])).hexdigest()[:16]
