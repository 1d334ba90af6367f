"""Several processes train as one, for real: gloo on the CPU, Lightning and DeepSpeed as they are."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.models import load_model
from engine.train.group import Group
from engine.train.machines import Machines
from engine.train.run import run_training
from engine.train.strategy import spread_for
from tests.fakes import forged
from tests.train.test_run import CALL, told

STEPS = 8
FULL: dict[str, Any] = {"train_type": "none", "lr_init": 1e-3, "lr_final": 1e-4}
LORA: dict[str, Any] = {
    "peft": "lora", "peft_config": {"r": 4}, "train_parts": "time,ln", "lr_init": 1e-2, "lr_final": 1e-3,
}  # fmt: skip
Making = Callable[..., RunDir]


@pytest.fixture(scope="module")
def make(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Making]:
    """Makes the folder of a run of two epochs over documents of many lengths, of which answers are learned;
    three steps accumulate, and one kind of document is held out. None of them outlives the module."""
    made: list[RunDir] = []

    def folder(**more: Any) -> RunDir:
        run = RunDir(tmp_path_factory.mktemp("runs") / "run")
        run.claim("run")
        values: dict[str, Any] = {
            "load_model": tiny_model, "data_file": tiny_data, "proj_dir": run.path, "ctx_len": 32,
            "micro_bsz": 2, "epoch_steps": STEPS // 2, "epoch_count": 2, "accumulate_grad_batches": 3,
            "precision": "fp32", "accelerator": "cpu", "grad_cp": 0, "sample_len": 2, "eval_docs": 5,
            "loss_mask": "qa", "val_split": 1, "warmup_steps": 2, **more,
        }  # fmt: skip
        run.settings.write_text(render_yaml(TrainSettings(**values), "run"))
        made.append(run)
        return run

    yield folder
    for run in made:
        if (owner := run.owner()) is not None and owner != Process.current():
            owner.kill()


def start(run: RunDir, *more: str) -> subprocess.Popen[bytes]:
    """The engine as the program starts it: a session of its own, its words in its log."""
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", "train", str(run.path), *more],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    run.record_process("run", Process.of(process.pid))
    return process


def forge(run: RunDir, **env: str) -> forged.Engine:
    """The same without the time that two interpreters take to import what they need."""
    process = forged.start(["train", str(run.path)], run.log, env)
    run.record_process("run", Process.of(process.pid))
    return process


def train(run: RunDir, **env: str) -> int:
    process = forge(run, **env)
    try:
        return process.wait(timeout=240)
    finally:
        process.kill()


def read(run: RunDir) -> list[events.Event]:
    return [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def of(kind: type[Any], run: RunDir) -> list[Any]:
    return [e for e in read(run) if isinstance(e, kind)]


def steps(run: RunDir) -> dict[int, events.Step]:
    """The last word on each step."""
    return {e.step: e for e in of(events.Step, run)}


@pytest.fixture(scope="module")
def alone(make: Making) -> Callable[..., RunDir]:
    """The same run by one process with twice the micro_bsz; each kind once."""
    done: dict[str, RunDir] = {}

    def run_of(**more: Any) -> RunDir:
        key = repr(more)
        if key not in done:
            done[key] = make(**{"micro_bsz": 4, **more})
            assert run_training(done[key]) == 0
        return done[key]

    return run_of


def same(run: RunDir, alone: RunDir, tolerance: float = 1e-5) -> None:
    """Every loss, norm, rate and measurement, and the file at the end."""
    found, wanted = steps(run), steps(alone)
    assert list(found) == list(wanted) == list(range(1, STEPS + 1))
    for step, one in wanted.items():
        other = found[step]
        assert one.loss is not None and other.loss == pytest.approx(one.loss, abs=tolerance)
        assert (other.lr, other.tokens) == (one.lr, one.tokens)
        if one.grad_norm is not None:
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    for kind in (events.Evaluated, events.Validated):
        losses = [e.loss for e in of(kind, alone)]
        assert [e.loss for e in of(kind, run)] == pytest.approx(losses, abs=tolerance) and len(losses) == 2
    sample, expected = of(events.Sample, run)[0], of(events.Sample, alone)[0]
    assert (sample.prompt, sample.base) == (expected.prompt, expected.base)
    plan, other_plan = of(events.Started, run)[0].plan, of(events.Started, alone)[0].plan
    assert plan.devices == 2 and plan.passes == other_plan.passes
    files = [torch.load(r.checkpoint(1), weights_only=True) for r in (run, alone)]
    assert files[0].keys() == files[1].keys()
    for name, tensor in files[0].items():
        torch.testing.assert_close(tensor, files[1][name], rtol=0, atol=1e-4)
    assert sorted(p.name for p in run.path.glob("rwkv-*")) == sorted(
        p.name for p in alone.path.glob("rwkv-*")
    )


INFCTX: dict[str, Any] = {**FULL, "train_type": "infctx", "chunk_ctx": 7}
SOAK = pytest.mark.soak
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


def wait_for(
    ready: Callable[[], bool], process: subprocess.Popen[bytes] | forged.Engine, run: RunDir
) -> None:
    deadline = time.monotonic() + 120
    while not (run.events.exists() and ready()):
        assert process.poll() is None and time.monotonic() < deadline, run.log.read_text()[-3000:]
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


@pytest.fixture
def nodes(make: Making) -> Callable[..., list[RunDir]]:
    """Two machines on loopback; each has a proj_dir of its own."""

    def make_both(**more: Any) -> list[RunDir]:
        port = 0
        while not port:
            with socket.socket() as free, socket.socket() as next_one:
                free.bind(("", 0))
                with contextlib.suppress(OSError):
                    next_one.bind(("", free.getsockname()[1] + 1))
                    port = free.getsockname()[1]
        meeting = {"num_nodes": 2, "main_address": "127.0.0.1", "main_port": port}
        return [make(node_rank=node, **meeting, **more) for node in range(2)]

    return make_both


def test_two_machines_on_loopback(nodes: Callable[..., list[RunDir]], alone: Callable[..., RunDir]) -> None:
    """The whole result is in each one's proj_dir."""
    runs = nodes()
    processes = [start(run) for run in runs]
    try:
        assert [p.wait(timeout=120) for p in processes] == [0, 0], runs[0].log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    for run in runs:
        same(run, alone())


