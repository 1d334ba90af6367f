"""Published memory needs per model size, held against the memory of one GPU."""

from __future__ import annotations

from textual.content import Content

from engine.contract.i18n import N_, _, sentences
from engine.contract.sizes import QUANTS, SIZES, fit
from rwkv_tui.plain import column, plain, size
from rwkv_tui.services.gpu import GpuInfo, GpuReading

VERSIONS = (("x060", "RWKV-6"), ("x070", "RWKV-7"))
NAME_WIDTH, CELL_WIDTH = 6, 12
VERDICTS = {"fits": N_("fits"), "tight": N_("tight"), "too big": N_("over")}  # unsaid
STYLES = {"fits": "$text-success", "tight": "$text-warning", "too big": "$text-error"}  # unsaid


def heading(reading: GpuReading | None, index: int, key: str) -> Content:
    """Which memory the cells are held against, or a plain sentence why they are not; `key` shows the next."""
    if reading is None:
        return Content.styled(_("Asking the NVIDIA driver …"), "$foreground 70%")
    if not reading.gpus:
        found = _("No GPU found.")
        said = sentences(found, plain(reading.reason), _("Small models train on the CPU too."))
        return Content(said).stylize("bold", 0, len(found))
    gpu = reading.gpus[index]
    memory = _("{total} in all", total=size(gpu.total_bytes)) if gpu.total_bytes else _("memory N/A")
    if gpu.used_bytes is not None:
        memory = _("{memory}, {used} in use now", memory=memory, used=size(gpu.used_bytes))
    parts = [
        Content.styled(f"GPU {gpu.label or index} {plain(gpu.name)}", "bold"),
        Content(_(": {memory}", memory=memory)),
    ]
    if len(reading.gpus) > 1:
        told = _("({n} of {all}; {key}: next)", n=index + 1, all=len(reading.gpus), key=key)
        parts.append(Content.styled(f"  {told}", "dim"))
    return Content("").join(parts)


def table(gpu: GpuInfo | None, picked: str) -> Content:
    """GB per size and weight format, each cell marked when there is a GPU; `picked` is a size's name."""
    lines = [_head()]
    for row in SIZES:
        chosen = row.name == picked
        name = ("›" if chosen else " ") + row.name
        cells = [Content.styled(name.ljust(NAME_WIDTH), "bold" if chosen else "")]
        for version, _name in VERSIONS:
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
    return Content.styled(column(f"{needed:>4} {_(VERDICTS[verdict])}", CELL_WIDTH), STYLES[verdict])


FOOTNOTE = N_("As published for state tuning at ctx_len 1024, micro_bsz 1 (RWKV-7: bf16 for fp16).")
