"""Published memory needs per model size, held against the memory of one GPU."""

from __future__ import annotations

from textual.content import Content

from engine.contract.sizes import QUANTS, SIZES, fit
from rwkv_tui.plain import plain, size
from rwkv_tui.services.gpu import GpuInfo, GpuReading

VERSIONS = (("x060", "RWKV-6"), ("x070", "RWKV-7"))
NAME_WIDTH, CELL_WIDTH = 6, 12
STYLES = {"fits": "$text-success", "tight": "$text-warning", "too big": "$text-error"}


def heading(reading: GpuReading | None, index: int) -> Content:
    """Which memory the cells are held against, or a plain sentence why they are not."""
    if reading is None:
        return Content.styled("Asking the NVIDIA driver …", "$foreground 70%")
    if not reading.gpus:
        return Content.assemble(
            ("No GPU found. ", "bold"), plain(reading.reason), " Small models train on the CPU too."
        )
    gpu = reading.gpus[index]
    total = f"{size(gpu.total_bytes)} in all" if gpu.total_bytes else "memory N/A"
    used = f", {size(gpu.used_bytes)} in use now" if gpu.used_bytes is not None else ""
    more = f"  ({index + 1} of {len(reading.gpus)}; g: next)" if len(reading.gpus) > 1 else ""
    return Content.assemble((f"GPU {index} {plain(gpu.name)}", "bold"), f": {total}{used}", (more, "dim"))


def table(gpu: GpuInfo | None, picked: str) -> Content:
    """GB per size and weight format, each cell marked when there is a GPU; `picked` is a size's name."""
    lines = [_head()]
    for row in SIZES:
        chosen = row.name == picked
        name = ("›" if chosen else " ") + row.name
        cells = [Content.styled(name.ljust(NAME_WIDTH), "bold" if chosen else "")]
        for version, _ in VERSIONS:
            needs = row.vram.get(version, {})
            cells += [_cell(needs.get(quant), gpu) for quant in QUANTS]
        lines.append(Content("").join(cells))
    return Content("\n").join(lines)


def _head() -> Content:
    first = "GB".ljust(NAME_WIDTH) + "".join(f"{name:<{CELL_WIDTH * len(QUANTS)}}" for _, name in VERSIONS)
    second = " " * NAME_WIDTH + "".join(f"{quant:<{CELL_WIDTH}}" for _ in VERSIONS for quant in QUANTS)
    return Content.styled(f"{first.rstrip()}\n{second.rstrip()}", "$foreground 70%")


def _cell(needed: float | None, gpu: GpuInfo | None) -> Content:
    if needed is None:
        return Content.styled(f"{'–':>4}".ljust(CELL_WIDTH), "dim")
    if gpu is None or gpu.total_bytes is None:
        return Content(f"{needed:>4}".ljust(CELL_WIDTH))
    verdict = fit(needed, gpu.total_bytes)
    return Content.styled(f"{needed:>4} {verdict}".ljust(CELL_WIDTH), STYLES[verdict])


FOOTNOTE = "As published for state tuning at ctx_len 1024, micro_bsz 1 (RWKV-7: bf16 for fp16)."
