from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rwkv_tui.services import gpu as gpus
from rwkv_tui.services.gpu import GpuInfo, GpuSampler, HostMeter, Nvml, family, read_gpus


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA does not say which GPUs it would use."""
    monkeypatch.setattr(gpus, "visible", lambda: None)


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


FIRST, THIRD = "00000000-1111-2222-3333-444444444444", "01234567-89ab-cdef-0123-456789abcdef"


class FakeNvml:
    """Behaves as the pynvml module: `devices` maps a query to its answer, an error is raised. A device may
    have "slices", devices of their own."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, *devices: dict[str, Any], init: Exception | None = None) -> None:
        self.devices = list(devices)
        self.init = init
        self.open = 0

    def nvmlInit(self) -> None:
        if self.init:
            raise self.init
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.devices[index]

    def nvmlDeviceGetMigMode(self, handle: dict[str, Any]) -> list[int]:
        if "slices" not in handle:
            raise NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(handle["slices"]):
            raise NVMLError("Not Found")
        part: dict[str, Any] = handle["slices"][index]
        return part

    def __getattr__(self, query: str) -> Any:
        def ask(handle: dict[str, Any], *more: object) -> Any:
            answer = handle.get(query, handle.get("everything", NVMLError("Not Supported")))
            if isinstance(answer, Exception):
                raise answer
            return answer(*more) if callable(answer) else answer

        return ask


def device(name: str | bytes) -> dict[str, Any]:
    return {
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * 2**30, used=2**30, free=23 * 2**30),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=55, memory=10),
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 250_500,
        "nvmlDeviceGetEnforcedPowerLimit": 450_000,
        "nvmlDeviceGetClockInfo": lambda kind: {1: 1980, 2: 10501}[kind],
        "nvmlDeviceGetCurrentClocksEventReasons": 0x04 | 0x20 | 0x01,
        "nvmlDeviceGetComputeRunningProcesses": [
            SimpleNamespace(pid=11, usedGpuMemory=3 * 2**20),
            SimpleNamespace(pid=12, usedGpuMemory=2**20),
            SimpleNamespace(pid=13, usedGpuMemory=None),
        ],
    }


def test_several_devices() -> None:
    library = FakeNvml(device("A"), device(b"B"))
    reading = read_gpus(library)
    assert reading.gpus[0] == GpuInfo(
        "A", 24 * 2**30, 2**30, 55, 61, 250.5, 450.0, None, 1980, 10501, "power limit, heat", "0"
    )
    assert [g.name for g in reading.gpus] == ["A", "B"]
    assert reading.reason == ""
    assert library.open == 0


def test_a_device_that_tells_nothing() -> None:
    assert read_gpus(FakeNvml({}, device("B"))).gpus[0] == GpuInfo("GPU 0", label="0")


def test_memory_of_the_watched_processes_is_told_apart() -> None:
    nvml = Nvml(FakeNvml(device("A")))
    assert nvml.read(frozenset([11, 12, 99])).gpus[0].run_bytes == 4 * 2**20
    assert nvml.read(frozenset([13])).gpus[0].run_bytes is None  # the driver keeps it to itself
    assert nvml.read(frozenset([99])).gpus[0].run_bytes is None


def test_a_driver_of_old_names_its_reasons_too() -> None:
    old = device("A")
    old["nvmlDeviceGetCurrentClocksThrottleReasons"] = old.pop("nvmlDeviceGetCurrentClocksEventReasons")
    assert read_gpus(FakeNvml(old)).gpus[0].throttle == "power limit, heat"
    old["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x01
    assert read_gpus(FakeNvml(old)).gpus[0].throttle == ""


def test_the_slices_of_a_device_follow_it() -> None:
    small = {
        "nvmlDeviceGetName": "MIG 1g.10gb",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=10 * 2**30, used=2**30, free=0),
    }
    gpus = read_gpus(FakeNvml({**device("A"), "slices": [small, {}]}, device("B"))).gpus
    assert [(g.label, g.name) for g in gpus] == [
        ("0", "A"), ("0:0", "MIG 1g.10gb"), ("0:1", "GPU 0:1"), ("1", "B"),
    ]  # fmt: skip
    assert (gpus[1].total_bytes, gpus[1].utilisation) == (10 * 2**30, None)


