"""The two programs stay apart: one paints at once, the other needs no screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings

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


def test_a_state_run_loads_only_what_it_uses(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = {
        "load_model": tiny_model, "data_file": tiny_data, "proj_dir": tmp_path, "ctx_len": 16,
        "epoch_steps": 2, "epoch_count": 1, "eval_docs": 2, "sample_len": 2, "precision": "fp32",
        "accelerator": "cpu",
    }  # fmt: skip
    run = RunDir(tmp_path)
    run.settings.write_text(render_yaml(TrainSettings(**settings), "run"))
    loaded = loaded_by(f"from engine.__main__ import main; assert main(['train', {str(tmp_path)!r}]) == 0")
    unused = {"transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "wandb", "pandas", "scipy"}
    assert "pytorch_lightning" in loaded and not loaded & unused
    # the metrics it hides them from work when somebody else asks for them
    code = "from engine.train.lightning import pl; import transformers; transformers.AutoModel.from_config"
    loaded_by(code)