def test_a_machine_alone_says_that_it_waits_and_can_be_stopped(nodes: Callable[..., list[RunDir]]) -> None:
    run = nodes()[0]
    process = forge(run)
    try:
        wait_for(lambda: bool(of(events.Log, run)), process, run)
        assert "1 of 2 are there; they reach this one at 127.0.0.1, ports" in of(events.Log, run)[0].text
        assert not children(process.pid)
        process.terminate()
        assert process.wait(timeout=10) == 130
    finally:
        process.kill()
    end = read(run)[-1]
    assert isinstance(end, events.Finished) and (end.status, end.step) == ("stopped", 0)


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=SOAK)])
def test_a_stop_while_machine_0_loads_stops_all(stopped: int, nodes: Callable[..., list[RunDir]]) -> None:
    """The others wait for it meanwhile, where they cannot be asked."""
    runs = nodes()
    (runs[0].path / "sitecustomize.py").write_text(
        "import time\n"
        "import engine.train.prepare as prepare\n"
        "right = prepare.load_model\n"
        "prepare.load_model = lambda *given, **more: time.sleep(1.5) or right(*given, **more)\n"
    )
    processes = [forge(run, PYTHONPATH=str(runs[0].path)) for run in runs]
    try:
        loading = "loading the model"
        wait_for(lambda: any(e.phase == loading for e in of(events.Progress, runs[0])), processes[0], runs[0])
        processes[stopped].terminate()
        assert [p.wait(timeout=30) for p in processes] == [130, 130], runs[1].log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    for run in runs:
        end = read(run)[-1]
        assert isinstance(end, events.Finished) and (end.status, end.step) == ("stopped", 0)


