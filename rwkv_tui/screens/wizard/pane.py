"""What the wizard's four panes share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.worker import get_current_worker

from engine.contract.i18n import N_
from rwkv_tui.draft import Draft


class Pane(Vertical):
    """A step of the wizard. It stays mounted once visited, so whatever was typed remains."""

    HELP_TEXT = ""
    BINDINGS = [
        Binding("up", "app.focus_previous", N_("Between fields"), show=False, id="form.focus_previous"),
        Binding("down", "app.focus_next", N_("Between fields"), show=False, id="form.focus_next"),
    ]

    class Changed(Message):
        """The draft changed; the trail may look different."""

    def __init__(self, draft: Draft, cwd: Path, id: str) -> None:
        super().__init__(id=id)
        self.draft = draft
        self.cwd = cwd

    async def entered(self, field: str = "") -> None:
        """The person came here: show what the draft says now and take the focus, to `field` if named."""
        raise NotImplementedError

    def rest(self) -> None:
        """Takes the focus off the line being typed, so that single letters are keys again."""
        self.can_focus = True
        self.focus()

    def on_blur(self) -> None:
        """Tab goes from field to field and does not stop here."""
        self.can_focus = False

    def cancel(self) -> bool:
        """Escape was pressed: ends what is under way here; False when nothing is."""
        return False

    def from_thread(self, show: Callable[..., None], *given: object) -> None:
        """Called in a thread worker: shows what it found, unless nobody waits for that any more."""
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(show, *given)

    def changed(self) -> None:
        self.post_message(self.Changed())
