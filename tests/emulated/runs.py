"""Whole runs on a GPU, emulated or real, each beside the same on the CPU: prints what came of them, as JSON.

    python -m tests.emulated.runs emulated|real

A program of its own, because an emulated GPU must be there before torch is used.
"""

# ruff: noqa: E402

from __future__ import annotations

import contextlib
import sys

REAL = sys.argv[1:] == ["real"]
if not REAL:
    from tests.emulated.gpu import Stream, gpu

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bench import floor, step
from engine.chat.generate import generate
from engine.checkpoints.adapter import read_adapter
from engine.checkpoints.save import save_tensors
from engine.contract import events
from engine.contract.rundir import RunDir
from engine.contract.sizes import ModelSize
from engine.data.binidx import BinIdx, write_pair
from engine.data.dataset import PadDataset
from engine.models import load_model
from engine.models.base import HostEmbedding
from engine.models.init import init_model
from engine.train.evaluate import measure
from engine.train.infctx import backward_in_chunks
from engine.train.run import run_training
from tests.tuning.conftest import Trained, train_in

OP = "auto" if REAL else "chunked"
UNUSUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "world": ("x070", {"vocab_size": 65536}),
    "copying": ("x060", {"pre_ffn": True, "head_qk": 16}),
}
STATE = {"train_type": "state", "lr_init": 1.0, "lr_final": 0.1}
LORA = {"peft": "lora", "peft_config": {"r": 4, "lora_dropout": 0.1}}
FULL = {"train_type": "none", "lr_init": 3e-3, "lr_final": 1e-3}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "state, answers, held-out documents": (
        "world", {**STATE, "grad_cp": 1, "sample_len": 4, "val_split": 0.25, "sample_share": 1.0},
    ),
    "state, int8": ("x060", {**STATE, "quant": "int8"}),
    "state, nf4": ("x070", {**STATE, "quant": "nf4", "precision": "fp16", "grad_cp": 2}),
    "state, in chunks": ("x052", {**STATE, "peft": "state", "train_type": "infctx", "chunk_ctx": 8}),
    "lora and parts": ("x070", {**LORA, "train_parts": "emb,head,time,ln", "precision": "bf16"}),
    "dora, int8": ("x060", {"peft": "lora", "peft_config": {"r": 4, "use_dora": True}, "quant": "int8"}),
    "pissa, nf4": ("x070", {"peft": "pissa", "peft_config": {"r": 4}, "quant": "nf4", "precision": "bf16"}),
    "pissa": ("x052", {"peft": "pissa", "peft_config": {"r": 4}, "grad_cp": 2}),
    "miss, in chunks": (
        "x060",
        {"peft": "miss", "peft_config": {"r": 8}, "train_type": "infctx", "chunk_ctx": 8, "grad_cp": 2},
    ),
    "full, accumulated": ("x070", {**FULL, "precision": "bf16", "accumulate_grad_batches": 2}),
    "full, fp16, windows": ("x070", {**FULL, "precision": "fp16", "grad_cp": 1, "dataload": "get"}),
    "full, in chunks, a copying head": (
        "copying", {**FULL, "train_type": "infctx", "chunk_ctx": 8, "grad_cp": 2},
    ),
}  # fmt: skip


