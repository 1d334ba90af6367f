"""Packages that only some settings need, and that may be broken where they are installed."""

from __future__ import annotations

import importlib
from typing import Any

from engine.contract.errors import UserError, first_line

WITHOUT = {
    "bitsandbytes": "set quant none", "peft": "set peft state, which needs no package",
    "wandb": "leave wandb empty",
}  # fmt: skip
"""How a run does without a package."""


def require(module: str, without: str = "") -> Any:
    """The module, imported. Raises `broken` when that fails, however it fails."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken installation may raise anything
        raise broken(module, error, without) from error


def broken(module: str, error: Exception, without: str = "") -> UserError:
    """The error that names a package which failed; `without`: how to do without it, if not as a run does."""
    package = module.partition(".")[0]
    return UserError(
        f"The package {package} does not work here ({type(error).__name__}: {first_line(error)}).",
        f"Install it anew with `pip install --force-reinstall {package}`, or {without or WITHOUT[package]}.",
    )