def test_a_runs_gpus_are_cudas_and_not_those_of_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three the person has named the third and the first."""
    uuids = {"A": f"GPU-{FIRST}", "B": "GPU-b", "C": b"GPU-" + THIRD.encode()}
    library = FakeNvml(*({**device(name), "nvmlDeviceGetUUID": uuid} for name, uuid in uuids.items()))

    def found(order: list[str] | None) -> list[tuple[str, str]]:
        monkeypatch.setattr(gpus, "visible", lambda: order)
        return [(gpu.label, gpu.name) for gpu in read_gpus(library).gpus]

    assert found([THIRD, FIRST]) == [("2", "C"), ("0", "A")]
    assert found(None) == found(["unheard of"]) == [("0", "A"), ("1", "B"), ("2", "C")]
    assert found([]) == [] and "CUDA_VISIBLE_DEVICES" in read_gpus(library).reason
    assert [gpu.foreign for gpu in Nvml(library).read(uses=(FIRST,)).gpus] == [False, True, True]
    assert not any(gpu.foreign for gpu in Nvml(library).read().gpus)


def test_a_device_that_falls_off_the_bus_keeps_its_name_and_its_place() -> None:
    library = FakeNvml(device("A"), device("B"))
    nvml = Nvml(library)
    nvml.read()
    library.devices[0] = {"everything": NVMLError_GpuIsLost("GPU is lost")}
    first, second = nvml.read().gpus
    assert first == GpuInfo("A", label="0", lost=True)
    assert (second.name, second.lost, second.utilisation) == ("B", False, 55)


def test_no_library_no_driver_no_device_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    none = read_gpus(FakeNvml(init=NVMLError_LibraryNotFound("NVML Shared Library Not Found")))
    assert none.gpus == ()
    assert "No NVIDIA driver" in none.reason
    odd = read_gpus(FakeNvml(init=NVMLError("Driver/library version mismatch")))
    assert "version mismatch" in odd.reason
    assert read_gpus(FakeNvml()).reason
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py" in read_gpus().reason


def test_a_driver_that_comes_back_is_found_again() -> None:
    library = FakeNvml(device("A"), init=NVMLError("reloading"))
    nvml = Nvml(library)
    assert nvml.read().gpus == ()
    library.init = None
    assert len(nvml.read().gpus) == 1


def test_a_driver_that_hangs_never_holds_the_caller() -> None:
    hang = threading.Event()

    class Hanging(FakeNvml):
        def nvmlDeviceGetCount(self) -> int:
            hang.wait(10)
            return 1

    sampler = GpuSampler(0.01, Hanging(device("A")))
    began = time.monotonic()
    sampler.start()
    assert sampler.history() == ()
    sampler.stop()
    assert time.monotonic() - began < 1
    hang.set()


def test_the_sampler_renews_its_snapshot() -> None:
    library = FakeNvml(device("A"))
    sampler = GpuSampler(0.01, library)
    sampler.start()
    deadline = time.monotonic() + 5
    library.devices[0]["nvmlDeviceGetTemperature"] = 88
    while time.monotonic() < deadline:
        history = sampler.history()
        if len(history) > 1 and history[-1].gpus[0].temperature == 88:
            break
        time.sleep(0.01)
    else:
        pytest.fail("no new reading came")
    sampler.stop()


def test_the_machine_the_disk_and_the_run_itself(tmp_path: Path) -> None:
    meter = HostMeter(tmp_path)
    first, second = meter.read(), meter.read(family(os.getpid()))
    assert first.cpu is None
    assert first.run_bytes is None
    assert second.cpu is not None
    assert 0 <= second.cpu <= 100
    assert second.used_bytes and second.total_bytes and second.run_bytes and second.disk_free
    assert 2**20 < second.run_bytes < second.total_bytes
    assert second.used_bytes < second.total_bytes
    assert second.disk_free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert HostMeter(tmp_path / "gone").read(frozenset([2**22 - 3])).disk_free is None
    assert family(2**22 - 3) == frozenset()
