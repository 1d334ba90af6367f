"""A conversation with what was tuned, and with the base beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Input, Static

from engine.contract import events as ev
from engine.contract.i18n import N_, _, sentences
from engine.contract.talk import Ask, Forget, Halt, Request, Sampling
from rwkv_tui.keys import key_of
from rwkv_tui.plain import duration, one_line, plain
from rwkv_tui.screens.base import TuneScreen
from rwkv_tui.screens.sampling import SamplingScreen
from rwkv_tui.services.jobs import Dialogue, dialogue
from rwkv_tui.widgets.plain_input import PlainInput

REDRAW = 0.125  # seconds: over a slow line, more often is no faster
NAMES: dict[ev.Who, str] = {"base": N_("base"), "tuned": N_("tuned")}
COLORS: dict[ev.Who, str] = {"base": "$foreground 70%", "tuned": "$accent"}


class Answer(Static):
    """An answer as it comes."""

    def __init__(self, who: ev.Who) -> None:
        super().__init__(classes="answer")
        self.text, self.note = "", _("thinking…")
        self.speed = 0.0  # tokens a second, once it is complete
        self._who = who
        self._drawn = 0.0

    def on_mount(self) -> None:
        self.draw()

    def add(self, text: str) -> None:
        """More of it."""
        self.text += text
        if time.monotonic() - self._drawn >= REDRAW:
            self.draw()

    def draw(self) -> None:
        """Shows all there is."""
        self._drawn = time.monotonic()
        said = plain(self.text).strip()
        head = Content.assemble((_(NAMES[self._who]), f"bold {COLORS[self._who]}"), ("  " + self.note, "dim"))
        self.update(Content.assemble(head, "\n", said) if said else head)


class ChatScreen(TuneScreen[None]):
    """`flags` are those of the job `chat`, which runs as long as this screen is there."""

    CSS_PATH = "../styles/chat.tcss"
    HELP_TEXT = N_(
        "Type a question and press Enter. What was said before counts, until you begin anew. Back stops an "
        "answer, and leaves when there is none.\n"
        "Who: the tuned model, the base, or both. Text: what you type is continued as it stands, without the "
        "form of a conversation. Again: another answer to the same."
    )
    BINDINGS = [
        Binding("escape", "back", N_("Back"), id="chat.back"),
        Binding("f2", "who", N_("Who"), id="chat.who"),
        Binding("f3", "sampling", N_("Sampling"), id="chat.sampling"),
        Binding("f4", "form", N_("Text"), id="chat.form"),
        Binding("ctrl+r", "again", N_("Again"), id="chat.again"),
        Binding("ctrl+n", "forget", N_("Anew"), id="chat.forget"),
        Binding("ctrl+y", "copy", N_("Copy"), id="chat.copy"),
        Binding("pageup,ctrl+up", "scroll(-1)", N_("Up"), show=False, id="chat.up"),
        Binding("pagedown,ctrl+down", "scroll(1)", N_("Down"), show=False, id="chat.down"),
    ]

    def __init__(self, flags: Sequence[str], sampling: Sampling | None = None) -> None:
        super().__init__()
        self._flags = list(flags)
        self._job: Dialogue | None = None
        self._ready: ev.Ready | None = None
        self._who: tuple[ev.Who, ...] = ("tuned",)
        self._text = False
        self.sampling = sampling or Sampling()
        self._asked = ""
        self._draws = 0  # so that another answer is another one
        self._waiting: list[Answer] = []

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield VerticalScroll(id="said", can_focus=False)
        yield PlainInput(placeholder=_("loading the model…"), id="question", compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one("#question").focus()
        self._tell_head(_("loading the model…"))
        self.run_worker(self._converse(), group="chat")

    async def _converse(self) -> None:
        async with dialogue("chat", *self._flags) as self._job:
            began = time.monotonic()
            async for event in self._job.events:
                if isinstance(event, ev.Progress):
                    self._tell_loading(event, time.monotonic() - began)
                elif isinstance(event, ev.Ready):
                    self._is_ready(event)
                elif isinstance(event, ev.Piece) and self._waiting:
                    self._waiting[0].add(event.text)
                elif isinstance(event, ev.Answered) and self._waiting:
                    self._answered(event)
                elif isinstance(event, ev.Failed):
                    self._failed(event)
        self._job = None

    def _tell_loading(self, event: ev.Progress, seconds: float) -> None:
        share = event.done / max(1, event.total)
        left = duration(seconds / share - seconds) if share > 0.05 else "…"
        self._tell_head(_("loading the model, {share:.0%}, {left} left", share=share, left=left))

    def _is_ready(self, event: ev.Ready) -> None:
        self._ready = event
        self.query_one("#question", Input).placeholder = _("your question")
        self._tell_head()

    def _answered(self, event: ev.Answered) -> None:
        answer = self._waiting.pop(0)
        answer.speed = event.tokens / max(event.seconds, 1e-3)
        ended = {"turn": "", "length": _("cut at length"), "halted": _("stopped")}[event.end]
        answer.note = "  ".join(filter(None, (_("{tokens} tokens, {speed:.3g} a second",
                                               tokens=event.tokens, speed=answer.speed), ended)))  # fmt: skip
        answer.draw()
        self._to_the_end()

    def _failed(self, event: ev.Failed) -> None:
        for answer in self._waiting:
            answer.note = _("no answer")
            answer.draw()
        self._waiting.clear()
        text = plain(sentences(event.reason, event.remedy))
        self.query_one("#said").mount(Static(Content.styled(text, "$error"), classes="answer"))
        if self._ready is None:
            self._tell_head(_("no model"))
            self.query_one("#question", Input).placeholder = ""
        self._to_the_end()

    def _tell_head(self, state: str = "") -> None:
        files = " + ".join(Path(word).name for word in self._flags if not word.startswith("--"))
        parts = [state] if state else [
            _("answers: {who}", who=_(" and ").join(_(NAMES[who]) for who in self._who)),
            _("as text") if self._text else _("as a conversation"),
            f"temperature {self.sampling.temperature:g}  top_p {self.sampling.top_p:g}",
        ]  # fmt: skip
        self.query_one("#head", Static).update(" " + "   ".join([*parts, one_line(files)]))

    @on(Input.Submitted)
    def _ask(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        if text and self._can_ask():
            self._asked = text
            self._draws = 0
            event.input.value = ""
            self._put(text, again=False)

    def _can_ask(self) -> bool:
        """Whether a question will be answered now; if not, says why."""
        if self._job is None or self._ready is None:
            self.notify(_("The model is not loaded.") if self._job is None else _("The model is loading."))
        elif self._waiting:
            self.notify(_("An answer is under way; {key} stops it.", key=key_of(self, "chat.back")))
        else:
            return True
        return False

    def _put(self, text: str, *, again: bool) -> None:
        sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + self._draws})
        self._send(Ask(
            text=text, who=self._who, form="text" if self._text else "chat", again=again, sampling=sampling
        ))  # fmt: skip
        said = self.query_one("#said")
        said.mount(Static(Content.styled(plain(text), "bold"), classes="question"))
        self._waiting = [Answer(who) for who in self._who]
        said.mount(*self._waiting)
        self._to_the_end()

    def _send(self, request: Request) -> None:
        if self._job is not None:
            self._job.send(request.model_dump_json())

    def _to_the_end(self) -> None:
        self.call_after_refresh(self.query_one("#said").scroll_end, animate=False)

    def action_again(self) -> None:
        if self._asked and self._can_ask():
            self._draws += 1
            self._put(self._asked, again=True)

    def action_forget(self) -> None:
        self._send(Halt())
        self._send(Forget())
        self._asked = ""
        self.query_one("#said").remove_children()

    def action_who(self) -> None:
        if self._ready is None:
            return
        if "base" not in self._ready.who:
            self.notify(_("The base can answer beside a state; here it would need a model of its own."))
            return
        turns: tuple[tuple[ev.Who, ...], ...] = (("tuned",), ("base", "tuned"), ("base",))
        self._who = turns[(turns.index(self._who) + 1) % len(turns)]
        self._tell_head()

    def action_form(self) -> None:
        self._text = not self._text
        self._tell_head()

    def action_sampling(self) -> None:
        def take(sampling: Sampling | None) -> None:
            self.sampling = sampling or self.sampling
            self._tell_head()

        self.app.push_screen(SamplingScreen(self.sampling), take)

    def action_copy(self) -> None:
        children = self.query_one("#said").children
        lines = [
            child.text.strip() if isinstance(child, Answer) else str(child.render())
            for child in children if isinstance(child, Static)
        ]  # fmt: skip
        self.app.copy_to_clipboard("\n\n".join(lines))
        self.notify(_("Sent to the terminal's clipboard (most terminals allow it, some do not)."))

    def action_scroll(self, pages: int) -> None:
        said = self.query_one("#said")
        said.scroll_relative(y=pages * max(1, said.size.height - 2), animate=False)

    def action_back(self) -> None:
        if self._waiting:
            self._send(Halt())
        else:
            self.dismiss(None)
