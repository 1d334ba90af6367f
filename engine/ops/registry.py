"""The operators of each recurrence: which work here, and why another one does not.

`wkv6` and `wkv7` state their calling convention. An operator NAME of RECURRENCE is the function
`RECURRENCE_NAME` of the module `engine.ops.RECURRENCE.NAME`, which is imported when it is used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.ops.parts import TORCH, Parts

Operator = Callable[..., "tuple[torch.Tensor, torch.Tensor]"]  # unsaid

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDTHS = (16, 32, 64)
OLDEST_FLA = (0, 6)
HEADERS = "posix_prefix"  # where Triton looks for Python's


@dataclass(frozen=True)
class Need:
    """What an operator is to compute: [batch, steps, heads, width] in `dtype` on `device` (cpu, cuda).

    `steps` 0: of any length; then nothing is timed.
    """

    recurrence: str
    device: str
    dtype: torch.dtype
    heads: int
    width: int
    batch: int = 1
    steps: int = 0


@dataclass(frozen=True)
class Selected:
    """The chosen operator; `reasons` says of every other one why it was not. `parts` are the element-wise
    ones that go with it, and `parts_reason` says why those."""

    name: str
    function: Operator
    reasons: dict[str, str]
    parts: Parts = TORCH
    parts_reason: str = ""

    @property
    def spelled(self) -> str:
        """Both by name, for `choose` to find again: "triton fused"."""
        return f"{self.name} {self.parts.name}"


def recurrence_of(version: str) -> str:
    """Which recurrence a version of RWKV has."""
    return "wkv7" if version == "x070" else "wkv6"


def why_not(name: str, need: Need) -> str:
    """Why the operator cannot do what is needed here; "" when it can."""
    return USABLE[name](need)


def function_of(name: str, need: Need, cache: Path | None = None) -> Operator:
    """The operator itself; what it has to compile is kept in `cache`. Raises UserError if that fails."""
    module = importlib.import_module(f"engine.ops.{need.recurrence}.{name}")
    function: Operator = getattr(module, f"{need.recurrence}_{name}")
    if name == "cuda":
        from engine.ops.native import launcher

        function = functools.partial(function, launcher(need.recurrence, need.dtype, need.width, cache))
    return function


def named(name: str, need: Need, cache: Path | None = None) -> Selected:
    """The operator that was asked for. Raises UserError when there is none or it does not work here."""
    others = [other for other in USABLE if other != name]
    if name not in USABLE:
        raise UserError(
            _("op: there is no operator {name!r}.", name=name),
            _("Use auto, {usable}.", usable=", ".join(USABLE)),
        )
    if reason := why_not(name, need):
        works = ", ".join(["auto", *(other for other in others if not why_not(other, need))])
        raise UserError(
            _("op: {name} does not work here: {reason}.", name=name, reason=reason),
            _("Use {works}.", works=works),
        )
    return Selected(
        name, function_of(name, need, cache), dict.fromkeys(others, _("{name} was asked for", name=name))
    )


def _anywhere(need: Need) -> str:
    return ""


def _triton(need: Need) -> str:
    return _no_gpu(need) or _no_kernel(need) or _not_installed("triton") or _no_c_compiler()


def _no_c_compiler() -> str:
    """Triton compiles what starts its kernels with the machine's own compiler, or with that of CC, and with
    Python's headers, which Linux distributions have in a package of their own."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return _("there is no C compiler for it: install gcc or clang")
    header = Path(sysconfig.get_path("include", HEADERS), "Python.h")
    if header.exists():
        return ""
    return _(
        "{header}, which it compiles with, is missing: install python{version}-dev",
        header=header,
        version="{}.{}".format(*sys.version_info),
    )


def _no_gpu(need: Need) -> str:
    if need.device != "cuda":
        return _("it needs an NVIDIA GPU")
    major, minor = torch.cuda.get_device_capability()
    if major >= 8:
        return ""
    return _("it needs compute capability 8.0 or more, the GPU has {has}", has=f"{major}.{minor}")


def _no_kernel(need: Need) -> str:
    if need.width not in WIDTHS:
        return _(
            "heads have size {width}, not {widths}", width=need.width, widths=", ".join(map(str, WIDTHS))
        )
    dtype = str(need.dtype).removeprefix("torch.")
    return "" if need.dtype in DTYPES else _("not for {dtype}", dtype=dtype)


def _not_installed(module: str) -> str:
    found = importlib.util.find_spec(module)
    return "" if found else _("the Python package {module} is not installed", module=module)


def _cuda(need: Need) -> str:
    from engine.ops.native import compiler

    if reason := _no_gpu(need) or _no_kernel(need):
        return reason
    if compiler():
        return ""
    return _("there is no nvcc to compile it: install the CUDA toolkit, or put nvcc on PATH")


def _fla(need: Need) -> str:
    if reason := _triton(need):  # which its operators are written in
        return reason
    if reason := _not_installed("fla"):
        return _("{reason}: pip install rwkv-tune[fla]", reason=reason)
    try:
        found = importlib.metadata.version("fla-core")
    except importlib.metadata.PackageNotFoundError:  # rwkv-fla, say, has the same name
        return _("the package fla that is installed is not flash-linear-attention's")
    version = tuple(map(int, re.findall(r"\d+", found)[:2]))
    return "" if version >= OLDEST_FLA else _("fla-core {found} is older than 0.6", found=found)


# The fastest is expected first; the reference is the definition, not a candidate.
USABLE: dict[str, Callable[[Need], str]] = {
    "triton": _triton,
    "fla": _fla,
    "cuda": _cuda,
    "chunked": _anywhere,
    "reference": _anywhere,
}
