"""Several processes train as one, for real: gloo on the CPU, Lightning and DeepSpeed as they are."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.models import load_model
from engine.ops import choice
from engine.ops.choice import choose
from engine.ops.parts import TORCH, Parts
from engine.train import prepare
from engine.train.group import Group
from engine.train.prepare import load
from engine.train.run import run_training
from engine.train.stop import StopRequest
from engine.train.strategy import spread_for
from tests.train.several.conftest import (
    FULL,
    LORA,
    SOAK,
    STEPS,
    Making,
    children,
    forge,
    of,
    read,
    same,
    start,
    steps,
    train,
    wait_for,
)
from tests.train.test_run import CALL, told

INFCTX: dict[str, Any] = {**FULL, "train_type": "infctx", "chunk_ctx": 7}
MATRIX = [
    pytest.param("ddp", {}, id="ddp"),
    pytest.param("deepspeed_stage_1", LORA, id="stage 1 lora"),
    pytest.param("auto", INFCTX, id="ddp infctx", marks=SOAK),
    pytest.param("deepspeed_stage_1", {**LORA, "quant": "nf4"}, id="stage 1 nf4", marks=SOAK),
    pytest.param("deepspeed_stage_1", FULL, id="stage 1 full", marks=SOAK),
    pytest.param("deepspeed_stage_2", FULL, id="stage 2 full", marks=SOAK),
    pytest.param("deepspeed_stage_2", INFCTX, id="stage 2 infctx", marks=SOAK),
    pytest.param("deepspeed_stage_2_offload", LORA, id="stage 2 offload", marks=SOAK),
    pytest.param("deepspeed_stage_3", {**LORA, "grad_cp": 1}, id="stage 3 grad_cp", marks=SOAK),
    pytest.param("deepspeed_stage_3", INFCTX, id="stage 3 infctx", marks=SOAK),
    pytest.param("deepspeed_stage_3_offload", FULL, id="stage 3 offload", marks=SOAK),
]


@pytest.mark.parametrize(("strategy", "more"), MATRIX)
def test_processes_train_as_one(
    strategy: str, more: dict[str, Any], make: Making, alone: Callable[..., RunDir]
) -> None:
    run = make(strategy=strategy, devices=2, **more)
    assert train(run) == 0, run.log.read_text()[-3000:]
    same(run, alone(**more))


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        pytest.param("deepspeed_stage_3", LORA, id="stage 3 lora"),
        pytest.param("deepspeed_stage_1", LORA, id="stage 1 lora", marks=SOAK),
        pytest.param("deepspeed_stage_2", {}, id="stage 2", marks=SOAK),
        pytest.param("deepspeed_stage_3_offload", FULL, id="stage 3 offload", marks=SOAK),
    ],
)
def test_a_stop_is_agreed_on_and_a_resumed_run_is_exact(
    strategy: str, more: dict[str, Any], make: Making, alone: Callable[..., RunDir]
) -> None:
    """Saved where the optimizer steps, for DeepSpeed keeps unfinished gradients to itself."""
    run = make(strategy=strategy, devices=2, save_minutes=0, **more)
    process = forge(run)
    wait_for(lambda: bool(of(events.Step, run)), process, run)
    process.terminate()
    assert process.wait(timeout=60) == 130, run.log.read_text()[-3000:]
    end = read(run)[-1]
    assert isinstance(end, events.Finished) and end.status == "stopped" and end.step % 4 in (0, 3)
    assert of(events.Checkpoint, run)[-1].step == end.step == max(steps(run))
    assert train(run) == 0, run.log.read_text()[-3000:]
    (resumed,) = of(events.Resumed, run)
    assert resumed.step == end.step
    same(run, alone(**more))
    base = run.read_settings().load_model
    assert base is not None
    given = {"state": run.checkpoint(1)} if not more else {"adapter": run.checkpoint(1)}
    model = load_model(run.checkpoint(1)) if more is FULL else load_model(base, **given)  # type: ignore[arg-type]
    assert model(torch.tensor([[1, 2]])).shape == (1, 2, 65536)


def test_the_death_of_one_ends_the_run_and_names_it(make: Making, alone: Callable[..., RunDir]) -> None:
    """Killed once steps have been saved; the run goes on from there to where it would have come."""
    run = make(devices=2, save_minutes=1e-9)
    process = start(run, f"--on_finish={CALL}")
    wait_for(lambda: len(of(events.Step, run)) >= 2, process, run)
    ranks = [Process.of(pid) for pid in children(process.pid)]
    assert len(ranks) == 2 and {os.getsid(r.pid) for r in ranks} == {process.pid}
    os.kill(ranks[1].pid, signal.SIGKILL)
    began = time.monotonic()
    assert process.wait(timeout=30) == 1
    print(f"the run ended {time.monotonic() - began:.1f} s after its rank")
    end = read(run)[-1]
    assert isinstance(end, events.Failed) and "rank 1" in end.reason and "SIGKILL" in end.reason
    assert str(ranks[1].pid) in end.reason and "resume" in end.remedy
    assert not any(rank.alive() for rank in ranks)
    assert told(run) == f"failed {of(events.Step, run)[-1].loss_smooth:.6g}"
    assert train(run) == 0, run.log.read_text()[-3000:]
    assert of(events.Resumed, run)[0].step >= 1
    same(run, alone())


def test_an_error_of_one_is_told_with_its_traceback(make: Making) -> None:
    run = make(devices=2)
    (run.path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'rank' in sys.argv and sys.argv[sys.argv.index('rank') + 2] == '1':\n"
        "    import engine.train.module as broken\n"
        "    broken.backward_in_chunks = lambda *batch: 1 / 0\n"
    )
    assert train(run, PYTHONPATH=str(run.path)) == 1
    end = read(run)[-1]
    assert isinstance(end, events.Failed)
    assert "rank 1" in end.reason and "ZeroDivisionError" in end.reason and "1 / 0" in end.detail
    assert "[rank 1] ZeroDivisionError" in run.log.read_text()


@pytest.mark.parametrize(
    "strategy",
    [
        "deepspeed_stage_1",
        pytest.param("ddp", marks=SOAK),
        pytest.param("deepspeed_stage_2", marks=SOAK),
        pytest.param("deepspeed_stage_2_offload", marks=SOAK),
        pytest.param("deepspeed_stage_3", marks=SOAK),
        pytest.param("deepspeed_stage_3_offload", marks=SOAK),
    ],
)
def test_gradients_that_are_no_numbers_move_nothing(strategy: str, make: Making) -> None:
    """In one process and the first epoch; the second is as it should be."""
    run = make(devices=2, strategy=strategy)
    (run.path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'rank' in sys.argv and sys.argv[sys.argv.index('rank') + 2] == '1':\n"
        "    import engine.train.module as module\n"
        "    right, steps = module.backward_in_chunks, []\n"
        "    def wrong(model, tokens, targets, chunk_ctx, backward, *rest):\n"
        "        steps.append(1)\n"
        f"        factor = float('nan') if len(steps) <= {STEPS // 2} else 1.0\n"
        "        bad = lambda loss: backward(loss * factor)\n"
        "        return right(model, tokens, targets, chunk_ctx, bad, *rest)\n"
        "    module.backward_in_chunks = wrong\n"
    )
    assert train(run, PYTHONPATH=str(run.path)) == 0, run.log.read_text()[-3000:]
    first, second = (torch.load(run.checkpoint(epoch), weights_only=True) for epoch in (0, 1))
    assert all(not t.any() for t in first.values())  # a state begins with zeros
    assert all(t.isfinite().all() and t.any() for t in second.values())
    assert all(step.loss is not None for step in steps(run).values())


EARLY: dict[str, Any] = {
    "early_stop": 1, "lr_init": 5.0, "lr_final": 5.0, "warmup_steps": 0,
    "peft": "miss", "peft_config": {"r": 4},
}  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        pytest.param("ddp", EARLY, id="ddp", marks=SOAK),
        pytest.param("deepspeed_stage_3", EARLY, id="stage 3", marks=SOAK),
        pytest.param("deepspeed_stage_1", {**EARLY, "quant": "int8"}, id="stage 1 int8", marks=SOAK),
    ],
)  # fmt: skip
def test_processes_stop_early_as_one(
    strategy: str, more: dict[str, Any], make: Making, alone: Callable[..., RunDir]
) -> None:
    """At a rate that soon makes it worse, and rounding matter: only the first epochs are those of one."""
    more = {**more, "epoch_count": 6, "epoch_save": 0}
    run = make(strategy=strategy, devices=2, **more)
    assert train(run) == 0, run.log.read_text()[-3000:]
    found, wanted = ([e.loss for e in of(events.Validated, r)] for r in (run, alone(**more)))
    assert found[:2] == pytest.approx(wanted[:2], rel=1e-3) and 1 < len(found) < 6
    assert found[:-1] == sorted(found[:-1], reverse=True) and found[-1] >= found[-2]
    assert sum("early_stop" in e.text for e in of(events.Log, run)) == 1
    end = read(run)[-1]
    assert isinstance(end, events.Finished) and end.status == "finished"
    assert end.step == len(found) * STEPS // 2


@pytest.mark.parametrize(
    "strategy",
    [
        "deepspeed_stage_2",
        pytest.param("deepspeed_stage_1", marks=SOAK),
        pytest.param("deepspeed_stage_2_offload", marks=SOAK),
        pytest.param("deepspeed_stage_3", marks=SOAK),
    ],
)
def test_fp16_scales_the_loss_with_deepspeed_as_without(strategy: str, make: Making) -> None:
    """From a scale that is too large, so that steps overflow and move nothing. DeepSpeed averages where one
    process adds up: the parts of two are twice as large."""

    def trained(scale: int, **more: Any) -> RunDir:
        run = make(precision="fp16", accumulate_grad_batches=1, **more)
        (run.path / "sitecustomize.py").write_text(
            "import torch, engine.train.module as module\n"
            f"right = torch.amp.GradScaler('cpu', init_scale=2.0 ** {scale})\n"
            "module.make_scaler = lambda model, settings: right\n"
        )
        assert train(run, PYTHONPATH=str(run.path)) == 0, run.log.read_text()[-3000:]
        return run

    run, single = trained(23, strategy=strategy, devices=2), trained(24, micro_bsz=4)
    said, expected = (
        [e.text.partition(":")[0] for e in of(events.Log, r) if "overflowed" in e.text] for r in (run, single)
    )
    assert said == expected and 0 < len(said) < STEPS
    for step, one in steps(single).items():  # what fp16 rounds differs with the order of sums
        assert steps(run)[step].loss == pytest.approx(one.loss, abs=0.03)
        assert steps(run)[step].grad_norm == pytest.approx(one.grad_norm, rel=0.02)


@pytest.mark.soak
def test_stage_3_trains_all_weights_in_bf16(make: Making, alone: Callable[..., RunDir]) -> None:
    """What bf16 rounds differs with the order of sums, so the losses are near and not the same."""
    more = {**FULL, "precision": "bf16"}
    run = make(strategy="deepspeed_stage_3", devices=2, **more)
    assert train(run) == 0, run.log.read_text()[-3000:]
    found, wanted = steps(run), steps(alone(**more))
    assert [found[i].loss for i in wanted] == pytest.approx([wanted[i].loss for i in wanted], abs=0.03)
    assert (
        sum("deepspeed_stage_3: no process has the whole model" in e.text for e in of(events.Log, run)) == 1
    )
    model = load_model(run.checkpoint(1))
    assert model(torch.tensor([[1, 2]])).isfinite().all()


@pytest.mark.parametrize("op", ["auto", "reference"])
def test_ranks_use_the_operator_and_the_parts_of_the_first(
    op: str, make: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if they themselves would find another one faster."""
    said: list[str] = []

    class Stand(Group):
        def tell(self, text: str = "") -> str:
            said.append(text)
            return text or said[0]

    class Fused(Parts):
        name = "fused"

    settings = make(op=op, val_split=0).read_settings()
    group, nothing = Stand(), StopRequest()
    with monkeypatch.context() as first:
        first.setattr(prepare, "choose", lambda op, *more: replace(choose("reference", *more), parts=Fused()))
        load(settings, lambda event: None, nothing, group=group)
    group.rank = 1
    monkeypatch.setattr(choice, "_parts_of", lambda name, need: Fused() if name == "fused" else TORCH)
    there = load(settings, lambda event: None, nothing, group=group)
    assert said == ["reference fused", ""] and there.operator.spelled == said[0]


