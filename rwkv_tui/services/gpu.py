"""What the GPUs and the machine itself report, sampled away from the screen."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class GpuInfo:
    """One device; None for what it does not tell. Bytes, percent, degrees Celsius, watts."""

    name: str
    total_bytes: int | None = None
    used_bytes: int | None = None
    utilisation: int | None = None
    temperature: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


@dataclass(frozen=True)
class HostInfo:
    """The machine: use of all its cores in percent since the last reading, and memory in bytes."""

    cpu: float | None
    used_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True)
class GpuReading:
    """The devices found; `reason` says in a sentence why there is none."""

    gpus: tuple[GpuInfo, ...]
    reason: str = ""
    host: HostInfo = HostInfo(None, None, None)


class Nvml:
    """A session with the NVIDIA management library. `library` is the pynvml module or its like."""

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._open = False
        self._names: dict[int, str] = {}

    def read(self) -> GpuReading:
        """Asks every device once. Never raises: what cannot be asked is None or a reason."""
        if self._library is None:
            try:
                self._library = importlib.import_module("pynvml")
            except ImportError:
                return GpuReading((), "The package nvidia-ml-py is missing, so GPUs cannot be read.")
        library = self._library
        try:
            if not self._open:
                library.nvmlInit()
                self._open = True
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            self.close()
            return GpuReading((), _reason(error))
        gpus = tuple(self._device(i) for i in range(count))
        return GpuReading(gpus, "" if gpus else "The NVIDIA driver runs and finds no GPU.")

    def close(self) -> None:
        """Ends the session; the next `read` opens another."""
        if self._open:
            self._open = False
            self._try(self._library.nvmlShutdown)

    def _try(self, call: Callable[..., T], *args: Any) -> T | None:
        try:
            return call(*args)
        except self._library.NVMLError:
            return None

    def _device(self, index: int) -> GpuInfo:
        lib = self._library
        handle = self._try(lib.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            return GpuInfo(self._names.get(index, f"GPU {index}"))
        name = self._try(lib.nvmlDeviceGetName, handle)
        if name is not None:
            self._names[index] = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        memory = self._try(lib.nvmlDeviceGetMemoryInfo, handle)
        rates = self._try(lib.nvmlDeviceGetUtilizationRates, handle)
        power = self._try(lib.nvmlDeviceGetPowerUsage, handle)
        limit = self._try(lib.nvmlDeviceGetEnforcedPowerLimit, handle)
        return GpuInfo(
            name=self._names.get(index, f"GPU {index}"),
            total_bytes=int(memory.total) if memory else None,
            used_bytes=int(memory.used) if memory else None,
            utilisation=int(rates.gpu) if rates else None,
            temperature=self._try(lib.nvmlDeviceGetTemperature, handle, lib.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1000,
            power_limit_w=None if limit is None else limit / 1000,
        )


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "NVMLError_LibraryNotFound":
        return "No NVIDIA driver is installed here; runs use the CPU."
    if kind == "NVMLError_DriverNotLoaded":
        return "The NVIDIA driver is installed but not loaded; runs use the CPU."
    return f"The NVIDIA driver does not answer ({error}); see what nvidia-smi says."


def read_gpus(library: Any = None) -> GpuReading:
    """The GPUs of this machine, asked once; takes some tens of milliseconds."""
    nvml = Nvml(library)
    try:
        return nvml.read()
    finally:
        nvml.close()


class HostMeter:
    """Reads the kernel's own counters; `proc` is where they lie."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._last: tuple[int, int] | None = None

    def read(self) -> HostInfo:
        """Never raises; the first reading has no CPU use, since that is a difference."""
        return HostInfo(self._cpu(), *self._memory())

    def _cpu(self) -> float | None:
        try:
            first = (self._proc / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
            ticks = [int(f) for f in first]
        except (OSError, ValueError):
            return None
        now = sum(ticks), sum(ticks[3:5])  # fields 4 and 5 are idle and iowait, see proc_stat(5)
        last, self._last = self._last, now
        if last is None or now[0] <= last[0]:
            return None
        return 100 * (1 - (now[1] - last[1]) / (now[0] - last[0]))

    def _memory(self) -> tuple[int | None, int | None]:
        try:
            lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
            fields = {
                key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines)
            }
            return fields["MemTotal"] - fields["MemAvailable"], fields["MemTotal"]
        except (OSError, ValueError, KeyError, IndexError):
            return None, None


class GpuSampler:
    """Reads GPUs and host in one thread, so that a driver that hangs never stops the screen."""

    def __init__(self, interval: float = 1.0, library: Any = None) -> None:
        self._interval = interval
        self._nvml = Nvml(library)
        self._host = HostMeter()
        self._end = threading.Event()
        self._latest: GpuReading | None = None
        self._thread = threading.Thread(target=self._sample, name="gpu-sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; the thread ends with its present reading."""
        self._end.set()

    def snapshot(self) -> GpuReading | None:
        """The latest reading, None before the first."""
        return self._latest

    def _sample(self) -> None:
        while True:
            reading = self._nvml.read()
            self._latest = GpuReading(reading.gpus, reading.reason, self._host.read())
            if self._end.wait(self._interval):
                break
        self._nvml.close()
