"""Importing packages: the large ones quickly, and those that only some settings need, that may be broken."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from engine.contract.errors import UserError, first_line
from engine.contract.i18n import N_, _

WITHOUT = {
    "bitsandbytes": N_("set quant none"), "peft": N_("set peft state, which needs no package"),
    "wandb": N_("leave wandb empty"),
}  # fmt: skip
"""How a run does without a package."""


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For large packages. What they make stays, and looking for garbage in it again and again takes a quarter
    of the time in which a run starts."""
    collects, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if collects:
            gc.enable()


def require(module: str, without: str = "") -> Any:
    """The module, imported. Raises `broken` when that fails, however it fails."""
    try:
        with importing():
            return importlib.import_module(module)
    except Exception as error:  # a broken installation may raise anything
        raise broken(module, error, without) from error


def broken(module: str, error: Exception, without: str = "") -> UserError:
    """The error that names a package which failed; `without`: how to do without it, if not as a run does."""
    package = module.partition(".")[0]
    return UserError(
        _(
            "The package {package} does not work here ({name}: {error}).",
            package=package,
            name=type(error).__name__,
            error=first_line(error),
        ),
        _(
            "Install it anew with `pip install --force-reinstall {package}`, or {without}.",
            package=package,
            without=without or _(WITHOUT[package]),
        ),
    )
