"""The application around one screen, with nothing in it that differs from run to run."""

from __future__ import annotations

from pathlib import Path

from engine.contract.paths import UserPaths
from rwkv_tui.app import TuneApp
from rwkv_tui.services.gpu import GpuInfo, GpuReading, HostInfo
from tests.fakes.stories import T0

HOST = HostInfo(34.0, 12 * 2**30, 62 * 2**30)
NO_GPU = GpuReading((), "No NVIDIA driver is installed here; runs use the CPU.", HOST)
TWO_GPUS = GpuReading(
    (
        GpuInfo("NVIDIA H200", 150 * 10**9, 131 * 10**9, 97, 64, 612.0, 700.0),
        GpuInfo("NVIDIA GeForce RTX 4090", 25 * 10**9, 3 * 10**9, None, 91, None, 450.0),
    ),
    "",
    HOST,
)


class StillGpus:
    """A GPU source with one reading."""

    def __init__(self, reading: GpuReading = NO_GPU) -> None:
        self.reading = reading

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def history(self) -> tuple[GpuReading, ...]:
        return (self.reading,)


def clock() -> float:
    """Always the same moment, 280 s after every told run began."""
    return T0 + 280


def app(folder: Path) -> TuneApp:
    """Starts on the list of runs, which is empty."""
    return TuneApp(UserPaths.under(folder), start="", clock=clock)
