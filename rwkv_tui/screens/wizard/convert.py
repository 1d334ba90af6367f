"""The conversion of data: its few settings, its progress, and a way out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Button, Input, Label, Static
from textual.worker import Worker

from engine.contract.i18n import N_, _
from rwkv_tui.draft import Draft
from rwkv_tui.keys import key_of
from rwkv_tui.marks import left_out
from rwkv_tui.plain import duration, plain, size
from rwkv_tui.services.files import free_prefix, is_pair, real_path, short
from rwkv_tui.widgets.choice import Choice
from rwkv_tui.widgets.path_input import PathInput

if TYPE_CHECKING:
    from engine.contract.events import Progress
    from engine.contract.reports import Converted, DataSummary

PHASES = {
    "reading": N_("reading and tokenising"),
    "holding out": N_("choosing what is held out"),  # unsaid
    "writing": N_("shuffling and writing"),
}
ADVICE = {
    "fields": N_("What is what in a row, where it is not recognised: prompt=q,answer=a or text=body."),
    "template-file": N_("How conversations become text; empty is the way RWKV's models know."),
    "repeat": N_("Each document is written so many times, shuffled afresh each time; 10 is usual."),
    "held-out": N_("Sets documents aside as a second pair, NAME-val, to measure with: a share such as 0.05, "
                   "or a number of them; 0 sets none aside."),
    "weights": N_("Mixes the sources: 3,1 takes one token of the second for three of the first. Empty takes "
                  "all of each."),
    "seed": N_("The same seed writes the same bytes again."),
    "out": N_("The name of the pair, without .bin and .idx."),
    "skip": N_("What cannot be read is left out, or keeps the file from being converted."),
}  # fmt: skip
"""What is said of each field, by the name of its editor."""


class RowsForm(Vertical):
    """How rows are read, where their content does not say it. Posts `Changed` when that changes."""

    class Changed(Message):
        """The data is to be read anew."""

    def __init__(self, cwd: Path) -> None:
        super().__init__(id="rows")
        self._cwd = cwd
        self._told = self.flags()

    def compose(self) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label(_("Fields"), classes="name")
            yield Input(placeholder="prompt=q,answer=a", id="fields", compact=True, select_on_focus=False)
        with Horizontal(classes="line"):
            yield Label(_("Template"), classes="name")
            own = _("RWKV's own ({key})", key=key_of(self, "data.template"))
            yield PathInput(cwd=self._cwd, placeholder=own, id="template-file")

    def flags(self) -> tuple[str, ...]:
        """The same as flags of a job."""
        if not self.is_mounted:
            return ()
        fields, template = self.query_one("#fields", Input).value.strip(), self.template()
        return (
            *([f"--fields={fields}"] if fields else []),
            *([f"--template={template}"] if template else []),
        )

    def template(self) -> Path | None:
        """The file of a template of one's own."""
        line = self.query_one("#template-file", PathInput)
        return line.path if line.value.strip() else None

    def use(self, template: Path) -> None:
        """Takes a template that was just written."""
        self.query_one("#template-file", PathInput).value = short(template, self._cwd)
        self._told = ()
        self._tell()

    @on(Input.Submitted)
    @on(Input.Blurred)
    def _tell(self) -> None:
        if self._told != self.flags():
            self._told = self.flags()
            self.post_message(self.Changed())


