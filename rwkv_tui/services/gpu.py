"""What the GPUs and the machine itself report, sampled away from the screen."""

from __future__ import annotations

import importlib
import json
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.contract.i18n import N_, _
from rwkv_tui.services.engine import engine_command, engine_environment

PATIENCE = 30  # seconds; CUDA may have to wake many GPUs
HISTORY = 300
"""Readings that are kept: ten minutes, at one every two seconds."""
THROTTLE = (  # bits of nvmlDeviceGetCurrentClocksEventReasons; idleness and set clocks hold nothing back
    (0x04, N_("power limit")), (0x08, N_("hardware slowdown")), (0x20, N_("heat")),
    (0x40, N_("heat, by the hardware")), (0x80, N_("power brake")),
)  # fmt: skip


@dataclass(frozen=True)
class GpuInfo:
    """One device, or one slice (MIG) of one; None for what it does not tell.

    Bytes, percent, degrees Celsius, watts, MHz. `run_bytes` is what the watched processes hold of
    `used_bytes`; `throttle` names what holds the clocks back, "" for nothing. `label` is its number for
    nvidia-smi, which need not be CUDA's. `lost`: it fell off the bus. `foreign`: it is not the watched run's.
    """

    name: str
    total_bytes: int | None = None
    used_bytes: int | None = None
    utilisation: int | None = None
    temperature: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    run_bytes: int | None = None
    clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle: str | None = None
    label: str = ""
    lost: bool = False
    uuid: str = ""
    foreign: bool = False