def main() -> None:
    """What each case found."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        here = Place(Path(folder))
        found = {name: here.compare(name) for name in RUNS}
        found |= {case.__name__: case(here) for case in CASES}
    print(json.dumps(found))


class Place:
    """A folder with data, models and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "count"
        with write_pair(self.data) as writer:
            for start in range(8):
                writer.add(np.arange(1 + 4 * start, 21 + 4 * start, dtype="<u2").tobytes())

    def base(self, version: str) -> Path:
        """A model of two layers whose every part matters. "world" has the tokenizer's vocabulary, "copying"
        what only random weights have."""
        path = self.folder / f"{version}.pth"
        if not path.exists():
            kind, more = UNUSUAL.get(version, (version, {}))
            tensors = init_model(kind, 2, 64, seed=1, head_size=16, **{"vocab_size": 256, **more})
            generator = torch.Generator().manual_seed(2)
            noisy = {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
            save_tensors(noisy, path)
        return path

    def train(self, name: str, where: str) -> Trained:
        version, settings = RUNS[name]
        folder = self.folder / f"{name} {where}"
        with machine(where):
            done = train_in(
                folder, self.base(version), self.data,
                **{"epoch_steps": 2, "eval_docs": 4, "op": OP, **settings, "accelerator": where},
            )  # fmt: skip
        assert isinstance(done, Trained), f"{name}: {done.reason} {done.detail}"
        return done

    def compare(self, name: str) -> dict[str, Any]:
        """How far what the two have trained is apart, and their losses."""
        here, there = self.train(name, "cpu"), self.train(name, "gpu")
        losses = [(done.end.loss_before, done.end.loss_after) for done in (here, there)]
        return {"apart": apart(trained(there), trained(here)), "losses": losses}


def machine(where: str) -> contextlib.AbstractContextManager[None]:
    return gpu() if where == "gpu" and not REAL else contextlib.nullcontext()


def trained(done: Trained) -> dict[str, Tensor]:
    """What a run has saved."""
    if not done.pth.exists():
        return read_adapter(done.folder).tensors
    saved: dict[str, Tensor] = torch.load(done.pth, weights_only=True)
    return saved


def apart(found: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest relative difference of two tensors of a name."""
    pairs = ((found[name].float(), t.float()) for name, t in right.items())
    return max(float((f - r).norm() / r.norm()) for f, r in pairs)


def resumed(place: Place) -> dict[str, Any]:
    """A run that ends after an epoch, and goes on for another one."""
    ends: list[dict[str, Tensor]] = []
    for where in ("cpu", "gpu"):
        run = RunDir(place.folder / f"full, accumulated {where}")
        run.settings.write_text(run.settings.read_text().replace("epoch_count: 1", "epoch_count: 2"))
        with machine(where):
            assert run_training(run) == 0
        ends.append(torch.load(run.checkpoint(1), weights_only=True))
        read = map(events.parse_event, run.events.read_bytes().splitlines())
        assert [event.step for event in read if isinstance(event, events.Resumed)] == [2]
    return {"apart": apart(*ends)}


def used(place: Place) -> dict[str, Any]:
    """Loss and answer of a model with an adapter and packed weights, whose embedding is the host's or not."""
    adapter = place.folder / "lora and parts cpu" / "rwkv-0"
    found: dict[str, Any] = {"losses": [], "answers": [], "emb": []}
    for where, host_emb in (("cpu", False), ("gpu", False), ("gpu", True)):
        device = "cuda" if where == "gpu" else "cpu"
        with machine(where):
            model = load_model(
                place.base("x070"), op=OP, device=device, quant="int8", adapter=adapter,
                host_emb=host_emb,
            )  # fmt: skip
            data = PadDataset(BinIdx(place.data), 20, "none")
            found["losses"].append(measure(model, data, device=device).loss)
            found["answers"].append(list(generate(model, [33, 34], length=5, top_p=0.5)))
            found["emb"].append(type(model.emb) is HostEmbedding and model.emb.weight.device.type == "cpu")
    return found


def benchmark(place: Place) -> dict[str, Any]:
    """One combination of bench.step."""
    tiny = {"cpu": (1 << 10, 16), "cuda": (1 << 10, 16)}
    args = {
        "size": "tiny", "version": "x070", "method": "state", "quant": "nf4", "dtype": "bf16", "ctx": 16,
        "batch": 2, "grad_cp": 1, "op": "chunked", "parts": "auto", "rounds": 1, "threads": 0,
        "profile": False,
        "device": "cuda",
    }  # fmt: skip
    sizes = mock.patch.object(step, "SIZES", (ModelSize("tiny", 2, 64, {}),))
    with machine("gpu"), sizes, mock.patch.object(floor, "SIZES", tiny):
        return {"seconds": step.measure(args)["seconds"]}


def refused(place: Place) -> dict[str, bool]:
    """What a real GPU refuses."""

    def raises(wrong: Callable[[], object]) -> bool:
        try:
            wrong()
        except (RuntimeError, TypeError):
            return True
        return False

    with machine("gpu"):
        here, there, number = torch.ones(2), torch.ones(2, device="cuda"), torch.tensor(1.0)
        weight = torch.ones(2, requires_grad=True)
        return {
            "a sum": raises(lambda: here + there),
            "a table's rows": raises(lambda: torch.nn.functional.embedding(there.long(), here[:, None])),
            "a number that grows": raises(lambda: number.add_(there[0])),
            "an index": raises(lambda: here[there.long()]),
            "a generator": raises(lambda: torch.randn(2, device="cuda", generator=torch.Generator())),
            "numpy": raises(there.numpy),
            "a gradient": raises(lambda: setattr(weight, "grad", there)),
            "and not a number of the host": not raises(lambda: there * number),
            "nor a copy": not raises(lambda: here.copy_(there.to("cpu"))),
        }


def waiting(place: Place) -> dict[str, Any]:
    """Gradients of all that learns where blocks keep what they need, where they are recomputed, and where
    inputs wait in the host's memory; and whether it is found out if a stream does not wait for the other."""

    def gradients(level: int, version: str = "x070", **more: Any) -> dict[str, Tensor]:
        with machine("gpu"):
            model = load_model(place.base(version), op=OP, device="cuda", **more).train()
            model.grad_cp = level
            tokens = torch.arange(40, device="cuda").view(2, 20)
            torch.manual_seed(3)  # the adapter drops some
            for chunk_ctx in (20, 8):
                backward_in_chunks(model, tokens, tokens, chunk_ctx, Tensor.backward)
            return {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}

    def found_out(*waits: str) -> bool:
        with contextlib.ExitStack() as stack:
            for name in waits:
                stack.enter_context(mock.patch.object(Stream, name, lambda self, other: None))
            try:
                return not all(gradient.isfinite().all() for gradient in gradients(2).values())
            except RuntimeError:
                return True

    adapter = place.folder / "lora and parts cpu" / "rwkv-0"
    differences = []
    models: list[dict[str, Any]] = [{"version": v} for v in ("x052", "x060", "x070", "copying")]
    for model in [*models, {"adapter": adapter, "quant": "nf4"}]:
        right = {name: t for name, t in gradients(0, **model).items() if t.any()}
        differences += [apart(gradients(level, **model), right) for level in (1, 2)]
    races = [True] if REAL else [found_out("wait_event"), found_out("wait_stream"), not found_out()]
    return {"apart": differences, "races": races}


CASES = (resumed, used, benchmark, refused, waiting)

if __name__ == "__main__":
    main()
