"""What the tuned model answers after each save, beside the base model's answer."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from engine.contract.events import Sample
from engine.contract.i18n import _
from rwkv_tui.keys import key_of
from rwkv_tui.plain import plain
from rwkv_tui.services.run_tail import RunModel


class SamplesPanel(VerticalScroll):
    """The answers of one save, a prompt after the other; `turn` goes to another save."""

    def __init__(self) -> None:
        super().__init__(id="samples")
        self._samples: list[Sample] = []
        self._place = 0
        self._steps: list[int] = []
        self._shown: tuple[int, int] | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="when", markup=False)

    async def show(self, model: RunModel) -> None:
        newest = self._place == len(self._steps) - 1 or not self._steps
        self._samples = model.samples
        self._steps = sorted({sample.step for sample in model.samples})
        if newest:
            self._place = max(0, len(self._steps) - 1)
        await self._fill()

    async def turn(self, by: int) -> None:
        """An earlier (-1) or later (1) save."""
        self._place = min(max(0, self._place + by), max(0, len(self._steps) - 1))
        await self._fill()

    async def _fill(self) -> None:
        step = self._steps[self._place] if self._steps else 0
        answers = [sample for sample in self._samples if sample.step == step]
        if self._shown == (step, len(answers)) or not self.display:
            return
        self._shown = step, len(answers)
        when = self.query_one("#when", Static)
        await self.query(".pair, .prompt").remove()
        if not answers:
            when.update(_("After each save the prompts of sample_prompt are answered here."))
            return
        when.update(
            _(
                "After step {step:,}, answer {n} of {of}. {back} and {on} show others; the arrows scroll.",
                step=step,
                n=self._place + 1,
                of=len(self._steps),
                back=key_of(self, "chart.pan_back"),
                on=key_of(self, "chart.pan"),
            )
        )
        after = _("after step {step:,}", step=step)
        for sample in answers:
            await self.mount(
                Static(plain(sample.prompt).strip(), classes="prompt", markup=False),
                Horizontal(
                    Static(f"{_('base')}\n{plain(sample.base).strip()}", classes="base", markup=False),
                    Static(f"{after}\n{plain(sample.tuned).strip()}", markup=False),
                    classes="pair",
                ),
            )
