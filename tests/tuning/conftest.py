"""Small models and data of small vocabulary, and runs within the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from engine.checkpoints.save import save_tensors
from engine.contract import events
from engine.contract.rundir import RunDir
from engine.data.binidx import write_pair
from engine.models.init import init_model
from engine.train.run import run_training

VERSIONS = ["x052", "x060", "x070"]
VOCAB = 256
TOKENS = torch.arange(3, 39).view(2, 18)


@pytest.fixture(scope="session", params=VERSIONS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-layer model whose every part matters, in fp32."""
    tensors = init_model(request.param, n_layer=2, n_embd=64, vocab_size=VOCAB, seed=1, head_size=16)
    generator = torch.Generator().manual_seed(2)
    noisy = {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
    path = tmp_path_factory.mktemp("base") / f"{request.param}.pth"
    save_tensors(noisy, path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight documents that count, each from another number."""
    prefix = tmp_path_factory.mktemp("data") / "count"
    with write_pair(prefix) as writer:
        for start in range(8):
            writer.add(np.arange(1 + 4 * start, 21 + 4 * start, dtype="<u2").tobytes())
    return prefix


@dataclass(frozen=True)
class Trained:
    """What a run left behind."""

    run: RunDir
    end: events.Finished

    def events(self) -> list[events.Event]:
        return [e for line in self.run.events.read_bytes().splitlines() if (e := events.parse_event(line))]

    @property
    def pth(self) -> Path:
        return self.run.checkpoint(0)

    @property
    def folder(self) -> Path:
        return self.run.path / "rwkv-0"


Train = Callable[..., Trained]


def train_in(folder: Path, base: Path, data: Path, **settings: Any) -> Trained | events.Failed:
    """Trains in this process, as `python -m engine train` does in its own."""
    values = {
        "load_model": str(base), "data_file": str(data), "proj_dir": str(folder), "ctx_len": 20,
        "micro_bsz": 4, "precision": "fp32", "accelerator": "cpu", "grad_cp": 0, "sample_len": 0,
        "eval_docs": 8, "epoch_count": 1, "epoch_steps": 10, "lr_init": 1e-2, "lr_final": 1e-2,
        "warmup_steps": 0,
    } | settings  # fmt: skip
    folder.mkdir()
    run = RunDir(folder)
    run.settings.write_text(yaml.safe_dump(values))
    run_training(run)
    end = events.parse_event(run.events.read_bytes().splitlines()[-1])
    if isinstance(end, events.Finished):
        return Trained(run, end)
    assert isinstance(end, events.Failed), end
    return end


@pytest.fixture
def train(tmp_path: Path, base: Path, data: Path) -> Train:
    """`train(name, **settings)` trains the base and demands that it went well."""

    def go(name: str = "run", **settings: Any) -> Trained:
        done = train_in(tmp_path / name, base, data, **settings)
        assert isinstance(done, Trained), done
        return done

    return go


@pytest.fixture
def refused(tmp_path: Path, base: Path, data: Path) -> Callable[..., str]:
    """`refused(**settings)` is what a run that must fail says."""

    def go(**settings: Any) -> str:
        done = train_in(tmp_path / "refused", base, data, **settings)
        assert isinstance(done, events.Failed), done
        return f"{done.reason} {done.remedy}"

    return go
