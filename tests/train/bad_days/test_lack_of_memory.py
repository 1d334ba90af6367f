"""A full GPU, and a process that the kernel ended, are told with what takes less memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.i18n import LANGUAGES, speak
from engine.contract.memory import advice, on_cpu, savings
from engine.contract.oom import OomKills
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.settings import TrainSettings
from engine.estimate import needed, needed_of_host, what_fits
from engine.models.base import RWKV
from engine.train.failure import failed
from engine.train.prepare import device_name
from engine.train.run import run_training
from rwkv_tui.services import postmortem
from rwkv_tui.services.diagnosis import diagnose
from rwkv_tui.services.postmortem import short_of_memory, shortage
from rwkv_tui.services.run_tail import RunModel
from rwkv_tui.services.runs import ending_of, summarise
from tests.fakes import stories
from tests.train.bad_days.conftest import At, Making, failure, first_file_is_whole


def test_a_full_gpu_is_told_with_what_takes_less(make: Making, at: At, monkeypatch: Any) -> None:
    run = make(micro_bsz=4)
    hidden = RWKV.hidden

    def out_of_memory() -> None:
        def full(*_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nx")

        monkeypatch.setattr(RWKV, "hidden", full)

    at(5, out_of_memory)
    assert run_training(run) == 1
    monkeypatch.setattr(RWKV, "hidden", hidden)
    end = failure(run)
    assert end.reason.startswith(
        "The memory of the GPU is full: CUDA out of memory. Tried to allocate 2.00 GiB"
    )
    order = ["grad_cp 1", "micro_bsz 1 with accumulate_grad_batches 4", "bf16", "quant int8", "smaller model"]
    places = [end.remedy.index(word) for word in order]
    assert places == sorted(places) and "OutOfMemoryError" in end.detail
    first_file_is_whole(run)


@pytest.mark.parametrize(("room", "fits"), [(1.2, True), (100, True), (0.1, False)])
def test_a_full_gpu_is_told_with_what_fits(
    room: float, fits: bool, make: Making, at: At, monkeypatch: Any
) -> None:
    """`room` is in units of what the run needs with one row at a time; with 100 it should not have failed, so
    that the arithmetic is known to be too low."""
    run = make(micro_bsz=4, precision="bf16", ctx_len=64, epoch_count=1)
    tiny = TrainSettings(my_testing="x070", n_layer=2, n_embd=64, ctx_len=64, micro_bsz=1, grad_cp=1)
    need = needed(tiny)
    assert need is not None
    free = int(room * need.total)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free - 1000, 1 << 40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 1000)

    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    at(1, out_of_memory)
    assert run_training(run) == 1
    end = failure(run)
    if not fits:
        assert end.fix == {"grad_cp": "1"} and end.remedy.startswith("What takes less")
        return
    assert end.fix == {"grad_cp": "1", "micro_bsz": "1", "accumulate_grad_batches": "4"}
    assert end.remedy.startswith(
        "Set grad_cp 1 (the same result, a third slower) and micro_bsz 1 with accumulate_grad_batches 4 (the"
    )
    told = float(end.remedy.partition("takes about ")[2].partition(" GB")[0]) * 1e9
    assert need.total * 0.99 < told < 0.91 * free and f"GB of the {free / 1e9:.3g} GB" in end.remedy


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("CUDA error: out of memory\nmore"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), ""),
    ],
)
def test_a_gpu_that_is_full_says_so_in_several_ways(error: Exception, cause: str, make: Making) -> None:
    told = failed(error, make())
    assert (told.cause or "") == cause and ("GPU is full" in told.reason) == bool(cause)


def test_a_gpu_that_has_stopped_computing_is_told_from_a_full_one(make: Making) -> None:
    run = make()
    for said in ("an illegal memory access was encountered", "uncorrectable ECC error encountered"):
        told = failed(RuntimeError(f"CUDA error: {said}\nSearch for"), run)
        assert told.reason == f"The GPU has stopped computing: CUDA error: {said}." and told.detail
        assert "resume" in told.remedy and "op to chunked" in told.remedy and "Xid" in told.remedy


def test_a_gpu_that_torch_has_no_code_for_is_named(make: Making) -> None:
    told = failed(
        RuntimeError("CUDA error: no kernel image is available for execution on the device"), make()
    )
    assert "has no code for this GPU" in told.reason and "accelerator" in told.remedy and told.detail


def test_only_what_would_change_something_is_advised() -> None:
    least = TrainSettings(grad_cp=2, micro_bsz=1, precision="bf16", quant="nf4", ctx_len=128)
    assert savings(least) == [] and advice(least).endswith("first: a smaller model.")
    full = TrainSettings(train_type="none", lr_init=1e-4, grad_cp=2, micro_bsz=2, ctx_len=512)
    assert [saving.changes for saving in savings(full)] == [
        {"micro_bsz": "1", "accumulate_grad_batches": "2"}, {"peft": "lora", "train_type": "auto"},
        {"ctx_len": "256"},
    ]  # fmt: skip
    for saving in savings(TrainSettings(micro_bsz=4, precision="fp32", grad_cp=0)):
        changed = TrainSettings.model_validate({"micro_bsz": 4, "precision": "fp32", **saving.changes})
        assert saving.changes not in [s.changes for s in savings(changed)]


def test_what_waits_in_the_hosts_memory_is_a_saving_of_a_gpu() -> None:
    """Of two changes of one parameter the last is told; what saves nothing where it is to run is not."""
    s = TrainSettings(my_testing="x070", n_layer=32, n_embd=4096, ctx_len=16384, grad_cp=0, quant="nf4")
    assert [saving.changes["grad_cp"] for saving in savings(s)[:2]] == ["1", "2"]
    found = what_fits(s, 14e9)
    assert found is not None and found[1] == {"grad_cp": "2"} and "grad_cp 1" not in found[0]
    need = needed(s.model_copy(update={"grad_cp": 2}))
    assert need is not None
    found = what_fits(s, 14e9, beside=need.away - 1)
    assert found is None or "grad_cp 2" not in found[0]
    host = what_fits(s, 14e9, needed_of_host)
    assert host is not None and host[1]["grad_cp"] == "1" and "ctx_len" in host[1]
    on_cpu = s.model_copy(update={"accelerator": "cpu"})
    assert {"grad_cp": "2"} not in [saving.changes for saving in savings(on_cpu)]


def _groups(root: Path, kind: str, count: int) -> None:
    """A file system in which the kernel counts what it ends: one of its two kinds of groups, or none."""
    files = {
        "v2": ("0::/mine\n", "sys/fs/cgroup/mine/memory.events", f"low 0\noom 2\noom_kill {count}\n"),
        "v1": ("4:memory:/mine\n", "sys/fs/cgroup/memory/memory.oom_control", f"oom_kill {count}\n"),
        "none": ("0::/\n", "proc/vmstat", f"nr_free_pages 7\noom_kill {count}\n"),
    }  # fmt: skip
    group, name, text = files[kind]
    for path, content in ((root / "proc/self/cgroup", group), (root / name, text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("kind", "where"),
    [("v2", "in its memory group"), ("v1", "in its memory group"), ("none", "on this")],
)
def test_a_process_that_the_kernel_ended_for_lack_of_memory_is_told_as_such(
    kind: str, where: str, make: Making, tmp_path: Path, monkeypatch: Any
) -> None:
    """The counts are made up: a test cannot make the kernel run out of memory."""
    run, root = make(), tmp_path / "root"
    _groups(root, kind, 3)
    now = OomKills.now
    monkeypatch.setattr(OomKills, "now", lambda: now(root))
    run.record_process("run", forked_and_gone())
    assert run.oom_kills() == now(root) and not short_of_memory(run)
    assert "memory" not in ending_of(summarise("run", run))
    _groups(root, kind, 4)
    said = ending_of(summarise("run", run))
    assert "died before its first step" in said and "`rwkv-tune resume run`" in said
    assert f"Most likely the kernel killed it {said.partition('killed it ')[2]}" in said
    assert f"since the run began that has happened once {where}" in said and "grad_cp 1 (" in said
    found = diagnose("died", RunModel(), "words", run.read_settings(), shortage(run, device_name("cpu")))
    assert found is not None and "kernel" in found.cause and found.changes == (("grad_cp", "1"),)
    owner = run.owner()
    assert owner is not None
    run.record_process("run", Process(owner.pid, owner.started, "another boot"))
    _groups(root, kind, 5)
    assert not short_of_memory(run)  # the counts began anew with the machine


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_run_without_a_gpu_is_not_told_what_takes_less_of_one(
    language: str, make: Making, monkeypatch: Any
) -> None:
    run = make(accelerator="auto", grad_cp=1, precision="bf16", ctx_len=64)
    monkeypatch.setattr(postmortem, "short_of_memory", lambda _run: "The kernel killed it.")
    speak(language)
    device = device_name("cpu")
    speak("en")
    lacked = shortage(run, device)
    assert on_cpu(device) and lacked is not None and "was on a GPU" not in lacked.remedy
    plan = stories.plan().model_copy(update={"device": device})
    for known in (lacked, None):
        model = RunModel(plan=plan)
        found = diagnose("died", model, "words", run.read_settings(), known)
        assert found is not None and found.changes
        assert "grad_cp" not in dict(found.changes)  # 2 saves memory of a GPU only


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A memory group within that of the test, in which the kernel holds processes to LIMIT bytes."""
    kinds = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().split())
    if "memory" in kinds:
        root, most = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    else:
        root, most = Path("/sys/fs/cgroup"), "memory.max"
    made = root / kinds.get("memory", kinds.get("", "")).lstrip("/") / f"rwkv-tune-{os.getpid()}"
    try:
        made.mkdir()
        (made / most).write_text(str(LIMIT))
    except OSError:
        pytest.skip("there is no memory group here, or not the right to make one")
    try:
        yield made
    finally:
        for pid in (made / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        while (made / "cgroup.procs").read_text():
            time.sleep(0.05)
        made.rmdir()


LIMIT = 900 << 20


@pytest.mark.soak
def test_the_kernel_ends_a_run_that_takes_too_much(make: Making, group: Path) -> None:
    """For real: nothing but the group's limit is made up. The settings that it advises are taken and fit."""
    run = make(micro_bsz=256, ctx_len=512, data_type="dummy", epoch_steps=1, epoch_count=1, grad_cp=0)

    def train() -> int:
        def enter() -> None:
            (group / "cgroup.procs").write_text("0")

        words = [sys.executable, "-m", "engine", "train", str(run.path)]
        return subprocess.run(words, preexec_fn=enter, capture_output=True, check=False).returncode

    assert train() == -signal.SIGKILL
    lacked = shortage(run, device_name("cpu"))
    assert lacked is not None and "has happened once in its memory group" in lacked.said
    assert lacked.remedy.startswith("Set grad_cp 1 (") and f"of the {LIMIT / 1e9:.3g} GB" in lacked.remedy
    assert "Most likely the kernel killed it" in ending_of(summarise("run", run))
    settings = TrainSettings.model_validate(run.read_settings().model_dump() | lacked.changes)
    run.settings.write_text(render_yaml(settings, "run"))
    assert train() == 0, lacked


def forked_and_gone() -> Process:
    """A process that was killed."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    found = Process.of(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return found
