"""The one exception for everything a person can mend: what happened, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass

from engine.contract.i18n import _, sentences


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one setting; `field` is the parameter's name ("" when it is none of them)."""

    field: str
    message: str

    def __str__(self) -> str:
        return _("{field}: {message}", field=self.field, message=self.message) if self.field else self.message


class UserError(Exception):
    """An error whose text is meant for the user: one line saying what, where and what to do."""

    cause = ""
    """One word for programs, of `events.Failed`'s."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return sentences(self.message, self.remedy)


def why(error: Exception) -> str:
    """What the system says of a file that cannot be read, without number and name."""
    if isinstance(error, UnicodeError):
        return _("it is no UTF-8 text")
    return getattr(error, "strerror", None) or str(error)


class Diverged(UserError):
    """Going on makes no sense: the numbers are none, or run away."""

    cause = "diverged"


class NoNumbers(UserError):
    """What is computed is no number, and not for anything that was learned."""

    cause = "precision"


class SettingsError(UserError):
    """Settings that cannot start a run; carries every problem, not just the first."""

    def __init__(self, problems: list[Problem], source: str = "") -> None:
        said = _("; ").join(map(str, problems))
        super().__init__(_("{field}: {message}", field=source, message=said) if source else said)
        self.problems = problems


LONGEST_LINE = 300
"""Characters of another program's error that are told."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, without its full stop, for a sentence of our own."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:LONGEST_LINE] if lines else type(error).__name__