def test_ranks_end_with_their_parent(make: Making) -> None:
    run = make(devices=2)
    process = start(run)
    deadline = time.monotonic() + 30
    while len(children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks = [Process.of(pid) for pid in children(process.pid)]
    process.kill()
    process.wait()
    while any(rank.alive() for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(ranks) == 2 and not any(rank.alive() for rank in ranks)


def test_deepspeed_on_one_device_is_had_when_asked_for(make: Making, alone: Callable[..., RunDir]) -> None:
    run = make(strategy="deepspeed_stage_2", micro_bsz=4)
    assert train(run) == 0, run.log.read_text()[-3000:]
    found, wanted = steps(run), steps(alone())
    assert [found[i].loss for i in found] == pytest.approx([wanted[i].loss for i in wanted], abs=1e-5)
    assert spread_for(TrainSettings(), Group(), "cpu").lightning()["strategy"] == "auto"


@pytest.mark.parametrize("stage", [1, 3])
def test_deepspeeds_optimizer_goes_on_where_its_parameters_are(stage: int) -> None:
    """A kernel that is given a number of the host, as torch's own loading never does, would read it from the
    GPU's memory."""
    spread = spread_for(TrainSettings(strategy=f"deepspeed_stage_{stage}"), Group(), "cuda")
    part = torch.empty(3, device="meta")
    name = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
    optimizer = SimpleNamespace(**{name: [part]}, optimizer=SimpleNamespace(state={}))
    spread.load_optimizer(optimizer, [{"step": torch.tensor(2.0), "exp_avg": torch.zeros(3)}])
    assert {t.device.type for t in optimizer.optimizer.state[part].values()} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize(
    "strategy",
    ["auto", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_2_offload", "deepspeed_stage_3",
     "deepspeed_stage_3_offload"],
)  # fmt: skip
def test_a_run_on_gpus_goes_on(strategy: str, make: Making) -> None:
    """On two, where there are two: over NCCL."""
    devices = min(2, torch.cuda.device_count())
    run = make(
        strategy=strategy, devices=devices, micro_bsz=4 // devices, accelerator="gpu", precision="bf16",
        epoch_count=1,
    )  # fmt: skip
    for done in (STEPS // 2, STEPS):
        assert start(run).wait(timeout=300) == 0, run.log.read_text()[-3000:]
        end = read(run)[-1]
        assert isinstance(end, events.Finished) and end.step == done
        run.settings.write_text(run.settings.read_text().replace("epoch_count: 1", "epoch_count: 2"))
    (resumed,) = of(events.Resumed, run)
    assert resumed.step == STEPS // 2
    losses = [step.loss for step in steps(run).values()]
    assert len(losses) == STEPS and all(loss is not None and loss < 13 for loss in losses)


def test_a_broken_deepspeed_is_named_with_the_way_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match="needs DeepSpeed, which does not load here") as caught:
        spread_for(TrainSettings(strategy="deepspeed_stage_1"), Group(), "cpu").check()
    assert "auto" in caught.value.remedy


def test_a_point_belongs_to_its_number_of_processes(make: Making, alone: Callable[..., RunDir]) -> None:
    run = make(micro_bsz=4, save_minutes=1e-9)
    assert run_training(run) == 0
    text = run.settings.read_text()
    run.settings.write_text(text + "strategy: deepspeed_stage_1\n")
    assert run_training(run) == 1
    end = read(run)[-1]
    assert isinstance(end, events.Failed) and "one process" in end.reason and "stage_1" in end.reason
