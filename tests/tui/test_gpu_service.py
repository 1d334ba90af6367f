from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rwkv_tui.services.gpu import GpuInfo, GpuSampler, HostMeter, Nvml, read_gpus


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class FakeNvml:
    """Behaves as the pynvml module: `devices` maps a query to its answer, an error is raised."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

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

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def __getattr__(self, query: str) -> Any:
        def ask(index: int, *_: object) -> Any:
            answer = self.devices[index].get(query, NVMLError("Not Supported"))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def device(name: str | bytes) -> dict[str, Any]:
    return {
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * 2**30, used=2**30, free=23 * 2**30),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=55, memory=10),
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 250_500,
        "nvmlDeviceGetEnforcedPowerLimit": 450_000,
    }


def test_several_devices() -> None:
    library = FakeNvml(device("A"), device(b"B"))
    reading = read_gpus(library)
    assert reading.gpus[0] == GpuInfo("A", 24 * 2**30, 2**30, 55, 61, 250.5, 450.0)
    assert [g.name for g in reading.gpus] == ["A", "B"]
    assert reading.reason == ""
    assert library.open == 0


def test_a_device_that_tells_nothing() -> None:
    assert read_gpus(FakeNvml({}, device("B"))).gpus[0] == GpuInfo("GPU 0")


def test_a_device_that_falls_off_the_bus_keeps_its_name_and_its_place() -> None:
    library = FakeNvml(device("A"), device("B"))
    nvml = Nvml(library)
    nvml.read()
    library.devices[0] = {}
    assert [g.name for g in nvml.read().gpus] == ["A", "B"]
    assert nvml.read().gpus[0] == GpuInfo("A")


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
    assert sampler.snapshot() is None
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
        reading = sampler.snapshot()
        if reading is not None and reading.gpus[0].temperature == 88:
            break
        time.sleep(0.01)
    else:
        pytest.fail("no new reading came")
    sampler.stop()


def test_host_use_is_the_difference_of_two_readings(tmp_path: Path) -> None:
    stat, meminfo = tmp_path / "stat", tmp_path / "meminfo"
    meter = HostMeter(tmp_path)
    assert meter.read().total_bytes is None
    stat.write_text("cpu  100 0 100 700 100 0 0 0 9 9\ncpu0 1 1 1 1\n")
    meminfo.write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\nHugePages_Total:  0\n")
    first = meter.read()
    assert (first.cpu, first.used_bytes, first.total_bytes) == (None, 600 * 1024, 1000 * 1024)
    stat.write_text("cpu  130 0 120 740 110 0 0 0 9 9\n")
    assert meter.read().cpu == pytest.approx(50)
