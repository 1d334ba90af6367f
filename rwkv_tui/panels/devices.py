"""The GPUs and the machine under a run."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.content import Content

from rwkv_tui.panels.panel import Panel, bar
from rwkv_tui.plain import one_line, size
from rwkv_tui.services.gpu import GpuInfo, GpuReading, HostInfo

BOX_WIDTH, BOX_HEIGHT, BOXES_HEIGHT = 44, 4, 8
LINE_WIDTH = 80
NOT_TOLD = "N/A"


def _told(value: float | None, unit: str) -> str:
    return NOT_TOLD if value is None else f"{value:.0f} {unit}"


def _memory(used: int | None, total: int | None) -> str:
    if total is None:
        return NOT_TOLD
    return f"{NOT_TOLD if used is None else size(used).rpartition(' ')[0]}/{size(total)}"


def _share(part: float | None, whole: float | None) -> float:
    return part / whole if part is not None and whole else 0.0


def _heat(temperature: int | None) -> str:
    return "$warning" if temperature is not None and temperature >= 85 else ""


class GpuPanel(Panel):
    """One device: a line, or four where there is room."""

    def __init__(self, number: int, gpu: GpuInfo) -> None:
        super().__init__(classes="gpu")
        self._number, self._gpu = number, gpu

    def show(self, gpu: GpuInfo) -> None:
        self._gpu = gpu
        self.touch()

    def draw(self) -> Content:
        width, gpu, name = self.size.width, self._gpu, one_line(self._gpu.name).removeprefix("NVIDIA ")
        busy = f"{_told(gpu.utilisation, '%'):>5}"
        memory = _memory(gpu.used_bytes, gpu.total_bytes)
        limit = "" if gpu.power_limit_w is None else f"/{gpu.power_limit_w:.0f}"
        power = NOT_TOLD if gpu.power_w is None else f"{gpu.power_w:.0f}{limit} W"
        heat = (_told(gpu.temperature, "°C"), _heat(gpu.temperature))
        title = Content(f"{self._number} {name}")
        if self.size.height == 1:
            return Content.assemble(
                " GPU ", title.truncate(20, ellipsis=True, pad=True), busy, "  ",
                bar(_share(gpu.used_bytes, gpu.total_bytes), 6), f" {memory:<16} ",
                (f"{heat[0]:>6}", heat[1]), f"  {power:>10}",
            )  # fmt: skip
        space = max(4, width - 26)
        return Content("\n").join([
            Content.assemble(("GPU ", "bold"), title.truncate(max(1, width - 5), ellipsis=True)),
            Content.assemble("busy ", bar(_share(gpu.utilisation, 100), space), f"{busy}    ", heat),
            Content.assemble("mem  ", bar(_share(gpu.used_bytes, gpu.total_bytes), space), f" {memory}"),
            Content.assemble("power ", power),
        ])  # fmt: skip


class HostPanel(Panel):
    """The machine in one line, or two when the reason for having no GPU does not fit beside it."""

    def __init__(self) -> None:
        super().__init__(id="host")
        self._reason = ""
        self._host = HostInfo(None, None, None)

    def show(self, reason: str, host: HostInfo) -> None:
        self._reason, self._host = reason, host
        self.touch()

    def draw(self) -> Content:
        host = self._host
        figures = f"CPU {_told(host.cpu, '%'):>5}   RAM {_memory(host.used_bytes, host.total_bytes)}"
        if not self._reason:
            return Content.assemble(" ", (figures, "dim"))
        gap = "\n " if self.size.height > 1 else "   "
        return Content.assemble(f" {self._reason}{gap}", (figures, "dim"))


class Devices(Container):
    """A panel per GPU, and the machine. `show` takes a reading when there is a new one."""

    def __init__(self) -> None:
        super().__init__(id="devices")
        self._reading: GpuReading | None = None

    def compose(self) -> ComposeResult:
        yield VerticalScroll(id="gpus")
        yield HostPanel()

    async def show(self, reading: GpuReading | None) -> None:
        if reading is None or reading is self._reading:
            return
        moved = self._reading is None or self._reading.reason != reading.reason
        self._reading = reading
        panels = list(self.query(GpuPanel))
        if len(panels) != len(reading.gpus):
            grid = self.query_one("#gpus")
            await grid.remove_children()
            await grid.mount_all(GpuPanel(i, gpu) for i, gpu in enumerate(reading.gpus))
            moved = True
        else:
            for panel, gpu in zip(panels, reading.gpus, strict=True):
                panel.show(gpu)
        if moved:
            self._arrange()
        self.query_one(HostPanel).show(reading.reason, reading.host)

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Boxes side by side where they fit, else a line each."""
        count, width = len(self._reading.gpus) if self._reading else 0, self.size.width
        across = max(1, min(count, width // BOX_WIDTH))
        boxes = self.screen.has_class("-tall") and -(-count // across) * BOX_HEIGHT <= BOXES_HEIGHT
        grid = self.query_one("#gpus")
        grid.set_class(boxes, "-boxes")
        grid.styles.grid_size_columns = across if boxes else max(1, width // LINE_WIDTH)
        grid.display = count > 0
        wrapped = self._reading is not None and len(self._reading.reason) + 36 > width
        self.query_one(HostPanel).styles.height = 2 if wrapped else 1