class ConvertForm(Vertical):
    """Shown for what is no pair yet. Posts `Done` when the pair is written."""

    class Done(Message):
        """The pair is written, whole."""

        def __init__(self, report: Converted) -> None:
            super().__init__()
            self.report = report

    class Refused(Message):
        """The job would not convert this file; `reason` may list bad lines."""

        def __init__(self, reason: str) -> None:
            super().__init__()
            self.reason = reason

    def __init__(self, draft: Draft, cwd: Path, rows: RowsForm) -> None:
        super().__init__(id="convert")
        self.draft, self._rows = draft, rows
        self.cwd = cwd
        self._sources: tuple[Path, ...] = ()
        self._bad_count = 0
        self._suggested = ""
        self._job: Worker[None] | None = None
        self.display = False
        self._first: Progress | None = None
        self._phases = PHASES

    def compose(self) -> ComposeResult:
        yield Label(_("Convert to binidx"), classes="title")
        with Horizontal(classes="line"):
            yield Label(_("Repeat"), classes="name")
            yield Input("10", id="repeat", type="integer", compact=True, select_on_focus=False)
        with Horizontal(classes="line"):
            yield Label(_("Held out"), classes="name")
            yield Input("0", id="held-out", type="number", compact=True, select_on_focus=False)
        with Horizontal(classes="line", id="weights-line"):
            yield Label(_("Weights"), classes="name")
            yield Input(placeholder="3,1", id="weights", compact=True, select_on_focus=False)
        with Horizontal(classes="line"):
            yield Label(_("Seed"), classes="name")
            yield Input("0", id="seed", type="integer", compact=True, select_on_focus=False)
        with Horizontal(classes="line"):
            yield Label(_("Output"), classes="name")
            yield PathInput(cwd=self.cwd, suffixes=("/",), id="out")
        with Horizontal(classes="line", id="skip-line"):
            yield Label(_("Bad lines"), classes="name")
            labels = {"0": _("refuse the file"), "1": _("skip them")}
            yield Choice(("0", "1"), "0", labels=labels, id="skip")
        yield Button(self._go_label(), id="go", variant="primary", compact=True)
        yield Static(id="progress")

    def _go_label(self) -> str:
        return _("Convert ({key})", key=key_of(self, "data.convert"))

    def offer(self, data: DataSummary | None, sources: Sequence[Path] = ()) -> None:
        """Shows the form for rows that make documents, with a free name for their pair; else hides it."""
        self.display = data is not None and data.kind == "rows" and data.documents > 0
        self._sources = tuple(sources) if self.display else ()
        if data is None or not self._sources:
            return
        self.query_one("#weights-line").display = len(sources) > 1
        self._bad_count = data.bad_count
        self.query_one("#skip-line").display = data.bad_count > 0
        self._say("")
        out = self.query_one("#out", PathInput)
        if out.value.strip() in ("", self._suggested):
            self._suggested = short(free_prefix(self._sources[0]), self.cwd)
            out.value = self._suggested

    def toggle(self) -> None:
        """Starts the conversion, or cancels the one under way."""
        if not self.cancel() and self._sources:
            self._start()

    @on(Button.Pressed, "#go")
    @on(Input.Submitted)
    def _pressed(self) -> None:
        self.toggle()

    def _start(self) -> None:
        skip = self.query_one("#skip", Choice).value == "1"
        if self._bad_count and not skip:
            self._say(_("! Mend the bad lines, or choose to skip them."), "$text-error")
            self.query_one("#skip").focus()
            return
        names = ("repeat", "seed", "held-out", "weights", "out")
        given = {name: self.query_one(f"#{name}", Input).value.strip() for name in names}
        problem = _problem(given, len(self._sources)) or _taken(real_path(given["out"], self.cwd))
        if problem:
            self._say(f"! {problem}", "$text-error")
            return
        args = ["--out", str(real_path(given["out"], self.cwd)), "--repeat", given["repeat"]]
        args += ["--seed", given["seed"], f"--held_out={given['held-out'] or 0}", *self._rows.flags()]
        args += ["--ctx_len", str(self.draft.approximate().ctx_len)]
        if given["weights"] and len(self._sources) > 1:
            args.append(f"--weights={given['weights']}")
        if skip:
            args.append("--skip_bad")
        self._first = None
        holds = float(given["held-out"] or 0)
        self._phases = {p: told for p, told in PHASES.items() if holds or p != "holding out"}  # unsaid
        self._say(_("Starting …"))
        self.query_one("#go", Button).label = _("Cancel ({key})", key=key_of(self, "wizard.leave"))
        self._job = self._convert([*args, "--", *map(str, self._sources)])

    def cancel(self) -> bool:
        """Ends the job, which then leaves nothing behind; False when there is none."""
        if self._job is None:
            return False
        self._job.cancel()
        self._ended()
        self._say(_("Cancelled; nothing was written."), "$text-warning")
        return True

    def _ended(self) -> None:
        self._job = None
        self.query_one("#go", Button).label = self._go_label()

    @work(exclusive=True, group="convert")
    async def _convert(self, args: list[str]) -> None:
        from engine.contract.events import Converted, Failed, Progress
        from rwkv_tui.services.jobs import events

        async with aclosing(events("convert", *args)) as told:
            async for event in told:
                if isinstance(event, Progress):
                    self._first = self._first if self._first and self._first.phase == event.phase else event
                    self._say_progress(self._first, event)
                elif isinstance(event, Failed):
                    self._refuse(f"{event.reason} {event.remedy}".strip())
                elif isinstance(event, Converted):
                    self._ended()
                    self._suggested = self.query_one("#out", PathInput).value
                    took = duration(event.report.seconds)
                    self._say(_("✓ Done in {time}.", time=took), "$text-success")
                    if event.report.skipped:
                        self.notify(left_out(event.report.skipped), markup=False)
                    self.post_message(self.Done(event.report))

    def _refuse(self, reason: str) -> None:
        """The first line here; all of it where there is room."""
        from rwkv_tui.widgets.data_report import in_the_form

        reason = in_the_form(reason)
        self._ended()
        self.query_one("#skip-line").display = True
        self._say("! " + plain(reason.split("\n", 1)[0]), "$text-error")
        self.post_message(self.Refused(reason))

    def _say(self, text: str, style: str = "") -> None:
        self.query_one("#progress", Static).update(Content.styled(text, style))

    def _say_progress(self, first: Progress, now: Progress) -> None:
        """Bar, speed and time left, over the time since the phase began."""
        from rwkv_tui.widgets.data_report import bar

        share = now.done / now.total if now.total else 0.0
        n, all = list(self._phases).index(now.phase) + 1, len(self._phases)
        phase = _("{n} of {all}: {phase}", n=n, all=all, phase=_(self._phases[now.phase]))
        lines = [phase, f"{bar(share, max(10, self.size.width - 6))} {share:4.0%}"]
        seconds = now.t - first.t
        if seconds > 0 and now.done > first.done:
            rate = (now.done - first.done) / seconds
            reading = now.phase == "reading"
            speed = f"{size(rate)}/s" if reading else _("{rate:,.0f} tokens/s", rate=rate)
            left = duration((now.total - now.done) / rate)
            lines.append(_("{speed}, {time} left", speed=speed, time=left))
        self._say("\n".join(lines))


def _problem(given: Mapping[str, str], sources: int) -> str:
    """What is wrong with the form, or nothing."""
    if not given["repeat"].isdecimal() or int(given["repeat"]) < 1:
        return _("Repeat must be a whole number from 1.")
    if not given["seed"].isdecimal():
        return _("Seed must be a whole number from 0.")
    if not _fits(given["held-out"] or "0", lambda x: 0 <= x < 1 or x == x // 1):
        return _("Held out must be a share below 1, or a whole number.")
    weights = [w for w in given["weights"].split(",") if given["weights"]]
    fit = len(weights) == sources and all(_fits(weight, lambda x: x > 0) for weight in weights)
    if weights and sources > 1 and not fit:
        return _("Weights must be {n} numbers above 0, by comma, or nothing.", n=sources)
    return "" if given["out"] else _("Output needs a name.")


def _taken(prefix: Path) -> str:
    """That a pair of the name is there: the form never replaces one."""
    told = _("There is a pair {name} already: give Output another name.", name=plain(prefix.name))
    return told if is_pair(prefix) else ""


def _fits(text: str, holds: Callable[[float], bool]) -> bool:
    """Whether it is a number of which that holds."""
    try:
        return holds(float(text)) and float(text) < inf
    except ValueError:
        return False
