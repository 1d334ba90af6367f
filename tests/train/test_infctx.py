"""Long contexts in chunks: the same loss, flat memory, nothing broken by a chunk without a target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.contract import events
from engine.contract.check import check_values
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.data.dataset import IGNORED
from engine.models import load_model
from engine.models.base import RWKV
from engine.train.infctx import backward_in_chunks
from engine.train.loss import training_loss
from engine.train.run import run_training
from engine.tuning.base import trainable
from engine.tuning.full import FullTuning
from engine.tuning.state import StateTuning


@pytest.fixture
def model(tiny_model: Path) -> RWKV:
    return load_model(tiny_model).train()


def batch(length: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 65536, (2, length), generator=generator)
    targets = torch.randint(0, 65536, (2, length), generator=generator)
    targets[0, : length // 3] = IGNORED
    return tokens, targets


def gradients(model: RWKV) -> list[Tensor]:
    found = [p.grad.clone() for p in trainable(model) if p.grad is not None]
    model.zero_grad()
    return found


def in_chunks(model: RWKV, tokens: Tensor, targets: Tensor, chunk_ctx: int) -> tuple[Tensor, list[Tensor]]:
    loss = backward_in_chunks(model, tokens, targets, chunk_ctx, lambda part: part.backward())  # type: ignore[no-untyped-call]
    return loss, gradients(model)


@pytest.mark.parametrize("method", ["state", "full"])
@pytest.mark.parametrize("chunk_ctx", [24, 1000])
def test_one_chunk_is_the_ordinary_step_exactly(method: str, chunk_ctx: int, model: RWKV) -> None:
    {"state": StateTuning, "full": FullTuning}[method]().attach(model)
    tokens, targets = batch()
    whole = training_loss(model, tokens, targets)
    whole.backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    loss, found = in_chunks(model, tokens, targets, chunk_ctx)
    assert torch.equal(loss, whole.detach())
    assert len(found) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("chunk_ctx", [1, 5, 8, 23])
def test_chunks_carry_the_state_on(chunk_ctx: int, model: RWKV) -> None:
    """The loss of all chunks is that of the whole sequence: every chunk saw what came before."""
    FullTuning().attach(model)
    tokens, targets = batch()
    loss, _ = in_chunks(model, tokens, targets, chunk_ctx)
    assert float(loss) == pytest.approx(float(training_loss(model, tokens, targets).detach()), abs=1e-5)


def test_the_state_learns_from_the_first_chunk(model: RWKV) -> None:
    StateTuning().attach(model)
    tokens, targets = batch()
    _, found = in_chunks(model, tokens, targets, 8)
    first = targets.clone()
    first[:, 8:] = IGNORED
    share = int((first != IGNORED).sum()) / int((targets != IGNORED).sum())
    (training_loss(model, tokens[:, :8], first[:, :8]) * share).backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    assert len(found) == len(expected) == 2 and all(g.abs().max() > 0 for g in found)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("masked", [(0, 8), (8, 16), (16, 24), (0, 24)])
def test_a_chunk_without_a_target_is_harmless(masked: tuple[int, int], model: RWKV) -> None:
    FullTuning().attach(model)
    tokens, targets = batch()
    targets[:, masked[0] : masked[1]] = IGNORED
    loss, found = in_chunks(model, tokens, targets, 8)
    assert float(loss) == pytest.approx(float(training_loss(model, tokens, targets).detach()), abs=1e-5)
    assert all(bool(g.isfinite().all()) for g in found)


MEASURE = """
import json, sys, torch
from engine.models.init import init_model
from engine.models.v7 import RWKV7
from engine.ops.wkv7.chunked import wkv7_chunked
from engine.train.infctx import backward_in_chunks

def kilobytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

length, chunk, steps = map(int, sys.argv[1:])
model = RWKV7(init_model("x070", n_layer=2, n_embd=128, vocab_size=256, seed=1), wkv7_chunked).train()
tokens = torch.randint(0, 256, (1, length + 1))
before = kilobytes("VmRSS")
for _ in range(steps):
    backward_in_chunks(model, tokens[:, :-1], tokens[:, 1:], chunk, lambda part: part.backward())