@dataclass(frozen=True)
class HostInfo:
    """The machine: use of all its cores in percent since the last reading, memory, the disk of the run's
    folder and the memory of the run's own processes in bytes."""

    cpu: float | None
    used_bytes: int | None
    total_bytes: int | None
    disk_free: int | None = None
    disk_bytes: int | None = None
    run_bytes: int | None = None


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
        self._names: dict[str, str] = {}
        self._slices: dict[int, int] = {}
        self._lost = False

    def read(self, pids: frozenset[int] = frozenset(), uses: Collection[str] = ()) -> GpuReading:
        """Asks every device once. Never raises: what cannot be asked is None or a reason. `pids` are the
        processes whose memory is told apart, `uses` the UUIDs of the devices that they use, if known."""
        if self._library is None:
            try:
                self._library = importlib.import_module("pynvml")
            except ImportError:
                return GpuReading((), _("The package nvidia-ml-py is missing, so GPUs cannot be read."))
        library = self._library
        try:
            if not self._open:
                library.nvmlInit()
                self._open = True
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            self.close()
            return GpuReading((), _reason(error))
        gpus = tuple(
            replace(gpu, foreign=bool(uses) and gpu.uuid not in uses)
            for index in range(count)
            for gpu in self._device(index, pids)
        )
        return GpuReading(gpus, "" if gpus else _("The NVIDIA driver runs and finds no GPU."))

    def close(self) -> None:
        """Ends the session; the next `read` opens another."""
        if self._open:
            self._open = False
            self._try("nvmlShutdown")

    def _try(self, query: str, *args: Any) -> Any:
        """What the library answers; None where it, or this version of it, has no answer."""
        call = getattr(self._library, query, None)
        try:
            return call(*args) if call else None
        except self._library.NVMLError as error:
            self._lost = self._lost or type(error).__name__ == "NVMLError_GpuIsLost"
            return None

    def _device(self, index: int, pids: frozenset[int]) -> Iterator[GpuInfo]:
        """The device and, when it is cut into slices, each of them."""
        self._lost = False
        handle = self._try("nvmlDeviceGetHandleByIndex", index)
        label = str(index)
        if handle is None:
            yield GpuInfo(self._names.get(label, f"GPU {index}"), label=label, lost=self._lost)
            return
        gpu = self._ask(handle, label, pids)
        yield replace(gpu, lost=self._lost)
        mode = self._try("nvmlDeviceGetMigMode", handle)
        if not mode or not mode[0]:
            return
        for place in range(self._try("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            part = self._try("nvmlDeviceGetMigDeviceHandleByIndex", handle, place)
            if part is not None:
                yield self._ask(part, f"{index}:{place}", pids)

    def _ask(self, handle: Any, label: str, pids: frozenset[int]) -> GpuInfo:
        lib = self._library
        name = self._try("nvmlDeviceGetName", handle)
        if name is not None:
            self._names[label] = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        memory = self._try("nvmlDeviceGetMemoryInfo", handle)
        rates = self._try("nvmlDeviceGetUtilizationRates", handle)
        power = self._try("nvmlDeviceGetPowerUsage", handle)
        limit = self._try("nvmlDeviceGetEnforcedPowerLimit", handle)
        return GpuInfo(
            name=self._names.get(label, f"GPU {label}"),
            total_bytes=int(memory.total) if memory else None,
            used_bytes=int(memory.used) if memory else None,
            utilisation=int(rates.gpu) if rates else None,
            temperature=self._try("nvmlDeviceGetTemperature", handle, lib.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1000,
            power_limit_w=None if limit is None else limit / 1000,
            run_bytes=self._held(handle, pids),
            clock_mhz=self._try("nvmlDeviceGetClockInfo", handle, lib.NVML_CLOCK_SM),
            memory_clock_mhz=self._try("nvmlDeviceGetClockInfo", handle, lib.NVML_CLOCK_MEM),
            throttle=self._throttle(handle), label=label, uuid=self._uuid(handle),
        )  # fmt: skip

    def _uuid(self, handle: Any) -> str:
        """As CUDA has it, without the GPU- or MIG- before it; "" where it is not told."""
        told = self._try("nvmlDeviceGetUUID", handle) or ""
        return (told.decode(errors="replace") if isinstance(told, bytes) else str(told))[-36:]

    def _held(self, handle: Any, pids: frozenset[int]) -> int | None:
        """Memory of the processes `pids`; None when it is not told, or none of them is known to the driver
        (as in a container, where it counts processes otherwise)."""
        processes = self._try("nvmlDeviceGetComputeRunningProcesses", handle) if pids else None
        held = [p.usedGpuMemory for p in processes or () if p.pid in pids]
        known = [int(amount) for amount in held if amount is not None]
        return sum(known) if known else None

    def _throttle(self, handle: Any) -> str | None:
        bits = self._try("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # the name before driver 535
            bits = self._try("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return None if bits is None else ", ".join(_(text) for bit, text in THROTTLE if bits & bit)


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "NVMLError_LibraryNotFound":
        return _("No NVIDIA driver is installed here; runs use the CPU.")
    if kind == "NVMLError_DriverNotLoaded":
        return _("The NVIDIA driver is installed but not loaded; runs use the CPU.")
    return _("The NVIDIA driver does not answer ({error}); see what nvidia-smi says.", error=error)


def visible() -> list[str] | None:
    """The UUIDs of the GPUs that a run would find, its first one first, as a process tells that has its
    environment; None when CUDA does not say."""
    try:
        done = subprocess.run(
            engine_command("gpus"), env=engine_environment(), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=PATIENCE, check=True,
        )  # fmt: skip
        found: list[str] | None = json.loads(done.stdout)
        return found
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def read_gpus(library: Any = None) -> GpuReading:
    """The GPUs that a run here would find, its first one first, asked once; takes up to some seconds."""
    nvml = Nvml(library)
    try:
        reading = nvml.read()
    finally:
        nvml.close()
    order = visible() if reading.gpus else None
    if order == []:
        said = _(
            "CUDA finds none of this machine's GPUs (CUDA_VISIBLE_DEVICES may hide them); runs use the CPU."
        )
        return GpuReading((), said)
    # A driver that is too old to name slices as CUDA does leaves all of them in their places.
    by_uuid = {gpu.uuid: gpu for gpu in reading.gpus}
    found = tuple(by_uuid[one] for one in order or () if one in by_uuid)
    return replace(reading, gpus=found) if found else reading


class HostMeter:
    """Reads the machine and, of it, the processes of a run: that of `pid` and its children."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._begun = False

    def read(self, pids: frozenset[int] = frozenset()) -> HostInfo:
        """Never raises; the first reading has no CPU use, since that is a difference."""
        import psutil  # in the sampling thread: the screen does not wait for it

        cpu = psutil.cpu_percent()
        begun, self._begun = self._begun, True
        memory = psutil.virtual_memory()
        free = total = None
        if self._folder is not None:
            try:
                disk = psutil.disk_usage(str(self._folder))
                free, total = disk.free, disk.total
            except OSError:
                pass
        return HostInfo(
            cpu if begun else None, memory.total - memory.available, memory.total, free, total, _held(pids)
        )


def family(pid: int) -> frozenset[int]:
    """A process and all that came from it; empty when it is gone."""
    import psutil

    try:
        return frozenset([pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))])
    except psutil.Error:
        return frozenset()


def _held(pids: frozenset[int]) -> int | None:
    import psutil

    held = []
    for pid in pids:
        try:
            held.append(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue
    return sum(held) if held else None


class GpuSampler:
    """Reads GPUs and host in one thread, so that a driver that hangs never stops the screen.

    `folder` is the one whose disk is told, `owner` says which process is the run's, `uses` which GPUs are.
    """

    def __init__(
        self,
        interval: float = 1.0,
        library: Any = None,
        *,
        folder: Path | None = None,
        owner: Callable[[], int | None] = lambda: None,
        uses: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._interval = interval
        self._owner = owner
        self._uses = uses
        self._nvml = Nvml(library)
        self._host = HostMeter(folder)
        self._end = threading.Event()
        self._history: tuple[GpuReading, ...] = ()
        self._thread = threading.Thread(target=self._sample, name="gpu-sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; the thread ends with its present reading."""
        self._end.set()

    def history(self) -> tuple[GpuReading, ...]:
        """The readings so far, newest last, HISTORY at most."""
        return self._history

    def _sample(self) -> None:
        while True:
            owner = self._owner()
            pids = family(owner) if owner is not None else frozenset()
            reading = replace(self._nvml.read(pids, self._uses()), host=self._host.read(pids))
            self._history = (*self._history[1 - HISTORY :], reading)
            if self._end.wait(self._interval):
                break
        self._nvml.close()