@pytest.mark.parametrize(
    "way",
    [
        "a rank is killed", "a machine is silent", pytest.param("the first rank is killed", marks=SOAK),
        pytest.param("cut off", marks=SOAK),
    ],
)  # fmt: skip
def test_what_ends_one_machine_is_told_on_the_other(way: str, nodes: Callable[..., list[RunDir]]) -> None:
    """A machine that is stopped says nothing and breaks no connection, as one without power."""
    runs = nodes(epoch_steps=100_000, sample_len=0, val_split=0)
    if way == "a machine is silent":
        quick = "import engine.train.machines as machines; machines.SILENCE, machines.BEAT = 3.0, 0.5"
        (runs[0].path / "sitecustomize.py").write_text(quick)
    processes = [forge(run, PYTHONPATH=str(runs[0].path)) for run in runs]
    wait_for(lambda: len(of(events.Step, runs[0])) >= 2, processes[0], runs[0])
    ranks = [Process.of(children(process.pid)[0]) for process in processes]
    survivor, lost = (1, 0) if way == "the first rank is killed" else (0, 1)
    if "killed" in way:
        os.kill(ranks[lost].pid, signal.SIGKILL)
    elif way == "cut off":
        processes[1].kill()
    else:
        os.killpg(processes[1].pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert processes[survivor].wait(timeout=30) == 1
        print(f"the other machine's run ended {time.monotonic() - began:.1f} s later")
        assert not ranks[survivor].alive()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(processes[1].pid, signal.SIGKILL)
    end = read(runs[survivor])[-1]
    assert isinstance(end, events.Failed) and "resume" in end.remedy
    if "killed" in way:
        assert end.reason.startswith(f"On machine {lost}: Process {lost} of 2 (rank {lost}, pid ")
        assert "was killed by SIGKILL" in end.reason and processes[lost].wait(timeout=30) == 1
        told = read(runs[lost])[-1]
        assert isinstance(told, events.Failed) and end.reason == f"On machine {lost}: {told.reason}"
    else:
        assert "achine 1 of 2 (127.0.0.1) has " in end.reason
        assert ("said nothing for 3 s" if way == "a machine is silent" else "without a word") in end.reason


def test_the_machines_need_a_port_beside_the_meeting(nodes: Callable[..., list[RunDir]]) -> None:
    run = nodes()[0]
    port = run.read_settings().main_port + 1
    with socket.create_server(("", port)), socket.socket():
        assert train(run) == 1
    end = read(run)[-1]
    assert isinstance(end, events.Failed) and f"port {port}" in end.reason and "main_port" in end.remedy


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"node_rank": 1, "lr_init": 0.5, "load_model": Path("elsewhere")},
            "lr_init 0.5 here, 1.0 on machine 0",
        ),
        ({"node_rank": 2}, "There is a machine 2 already, 127.0.0.1."),
    ],
)
def test_who_is_wrong_is_told_so_and_the_others_wait_on(other: dict[str, Any], said: str) -> None:
    shared = {"num_nodes": 3, "main_address": "127.0.0.1", "main_port": free_port() - 1}
    right = [Machines(TrainSettings(**shared, node_rank=node)) for node in (0, 2)]
    everyone(right, lambda: right[0].here == 2)
    wrong = Machines(TrainSettings(**{**shared, **other}))
    everyone([*right, wrong], lambda: wrong.news() is not None)
    told = wrong.news()
    assert told is not None and said in told.reason and told.remedy
    assert not any(m.begun or m.news() for m in right)
    last = Machines(TrainSettings(**shared, node_rank=1))
    everyone([*right, last], lambda: all(m.begun for m in [*right, last]))
    last.stop()
    everyone([*right, last], lambda: all(m.stopping for m in right))
    for machine in (last, *right):
        machine.leave()


def everyone(machines: list[Machines], true: Callable[[], bool]) -> None:
    """Lets them talk until it is true."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        for machine in machines:
            machine.news()
        time.sleep(0.01)


def test_strangers_and_noise_are_no_machines() -> None:
    port = free_port()
    first = Machines(TrainSettings(num_nodes=2, main_address="127.0.0.1", main_port=port - 1))
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    failed = events.dump_event(events.Failed(reason="forged")).encode()
    for stranger, words in zip(strangers, (b"GET / HTTP/1.1\r\n", failed, b"x" * (2 << 20)), strict=True):
        with contextlib.suppress(OSError):
            stranger.setblocking(False)
            stranger.sendall(words)
    for _ in range(20):
        assert first.news() is None
        time.sleep(0.01)
    for stranger in strangers:
        stranger.close()
    assert first.news() is None
    second = Machines(TrainSettings(num_nodes=2, node_rank=1, main_address="127.0.0.1", main_port=port - 1))
    assert second.news() is None and first.news() is None
    second.leave(events.Failed(reason="it broke", detail="y" * 100_000))
    told = first.wait(5)
    assert told is not None and told.reason == "On machine 1: it broke" and len(told.detail) == 100_000
    first.leave()


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
