"""The two programs stay apart: one paints at once, the other needs no screen."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "pytorch_lightning", "deepspeed", "bitsandbytes")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["app", "cli", "commands.demo", "commands.train", "screens.monitor", "services.launch"]
)
def test_the_terminal_program_never_loads_the_training_stack(module: str) -> None:
    assert not loaded_by(f"import rwkv_tui.{module}") & {*HEAVY, "engine.train"}


def test_the_app_paints_without_numpy() -> None:
    assert "numpy" not in loaded_by("import rwkv_tui.app")


def test_the_engine_never_loads_textual() -> None:
    code = "import engine.__main__, engine.train.run, engine.train.prepare, engine.train.callbacks"
    assert not loaded_by(code) & {"textual", "rwkv_tui"}


def test_importing_the_engine_loads_nothing() -> None:
    assert "torch" not in loaded_by("import engine, engine.contract.settings, engine.checkpoints.inspect")
