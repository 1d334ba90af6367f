"""Training in fp16: the loss is scaled, overflowed steps are skipped and told, what is trained is fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract import events
from engine.models import load_model
from engine.train import module
from engine.train.loss import training_loss
from engine.tuning.full import FullTuning
from engine.tuning.parts import names
from tests.tuning.conftest import Train

METHODS: dict[str, dict[str, Any]] = {
    "state": {"peft": "state", "lr_init": 1.0, "lr_final": 0.1, "quant": "int8"},
    "lora": {"peft": "lora", "peft_config": {"r": 4}, "train_parts": "head,ln", "quant": "nf4"},
    "full": {"train_type": "none", "lr_init": 3e-3, "lr_final": 1e-3},
    "infctx": {"train_type": "infctx", "chunk_ctx": 8, "lr_init": 3e-3, "lr_final": 1e-3,
               "accumulate_grad_batches": 2, "grad_cp": 1},
}  # fmt: skip


def told(done: Any) -> list[str]:
    return [e.text for e in done.events() if isinstance(e, events.Log) and "overflowed" in e.text]


def scaler_from(scale: float, **options: Any) -> Callable[..., torch.amp.GradScaler]:
    return lambda model, settings: torch.amp.GradScaler("cpu", init_scale=scale, **options)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(method: str, train: Train) -> None:
    done = train(**METHODS[method], precision="fp16")
    before, after = done.end.loss_before, done.end.loss_after
    assert before is not None and after is not None and after < before - 0.2
    saved = torch.load(done.pth, weights_only=True)
    kept = {"full": {torch.float16}, "infctx": {torch.float16}, "lora": {torch.float16, torch.float32}}
    assert {t.dtype for t in saved.values()} == kept.get(method, {torch.float32})
    points = sorted(done.run.path.glob("resume-*.pt"))
    document = torch.load(points[-1], weights_only=True)
    assert {t.dtype for t in document["parameters"].values()} == {torch.float32}
    assert document["scaler"]["scale"] >= 1


def test_scaled_gradients_are_closer_than_those_of_bf16(base: Path) -> None:
    """Of a loss so small that its gradients vanish in fp16 when they are not scaled."""
    tokens = torch.arange(3, 63).view(2, 30)

    def gradients(dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        model = load_model(base, dtype=dtype).train()
        FullTuning().attach(model)
        (training_loss(model, tokens, tokens + 1) * 1e-5 * scale).backward()  # type: ignore[no-untyped-call]
        found = sorted((name, p.grad) for name, p in names(model).items() if p.grad is not None)
        return torch.cat([g.flatten() / scale for _, g in found])

    right = gradients(torch.float32)
    kinds = ((torch.bfloat16, 1.0), (torch.float16, 65536.0), (torch.float16, 1.0))
    bf16, scaled, unscaled = ((gradients(*kind) - right).norm() / right.norm() for kind in kinds)
    assert scaled < 0.5 * bf16 and scaled < 0.1
    assert unscaled > 4 * scaled


def test_an_overflowed_step_is_skipped_and_told(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a scale of 2^40 nothing fits fp16: each step halves the scale and leaves the state as it is."""
    monkeypatch.setattr(module, "make_scaler", scaler_from(2.0**40))
    done = train(precision="fp16", epoch_steps=3)
    assert len(told(done)) == 3 and "step 1" in told(done)[0] and f"{2.0**39:g}" in told(done)[0]
    assert done.end.loss_after == done.end.loss_before
    state = torch.load(done.pth, weights_only=True)
    assert not any(t.any() for t in state.values())


def test_gradients_beyond_any_scale_end_the_run(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "make_scaler", scaler_from(2.0**40, backoff_factor=2.0**-41))
    said = refused(precision="fp16", epoch_steps=3)
    assert "beyond fp16 at step 1" in said and "bf16" in said


def test_one_chunk_is_the_ordinary_step(train: Train) -> None:
    few: dict[str, Any] = {"precision": "fp16", "epoch_steps": 3, "peft": "state"}
    plain, one = train("plain", **few), train("one", **few, train_type="infctx", chunk_ctx=20)
    a, b = (torch.load(done.pth, weights_only=True) for done in (plain, one))
    assert all(torch.equal(a[name], b[name]) for name in a)