print(json.dumps(kilobytes("VmHWM") - before))
"""


def test_memory_stays_flat() -> None:
    def added(length: int, chunk: int, steps: int) -> int:
        """Kilobytes that a step takes at its peak, above what the loaded model took."""
        command = [sys.executable, "-c", MEASURE, str(length), str(chunk), str(steps)]
        # Without it glibc keeps freed tensors for later and the process looks larger than what it holds.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout))

    once, eight, whole = added(256, 256, 2), added(8 * 256, 256, 2), added(8 * 256, 8 * 256, 1)
    print(
        f"a step's peak: {once} kB at one chunk, {eight} kB at eight, {whole} kB in one piece of that length"
    )
    assert eight < 1.15 * once
    assert whole > 4 * once


def run_with(folder: Path, model: Path, data: Path, **more: Any) -> tuple[RunDir, list[events.Event]]:
    run = RunDir(folder)
    run.claim(folder.name)
    values: dict[str, Any] = {
        "load_model": model, "data_file": data, "proj_dir": folder, "ctx_len": 32, "micro_bsz": 4,
        "epoch_steps": 10, "epoch_count": 2, "precision": "fp32", "accelerator": "cpu", "grad_cp": 0,
        "sample_len": 0, **more,
    }  # fmt: skip
    assert not check_values(values).problems
    run.settings.write_text(render_yaml(TrainSettings(**values), "run"))
    assert run_training(run) == 0, run.events.read_text()[-2000:]
    return run, [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


@pytest.mark.parametrize(
    "flags",
    [
        {"train_type": "infctx", "lr_init": 1e-3, "lr_final": 1e-4},
        {"train_type": "infctx", "peft": "state", "accumulate_grad_batches": 2},
        {"precision": "bf16", "grad_cp": 1},
        {"precision": "tf32"},
    ],
    ids=["infctx-full", "infctx-state", "bf16", "tf32"],
)
def test_the_loss_falls(flags: dict[str, Any], tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    chunk = {"chunk_ctx": 8} if "train_type" in flags else {}
    _, told = run_with(tmp_path / "run", tiny_model, tiny_data, **flags, **chunk)
    end = told[-1]
    assert isinstance(end, events.Finished) and end.loss_before and end.loss_after
    assert end.loss_after < end.loss_before - 0.1


def test_one_chunk_trains_the_same_file(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"epoch_steps": 3, "epoch_count": 1, "eval_docs": 0}
    plain, _ = run_with(tmp_path / "plain", tiny_model, tiny_data, **few)
    one, _ = run_with(
        tmp_path / "one", tiny_model, tiny_data, **few, train_type="infctx", peft="state", chunk_ctx=32
    )
    several, _ = run_with(
        tmp_path / "several", tiny_model, tiny_data, **few, train_type="infctx", peft="state", chunk_ctx=8
    )
    a, b, c = (torch.load(run.checkpoint(0), weights_only=True) for run in (plain, one, several))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_accumulating_averages_the_batches(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Two accumulated steps move the parameters as one step does on the mean of both losses."""
    few: dict[str, Any] = {
        "epoch_steps": 2, "epoch_count": 1, "eval_docs": 0, "warmup_steps": 0, "lr_schedule": "constant",
        "grad_clip": 0, "micro_bsz": 2,
    }  # fmt: skip
    run, _ = run_with(tmp_path / "run", tiny_model, tiny_data, accumulate_grad_batches=2, **few)
    from engine.data.binidx import BinIdx
    from engine.data.dataset import EpochSampler, PadDataset
    from engine.train.optim import make_optimizer

    model, tuning, settings = load_model(tiny_model).train(), StateTuning(), run.read_settings()
    tuning.attach(model)
    data = BinIdx(tiny_data)
    documents, dataset = list(EpochSampler(len(data), 2, 2, 0)), PadDataset(data, 32, "pad")
    batches = [dataset.__getitems__(documents[k : k + 2]) for k in (0, 2)]
    (sum(training_loss(model, *one) for one in batches) / 2).backward()  # type: ignore[union-attr]
    make_optimizer(model, tuning, settings).step()
    torch.testing.assert_close(tuning.tensors(model), torch.load(run.checkpoint(0), weights_only=True))


def test_chunk_ctx_without_infctx_is_refused() -> None:
    problems = check_values({"chunk_ctx": 64}, files=False).by_field()
    assert "infctx" in problems["chunk_ctx"]
    assert not check_values({"chunk_ctx": 64, "train_type": "infctx", "precision": "fp32",
                             "lr_init": 1e-4, "lr_final": 1e-5}, files=False).problems  # fmt: skip
