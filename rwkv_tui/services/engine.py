"""How the engine is called: a fresh interpreter that does not look for modules in the current folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from engine.contract.i18n import spoken


def engine_command(job: str, *arguments: str) -> list[str]:
    """The command line of an engine job, which is to speak the language of this program."""
    return [sys.executable, "-m", "engine", "--lang", spoken(), job, *arguments]


def engine_environment() -> dict[str, str]:
    """The person's environment, with the current folder kept out of the module path (Python 3.11 on).

    File names are UTF-8 whatever the language settings say."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}


def become_engine(job: str, arguments: Sequence[str]) -> int:
    """Replaces this process by the job: its output, signals and exit status are the command's."""
    command = engine_command(job, *arguments)
    os.execve(command[0], command, engine_environment())
