"""The last lines of a run's log."""

from __future__ import annotations

from textual.content import Content

from engine.contract.i18n import _
from rwkv_tui.panels.panel import Panel
from rwkv_tui.panels.progress import clock_time
from rwkv_tui.plain import one_line
from rwkv_tui.services.run_tail import LogLine, RunModel

COLORS = {"info": "", "good": "$success", "warning": "$warning", "error": "$error"}
KEPT = 60


class LogPanel(Panel):
    """As many of the last lines as there is room for, each cut to one."""

    def __init__(self) -> None:
        super().__init__(id="log")
        self.border_title = _("log")
        self._lines: list[LogLine] = []

    def show(self, model: RunModel) -> None:
        self._lines = list(model.log)[-KEPT:]
        self.touch()

    def draw(self) -> Content:
        lines = [
            Content.assemble((f" {clock_time(line.t)} ", "dim"), (one_line(line.text), COLORS[line.level]))
            for line in self._lines[-self.size.height :]
        ]
        return Content("\n").join(line.truncate(self.size.width, ellipsis=True) for line in lines)
