"""An embedding that stays in the host's memory while the model is on a GPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from engine.contract.memory import host_emb
from engine.contract.settings import TrainSettings
from engine.models import load_model
from engine.models.base import HostEmbedding
from engine.train.loss import training_loss
from engine.tuning.state import StateTuning


def test_it_is_where_it_was_whatever_the_model_is_moved_to(tiny_model: Path) -> None:
    right = load_model(tiny_model).emb.weight
    model = load_model(tiny_model, device="meta", host_emb=True).to("meta", torch.float64)
    assert model.device.type == "meta"
    assert model.head.weight.dtype == torch.float64
    assert type(model.emb) is HostEmbedding
    assert torch.equal(model.emb.weight.float(), right)


def test_it_computes_the_same(tiny_model: Path) -> None:
    tokens = torch.arange(1, 31).view(2, 15)
    found = []
    for host in (False, True):
        model = load_model(tiny_model).train()
        StateTuning().attach(model)
        if host:
            model.emb = HostEmbedding(model.vocab_size, model.n_embd, _weight=model.emb.weight.detach())
            model.emb.requires_grad_(False)
        loss = training_loss(model, tokens, tokens + 1)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), *(att.time_state.grad for att in model.time_mixers())])  # type: ignore[union-attr]
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_only_one_that_does_not_learn_is_kept_there(tiny_model: Path) -> None:
    def kept(**settings: object) -> bool:
        return host_emb(TrainSettings.model_validate(settings))

    assert kept() and kept(peft="lora", train_parts="ln,head")
    assert not kept(peft="lora", train_parts="ln,emb")
    assert not kept(peft="none", train_type="none")
    assert not kept(strategy="deepspeed_stage_1")
    assert type(load_model(tiny_model, host_emb=True).emb) is nn.Embedding  # on a CPU all is the host's
