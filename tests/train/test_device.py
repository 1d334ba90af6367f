"""What a run does about a GPU that torch cannot use."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import doctor
from engine.__main__ import main
from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.settings import TrainSettings
from engine.gpu import join_memory
from engine.models.waiting import NoRoom, pinned
from engine.train import prepare
from engine.train.module import TuneModule
from engine.train.prepare import choose_device, load, make_plan
from engine.train.stop import StopRequest
from tests.tuning.conftest import Trained, train_in

OLD = "The NVIDIA driver on your system is too old (found version 12020)."


@pytest.fixture
def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which lists the GPU, and which CUDA does not take."""

    def init() -> None:
        raise RuntimeError(f"{OLD}\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: init())


@pytest.mark.usefixtures("old_driver")
def test_the_doctor_tells_why_it_is_not_used() -> None:
    report = doctor.diagnose()["torch"]
    assert isinstance(report, dict) and report["gpus"] == [] and report["unused"] == OLD.rstrip(".")


@pytest.mark.usefixtures("old_driver")
def test_a_run_that_asks_for_it_is_told_why_not() -> None:
    with pytest.raises(UserError, match=r"finds none here: The NVIDIA driver .* is too old"):
        choose_device("gpu")


@pytest.mark.usefixtures("old_driver")
@pytest.mark.parametrize(("accelerator", "warned"), [("auto", 1), ("cpu", 0)])
def test_a_run_that_goes_to_the_cpu_instead_says_so(
    accelerator: str, warned: int, tiny_model: Path, tiny_data: Path
) -> None:
    told: list[events.Event] = []
    settings = TrainSettings.model_validate({
        "load_model": tiny_model, "data_file": tiny_data, "precision": "fp32", "ctx_len": 12, "micro_bsz": 1,
        "accelerator": accelerator,
    })  # fmt: skip
    load(settings, told.append, StopRequest())
    texts = [e.text for e in told if isinstance(e, events.Warned) and "too old" in e.text]
    assert len(texts) == warned


def test_a_plan_names_the_gpus_that_the_run_uses(
    tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "visible", lambda: ["first", "second", "third"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    settings = TrainSettings.model_validate({
        "load_model": tiny_model, "data_file": tiny_data, "precision": "fp32", "ctx_len": 12, "micro_bsz": 1,
        "accelerator": "cpu", "devices": 2,
    })  # fmt: skip
    loaded = load(settings, lambda event: None, StopRequest())
    assert make_plan(loaded).gpus == ()
    assert make_plan(replace(loaded, device="cuda")).gpus == ("first", "second")


def waits(micro_bsz: int, tiny_model: Path, tiny_data: Path) -> TrainSettings:
    return TrainSettings.model_validate({
        "load_model": tiny_model, "data_file": tiny_data, "grad_cp": 2, "ctx_len": 12, "micro_bsz": micro_bsz,
        "devices": 2,
    })  # fmt: skip


def test_what_waits_in_the_hosts_memory_has_to_fit_there(
    tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "choose_device", lambda accelerator: "cuda")
    monkeypatch.setattr(prepare, "room", lambda: 18 * 2**20)  # twice a head of 8 MiB, and 2 MiB
    monkeypatch.setattr(prepare, "_read_data", full)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for micro_bsz, error in ((100, torch.OutOfMemoryError), (400, NoRoom)):
        with pytest.raises(error) as told:
            load(waits(micro_bsz, tiny_model, tiny_data), lambda event: None, StopRequest())
    assert "keeps 0.0252 GB in the computer's memory, which has 0.0189 GB left" in str(told.value)
    monkeypatch.setattr(prepare, "room", lambda: 0)  # nothing tells
    with pytest.raises(torch.OutOfMemoryError):
        load(waits(400, tiny_model, tiny_data), lambda event: None, StopRequest())


@pytest.mark.parametrize(
    ("precision", "capability", "warned"),
    [("bf16", (7, 5), True), ("fp16", (7, 5), False), ("bf16", (8, 6), False), ("bf16", (6, 1), False)],
)
def test_a_gpu_without_bf16_is_told_as_such(
    precision: str, capability: tuple[int, int], warned: bool, tiny_model: Path, tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(prepare, "choose_device", lambda accelerator: "cuda")
    monkeypatch.setattr(prepare, "_read_data", full)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    told: list[events.Event] = []
    settings = waits(1, tiny_model, tiny_data).model_copy(update={"precision": precision})
    with pytest.raises(torch.OutOfMemoryError):
        load(settings, told.append, StopRequest())
    texts = [event.text for event in told if isinstance(event, events.Warned)]
    assert texts == (["Tesla T4 has no bf16 of its own and is slow at it: precision fp16 is several times "
                      "faster there."] if warned else [])  # fmt: skip


@pytest.mark.parametrize(
    ("said", "told"),
    [("CUDA error: out of memory\nmore", NoRoom), ("CUDA error: an illegal memory access", RuntimeError)],
)
def test_memory_of_the_host_that_is_not_given_is_told_as_such(
    said: str, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA says the same of a full GPU."""

    def empty(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(told) as caught:
        pinned(torch.Size([4]), torch.bfloat16)
    assert isinstance(caught.value, NoRoom) == (told is NoRoom)


def full(*_args: object, **_kwargs: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")


def test_a_chat_beside_a_run_says_that_the_gpu_is_full(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.chat.job.open_talks", full)
    assert main(["chat", "--model", str(tiny_model)]) == 1
    told = events.parse_event(capsys.readouterr().out)
    assert isinstance(told, events.Failed) and told.cause == "memory"
    assert "GPU is full: CUDA out of memory" in told.reason and "--quant nf4" in told.remedy


def test_an_evaluation_beside_a_run_says_that_the_gpu_is_full(
    tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.models.load_model", full)
    flags = ("--model", str(tiny_model), "--data", str(tiny_data), "--ctx-len", "12")
    assert main(["evaluate", *flags]) == 1
    assert "GPU is full: CUDA out of memory" in capsys.readouterr().err


def test_what_was_trained_is_not_moved_to_the_hosts_memory_at_the_end(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be smaller than the GPU's."""
    moved: list[torch.device] = []
    monkeypatch.setattr(TuneModule, "cpu", lambda self: moved.append(self.device))
    end = train_in(tmp_path / "run", tiny_model, tiny_data, ctx_len=12, epoch_steps=1, eval_docs=0)
    assert isinstance(end, Trained) and not moved


class Allocator:
    """Torch's, whose `settings` are those of the person at first; `refuses` to be used as it is told."""

    def __init__(self, settings: str = "", refuses: bool = False) -> None:
        self.settings, self.refuses = settings, refuses

    def ones(self, elements: int, device: str) -> torch.Tensor:
        if self.refuses and self.settings == "expandable_segments:True":
            raise RuntimeError("CUDA driver error: operation not supported")
        return torch.full((elements,), 1)


@pytest.mark.parametrize(
    ("given", "refuses", "kernel", "left"),
    [("", False, "6.8.0-51-generic", "expandable_segments:True"),
     ("", True, "6.8.0-51-generic", "expandable_segments:False"),
     ("", False, "5.15.167.4-microsoft-standard-WSL2", ""),
     ("max_split_size_mb:128", False, "6.8.0-51-generic", "max_split_size_mb:128")],
)  # fmt: skip
def test_memory_is_joined_where_that_works_and_nobody_has_said_otherwise(
    given: str, refuses: bool, kernel: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Allocator(given, refuses)
    monkeypatch.setattr(torch._C, "_accelerator_getAllocatorSettings", lambda: made.settings)
    monkeypatch.setattr(
        torch._C, "_accelerator_setAllocatorSettings", lambda said: setattr(made, "settings", said)
    )
    monkeypatch.setattr(torch, "ones", made.ones)
    monkeypatch.setattr(platform, "release", lambda: kernel)
    join_memory()
    assert made.settings == left


def test_what_the_person_has_set_is_known() -> None:
    """By either name; this is all that is asked of torch's allocator here."""
    asks = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        done = subprocess.run(
            [sys.executable, "-c", asks], env={**os.environ, name: "garbage_collection_threshold:0.8"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "garbage_collection_threshold:0.8"


def test_where_there_is_none_nothing_is_said() -> None:
    if not torch.cuda.is_available():
        report = doctor.diagnose()["torch"]
        assert isinstance(report, dict) and not report["unused"]


@pytest.mark.skipif(sys.platform != "linux", reason="torch's threads are another library's there")
@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_that_wait_leave_the_processors_to_others(said: dict[str, str], spins: str) -> None:
    """As the library of torch's threads itself tells it, which reads it as it is loaded."""
    env = os.environ | said | {"OMP_DISPLAY_ENV": "VERBOSE"}
    job = [sys.executable, "-m", "engine", "doctor"]
    done = subprocess.run(job, env=env, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
