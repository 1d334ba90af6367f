"""A line for a path, where tab completes as in a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.binding import Binding
from textual.message import Message

from engine.contract.i18n import N_
from rwkv_tui.services.files import complete, paths_of, real_path
from rwkv_tui.widgets.plain_input import PlainInput


class PathInput(PlainInput):
    """Tab completes; when nothing is left to complete it goes to the next field, as tab does elsewhere."""

    BINDINGS = [Binding("tab", "complete", N_("Complete"), show=True, id="path.complete")]

    class Candidates(Message):
        """The names with which the path could go on; none any more when empty."""

        def __init__(self, input: PathInput, names: tuple[str, ...]) -> None:
            super().__init__()
            self.input = input
            self.names = names

        @property
        def control(self) -> PathInput:
            return self.input

    def __init__(
        self, value: str = "", *, cwd: Path, suffixes: tuple[str, ...] = (), several: bool = False,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """`several`: paths may stand there by comma; the last is completed."""
        super().__init__(value, compact=True, select_on_focus=False, **kwargs)
        self._cwd = cwd
        self._suffixes = suffixes
        self._several = several
        self._listed = ""

    @property
    def path(self) -> Path:
        """The absolute path that the text means."""
        return real_path(self.value, self._cwd)

    @property
    def paths(self) -> list[Path]:
        """The absolute paths that the text means, where there may be several."""
        return paths_of(self.value, self._cwd)

    def action_complete(self) -> None:
        """Completes; lists the candidates when there are several; a second tab moves on."""
        before, comma, last = self.value.rpartition(",") if self._several else ("", "", self.value)
        found = complete(last.lstrip(), self._cwd, self._suffixes) if self.value else None
        text = f"{before}, {found.text}" if comma and found else found.text if found else ""
        if found is None or not found.candidates or self._listed == self.value == text:
            self._list("", ())
            self.screen.focus_next()
            return
        grown = text != self.value
        self.value = text
        self.cursor_position = len(self.value)
        several = len(found.candidates) > 1
        self._list(self.value if several else "", found.candidates if several else ())
        if not grown and not several:
            self.screen.focus_next()

    def _list(self, text: str, names: tuple[str, ...]) -> None:
        self._listed = text
        self.post_message(self.Candidates(self, names))
