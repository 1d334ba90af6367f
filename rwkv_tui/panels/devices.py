"""The GPUs and the machine under a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.content import Content

from engine.contract.i18n import _
from rwkv_tui.panels.panel import Panel, bar, spark
from rwkv_tui.plain import column, one_line, size
from rwkv_tui.services.gpu import GpuInfo, GpuReading, HostInfo

BOX_WIDTH, BOX_HEIGHT, BOXES_HEIGHT = 44, 4, 8
WHOLE_HEIGHT, WHOLE_HOST = 7, 4
LINE_WIDTH = 80
RECENT = 5
"""Readings whose mean the line of the machine tells as its use of the CPU: ten seconds."""
TELLING, TELLING_CPU = 0.05, 10.0
"""Of the whole, and in percent: by how much the machine's figures must move for its line to be written anew.
The use of the CPU is told in steps of CPU_STEP, for what is less is noise."""
CPU_STEP = 5
NOT_TOLD = "N/A"
Past = Sequence[float | None]


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


def _power(gpu: GpuInfo) -> str:
    limit = "" if gpu.power_limit_w is None else f"/{gpu.power_limit_w:.0f}"
    return NOT_TOLD if gpu.power_w is None else f"{gpu.power_w:.0f}{limit} W"


def _row(label: str, value: Content | str, past: Past, top: float | None, width: int) -> Content:
    """A figure and how it went."""
    text = value if isinstance(value, Content) else Content(value)
    room = max(0, width - 47)
    return Content.assemble(
        (f" {column(label, 11)}", "dim"), text.truncate(33, ellipsis=True, pad=True), " ",
        (spark(past, room, top), "$primary"),
    )  # fmt: skip


class GpuPanel(Panel):
    """One device: a line, four where there is room, seven with its history where it has the whole screen."""

    def __init__(self, number: int, gpu: GpuInfo) -> None:
        super().__init__(classes="gpu")
        self._gpu = gpu
        self._label = gpu.label or str(number)
        self._past: Sequence[GpuInfo | None] = ()

    def show(self, gpu: GpuInfo, past: Sequence[GpuInfo | None] = ()) -> None:
        self._gpu, self._past = gpu, past
        self.touch()

    def draw(self) -> Content:
        gpu, name = self._gpu, one_line(self._gpu.name).removeprefix("NVIDIA ")
        title = Content(f"{self._label} {name}")
        if gpu.lost:
            return Content.assemble(
                (" GPU ", "bold"),
                title,
                "  ",
                (_("fell off the bus: see dmesg; the machine must restart"), "$error"),
            )
        if self.size.height == 1:
            drawn = self._line(title)
        else:
            drawn = self._whole(title) if self.size.height >= WHOLE_HEIGHT - 1 else self._box(title)
        return drawn.stylize("dim") if gpu.foreign else drawn

    def _history(self, of: Callable[[GpuInfo], float | None]) -> Past:
        return [None if gpu is None else of(gpu) for gpu in self._past]

    def _line(self, title: Content) -> Content:
        gpu = self._gpu
        memory, heat = _memory(gpu.used_bytes, gpu.total_bytes), _told(gpu.temperature, "°C")
        return Content.assemble(
            " GPU ", title.truncate(20, ellipsis=True, pad=True), f"{_told(gpu.utilisation, '%'):>5}  ",
            bar(_share(gpu.used_bytes, gpu.total_bytes), 6), f" {memory:<16} ",
            (f"{heat:>6}", _heat(gpu.temperature)), f"  {_power(gpu):>10}",
            ("!" if gpu.throttle else "", "$warning"),
        )  # fmt: skip

    def _box(self, title: Content) -> Content:
        width, gpu = self.size.width, self._gpu
        busy = f"{_told(gpu.utilisation, '%'):>5}    "
        memory = _memory(gpu.used_bytes, gpu.total_bytes)
        space = max(4, width - 26)
        heat = (_told(gpu.temperature, "°C"), _heat(gpu.temperature))
        held = _("held back: {reason}", reason=gpu.throttle) if gpu.throttle else ""
        slow = Content.assemble((f"   {held}" if held else "", "$warning"))
        busy_word, memory_word, power_word = (column(one, 5) for one in (_("busy"), _("mem"), _("power")))
        return Content("\n").join([
            Content.assemble(("GPU ", "bold"), title.truncate(max(1, width - 5), ellipsis=True)),
            Content.assemble(
                busy_word, (spark(self._history(lambda g: g.utilisation), space, 100), "$primary"), busy, heat
            ),
            Content.assemble(memory_word, bar(_share(gpu.used_bytes, gpu.total_bytes), space), f" {memory}"),
            Content.assemble(power_word, " ", _power(gpu), slow).truncate(width, ellipsis=True),
        ])  # fmt: skip

    def _whole(self, title: Content) -> Content:
        width, gpu, history = self.size.width, self._gpu, self._history
        held = NOT_TOLD if gpu.run_bytes is None else size(gpu.run_bytes)
        memory = _("{used}, run {held}", used=_memory(gpu.used_bytes, gpu.total_bytes), held=held)
        heat = Content.assemble((_told(gpu.temperature, "°C"), _heat(gpu.temperature)))
        clocks = _("{clock}, memory {memory}", clock=_told(gpu.clock_mhz, "MHz"),
                   memory=_told(gpu.memory_clock_mhz, "MHz"))  # fmt: skip
        slow = NOT_TOLD if gpu.throttle is None else gpu.throttle or _("nothing")
        return Content("\n").join([
            Content.assemble((" GPU ", "bold"), title, "   ", _("clocks held back by: {reason}", reason=slow))
            .truncate(width, ellipsis=True),
            _row(_("busy"), _told(gpu.utilisation, "%"), history(lambda g: g.utilisation), 100, width),
            _row(_("memory"), memory, history(lambda g: g.used_bytes), gpu.total_bytes, width),
            _row(_("temperature"), heat, history(lambda g: g.temperature), 100, width),
            _row(_("power"), _power(gpu), history(lambda g: g.power_w), gpu.power_limit_w, width),
            _row(_("clock"), clocks, history(lambda g: g.clock_mhz), None, width),
        ])  # fmt: skip


class HostPanel(Panel):
    """The machine: in one line, in two when the reason for having no GPU does not fit beside it, or in four
    with its history."""

    def __init__(self) -> None:
        super().__init__(id="host")
        self._reason = ""
        self._host = self._steady = HostInfo(None, None, None)
        self._past: Sequence[HostInfo] = ()

    def show(self, reason: str, host: HostInfo, past: Sequence[HostInfo] = ()) -> None:
        self._reason, self._host, self._past = reason, host, past
        known = [one.cpu for one in past[-RECENT:] if one.cpu is not None]
        calm = replace(host, cpu=sum(known) / len(known)) if known else host
        if has_moved(self._steady, calm):
            self._steady = calm
        self.touch()

    def draw(self) -> Content:
        host = self._steady
        if self.size.height >= WHOLE_HOST:
            return self._whole()
        cpu = None if host.cpu is None else round(host.cpu / CPU_STEP) * CPU_STEP
        figures = f"CPU {_told(cpu, '%'):>5}   RAM {_memory(host.used_bytes, host.total_bytes)}"
        if host.disk_free is not None:
            figures += "   " + _("disk {free} free", free=size(host.disk_free))
        if not self._reason:
            return Content.assemble(" ", (figures, "dim"))
        gap = "\n " if self.size.height > 1 else "   "
        return Content.assemble(f" {self._reason}{gap}", (figures, "dim"))

    def _whole(self) -> Content:
        host, width = self._host, self.size.width
        held = NOT_TOLD if host.run_bytes is None else size(host.run_bytes)
        memory = _("{used}, run {held}", used=_memory(host.used_bytes, host.total_bytes), held=held)
        disk = (
            NOT_TOLD
            if host.disk_free is None
            else _("{free} free of {whole}", free=size(host.disk_free), whole=size(host.disk_bytes or 0))
        )
        return Content("\n").join([
            Content.assemble(" ", (_("Machine"), "bold"), f"   {self._reason}")
            .truncate(width, ellipsis=True),
            _row("CPU", _told(host.cpu, "%"), [h.cpu for h in self._past], 100, width),
            _row("RAM", memory, [h.used_bytes for h in self._past], host.total_bytes, width),
            _row(_("disk"), disk, [], None, width),
        ])  # fmt: skip


def has_moved(was: HostInfo, now: HostInfo) -> bool:
    """Whether one who reads the line would care; a screen that is left open writes nothing else."""
    pairs = (
        (was.cpu, now.cpu, TELLING_CPU),
        (was.used_bytes, now.used_bytes, TELLING * (now.total_bytes or 1)),
        (was.disk_free, now.disk_free, TELLING * (now.disk_free or 1)),
    )
    return any(
        (before is None) != (after is None)
        or (before is not None and after is not None and abs(after - before) >= step)
        for before, after, step in pairs
    )


class Devices(Container):
    """A panel per GPU, and the machine. `show` takes the readings when there is a new one."""

    def __init__(self) -> None:
        super().__init__(id="devices")
        self._reading: GpuReading | None = None
        self._whole = False

    def compose(self) -> ComposeResult:
        yield VerticalScroll(id="gpus")
        yield HostPanel()

    def fill(self, whole: bool) -> None:
        """Whether there is the whole screen for it."""
        self._whole = whole
        self._arrange()

    async def show(self, history: Sequence[GpuReading]) -> None:
        reading = history[-1] if history else None
        if reading is None or reading is self._reading:
            return
        moved = self._reading is None or self._reading.reason != reading.reason
        self._reading = reading
        panels = list(self.query(GpuPanel))
        if len(panels) != len(reading.gpus):
            grid = self.query_one("#gpus")
            await grid.remove_children()
            panels = [GpuPanel(i, gpu) for i, gpu in enumerate(reading.gpus)]
            await grid.mount_all(panels)
            moved = True
        for place, (panel, gpu) in enumerate(zip(panels, reading.gpus, strict=True)):
            panel.show(gpu, [r.gpus[place] if place < len(r.gpus) else None for r in history])
        if moved:
            self._arrange()
        self.query_one(HostPanel).show(reading.reason, reading.host, [r.host for r in history])

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Boxes side by side where they fit, else a line each."""
        count, width = len(self._reading.gpus) if self._reading else 0, self.size.width
        across = max(1, min(count, width // BOX_WIDTH))
        boxes = self.screen.has_class("-tall") and -(-count // across) * BOX_HEIGHT <= BOXES_HEIGHT
        grid = self.query_one("#gpus")
        grid.set_class(self._whole, "-whole")
        grid.set_class(boxes and not self._whole, "-boxes")
        lines = max(1, width // LINE_WIDTH)
        grid.styles.grid_size_columns = 1 if self._whole else across if boxes else lines
        grid.display = count > 0
        wrapped = self._reading is not None and cell_len(self._reading.reason) + 56 > width
        self.query_one(HostPanel).styles.height = WHOLE_HOST if self._whole else 2 if wrapped else 1
