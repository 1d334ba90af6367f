"""Flags of the tutorial that change a run do so: short runs in this process, one flag changed at a time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from engine.checkpoints.inspect import inspect_model
from engine.contract import events
from engine.contract.errors import SettingsError
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.train.prepare import check_model, load
from engine.train.run import run_training
from engine.train.stop import StopRequest
from tests.conftest import PAIRS

BASE: dict[str, Any] = {
    "ctx_len": 12, "micro_bsz": 2, "epoch_steps": 4, "epoch_count": 1, "precision": "fp32",
    "accelerator": "cpu", "grad_cp": 0, "sample_len": 0, "eval_docs": 0, "lr_init": 0.5, "lr_final": 0.1,
    "warmup_steps": 2,
}  # fmt: skip


class Ran(NamedTuple):
    run: RunDir
    events: list[events.Event]
    state: dict[str, Tensor]

    def of(self, kind: type[Any]) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A run takes signals over; it is a process of its own elsewhere."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def files(tiny_model: Path, tiny_data: Path) -> dict[str, Any]:
    return {"load_model": tiny_model, "data_file": tiny_data}


def train(files: dict[str, Any], folder: Path, **changed: Any) -> Ran:
    run = RunDir(folder)
    run.claim(folder.name)
    settings = TrainSettings.model_validate({**BASE, **files, "proj_dir": folder, **changed})
    run.settings.write_text(render_yaml(settings, "A test."), encoding="utf-8")
    code = run_training(run)
    told = [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]
    assert code == 0, told[-1]
    last = max(folder.glob("rwkv-*.pth"), key=lambda p: int(p.stem[5:]))
    return Ran(run, told, torch.load(last, weights_only=True))


@pytest.fixture(scope="module")
def base(files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ran = train(files, tmp_path_factory.mktemp("base") / "run")
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    return ran


def distance(one: Ran, other: Ran) -> float:
    """The largest difference between two trained states, relative to the largest value."""
    top = max(float(t.abs().max()) for t in one.state.values())
    return max(float((one.state[k] - other.state[k]).abs().max()) for k in one.state) / top


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("beta1", 0.5), ("beta2", 0.5), ("adam_eps", 1.0), ("grad_clip", 1e-6), ("random_seed", 1),
        ("lr_init", 0.25), ("lr_final", 0.4), ("warmup_steps", 0), ("lr_schedule", "constant"),
        ("lr_schedule", "wsd"), ("loss_mask", "qa"), ("ctx_len", 6), ("micro_bsz", 3), ("epoch_steps", 5),
        ("epoch_count", 2), ("epoch_begin", 1), ("precision", "bf16"), ("precision", "fp16"),
        ("accumulate_grad_batches", 2),
    ],
)  # fmt: skip
def test_the_flag_changes_what_is_trained(
    flag: str, value: Any, base: Ran, files: dict[str, Any], tmp_path: Path
) -> None:
    assert distance(base, train(files, tmp_path / "run", **{flag: value})) > 1e-4


def test_what_is_left_alone_trains_the_same(base: Ran, files: dict[str, Any], tmp_path: Path) -> None:
    """The measure of the test above: without a change there is none."""
    assert distance(base, train(files, tmp_path / "run")) == 0.0
    assert distance(base, train(files, tmp_path / "op", op="reference")) < 1e-4


def test_epoch_begin_shifts_names_log_and_rate(base: Ran, files: dict[str, Any], tmp_path: Path) -> None:
    later = train(files, tmp_path / "run", epoch_begin=3, epoch_count=2, warmup_steps=0)
    assert sorted(p.name for p in later.run.path.glob("rwkv-*.pth")) == ["rwkv-3.pth", "rwkv-4.pth"]
    lines = [line.split() for line in later.run.train_log.read_text().splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [("3", "0"), ("4", "1")]
    assert [e.epoch for e in later.of(events.Epoch)] == [3, 4]
    rates = [e.lr for e in later.of(events.Step)]
    assert rates[0] < 0.4 and rates == sorted(rates, reverse=True)  # on its way down: three fifths are over


@pytest.mark.parametrize(("every", "names"), [(1, "0 1 2 3 4"), (2, "0 2 4"), (3, "0 3 4"), (0, "4")])
def test_epoch_save_chooses_the_files(every: int, names: str, files: dict[str, Any], tmp_path: Path) -> None:
    ran = train(files, tmp_path / "run", epoch_save=every, epoch_count=5, epoch_steps=1)
    assert sorted(p.stem[5:] for p in ran.run.path.glob("rwkv-*.pth")) == names.split()


def test_the_steps_are_those_asked_for(base: Ran, files: dict[str, Any], tmp_path: Path) -> None:
    longer = train(files, tmp_path / "run", epoch_steps=3, epoch_count=2, micro_bsz=1)
    assert [(e.epoch, e.step) for e in longer.of(events.Step)] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 4),
        (1, 5),
        (1, 6),
    ]
    one, other = base.of(events.Started)[0].plan, longer.of(events.Started)[0].plan
    assert (one.steps, one.micro_bsz, other.steps, other.micro_bsz) == (4, 2, 6, 1)
    assert longer.of(events.Step)[-1].tokens < base.of(events.Step)[-1].tokens


def test_the_files_decide_what_is_read_and_where_it_is_written(
    base: Ran, files: dict[str, Any], tmp_path: Path
) -> None:
    from engine.data.convert import convert
    from engine.models.init import make_checkpoint

    (tmp_path / "one.jsonl").write_text('{"text": "User: a\\n\\nAssistant: b"}\n')
    convert(tmp_path / "one.jsonl", tmp_path / "one", repeat=1, ctx_len=16)
    make_checkpoint(tmp_path / "new.pth", "x070", 1, 64, 65536, 0)
    other = train({"load_model": tmp_path / "new.pth", "data_file": tmp_path / "one"}, tmp_path / "run")
    one, two = base.of(events.Started)[0].plan, other.of(events.Started)[0].plan
    assert (one.documents, one.n_layer, two.documents, two.n_layer) == (24, 2, 1, 1)
    assert other.run.path == tmp_path / "run" and len(other.state) == 1


def test_measuring_and_the_answer_are_as_long_as_asked(
    base: Ran, files: dict[str, Any], tmp_path: Path
) -> None:
    assert not base.of(events.Evaluated) and not base.of(events.Sample)
    asked = train(files, tmp_path / "a", eval_docs=3, sample_len=2, sample_prompt="How?", epoch_steps=1)
    assert [e.documents for e in asked.of(events.Evaluated)] == [3, 3]
    answer = asked.of(events.Sample)[0]
    assert answer.prompt == "How?"
    longer = train(files, tmp_path / "b", sample_len=9, epoch_steps=1).of(events.Sample)[0]
    assert longer.prompt in [question for question, _ in PAIRS]
    assert len(longer.base) > len(answer.base)


@pytest.mark.parametrize(
    ("flag", "right", "wrong"),
    [("n_layer", 2, 3), ("n_embd", 64, 128), ("vocab_size", 65536, 50277), ("my_testing", "x070", "x060")],
)
def test_what_is_said_of_the_model_is_checked(
    flag: str, right: Any, wrong: Any, files: dict[str, Any], tiny_model: Path
) -> None:
    info = inspect_model(tiny_model)
    check_model(TrainSettings.model_validate({flag: right}), info)
    with pytest.raises(SettingsError, match=f"{flag}: {wrong} contradicts"):
        check_model(TrainSettings.model_validate({flag: wrong}), info)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_grad_cp_reaches_the_model(value: int, files: dict[str, Any]) -> None:
    settings = TrainSettings.model_validate({**BASE, **files, "grad_cp": value})
    assert load(settings, lambda event: None, StopRequest()).model.grad_cp == value


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32), ("tf32", torch.float32)],
)
def test_precision_is_that_of_the_frozen_weights(
    name: str, dtype: torch.dtype, files: dict[str, Any]
) -> None:
    settings = TrainSettings.model_validate({**BASE, **files, "precision": name})
    model = load(settings, lambda event: None, StopRequest()).model
    assert model.head.weight.dtype == dtype
    assert torch.get_float32_matmul_precision() == ("high" if name == "tf32" else "highest")
    torch.set_float32_matmul_precision("highest")
