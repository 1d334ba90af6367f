"""Nothing is left in English: in a language of other letters, no word of ours shows on any screen."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.contract import i18n
from engine.contract.settings import train_params
from engine.contract.talk import Sampling
from rwkv_tui.next_steps import rwkv_snippet
from rwkv_tui.screens.wizard.data import DataPane
from rwkv_tui.screens.wizard.template import TemplateScreen
from rwkv_tui.screens.wizard.tokens import TokenScreen
from tests.conftest import PAIRS
from tests.fakes import screens, stories
from tests.tui.walk import lines, walk

LETTERS = {
    **{ord("a") + n: 0x430 + n for n in range(26)},
    **{ord("A") + n: 0x410 + n for n in range(26)},
}
PLACE = re.compile(r"(\{[^{}]*\})")
WORD = re.compile(r"\b[A-Za-z][A-Za-z_]+\b(?!…)")
KEYS = "tab Tab shift ctrl Ctrl alt Alt esc Esc enter Enter space left right up down home end page del"
UNITS = "GiB MiB KiB kB GB MB kt ms min tokens token"
ENGINE_SAYS = "There is no file. Check the path."
NAMES = """rwkv RWKV tune Tune PEFT GPU CPU RAM NVIDIA GeForce RTX MHz epoch loss lr mm ss json yaml jsonl
           python bin idx pth safetensors ctx emoji haiku odes poems pairs chats demo sh tiny runs engine
           export models log txt ndjson settings toml Runner Python Ai answer prompt train events BASE"""


class Strange(gettext.NullTranslations):
    """A language of its own letters, that keeps the places of sentences."""

    def gettext(self, message: str) -> str:
        parts = PLACE.split(message)
        return "".join(part if n % 2 else part.translate(LETTERS) for n, part in enumerate(parts))

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        return self.gettext(msgid1 if n == 1 else msgid2)

    def pgettext(self, context: str, message: str) -> str:
        return self.gettext(message)


@pytest.fixture
def strange() -> Iterator[None]:
    i18n.speak("en", Strange())
    yield
    i18n.speak("en")


async def test_no_word_is_left_in_english(place: Path, pair: Path, strange: None) -> None:
    """What may stand there is what is no sentence: names of parameters and their values, of files, runs and
    keys, units, and what the person's own files say."""
    values = {str(choice) for p in train_params().values() for choice in getattr(p, "choices", None) or ()}
    allowed = {
        *train_params(),
        *Sampling.model_fields,
        *values,
        *KEYS.split(),
        *UNITS.split(),
        *NAMES.split(),
    }
    found: dict[str, set[str]] = {}
    async for name, pilot in walk(place, pair):
        words = {word for line in lines(pilot) for word in WORD.findall(line)}
        found[name] = words - allowed - set(WORD.findall(_foreign(name, pilot)))
    assert found.keys() >= {"home", "review", "palette", "compare", "done"}
    left = [f"{name}: {' '.join(sorted(words))}" for name, words in found.items() if words]
    assert not left, "\n".join(left)


def _foreign(name: str, pilot: Pilot[None]) -> str:
    """What a screen quotes: the person's data with what the engine says of them (it speaks plain English
    here), what a run has told, and a program to copy."""
    if isinstance(pilot.app.screen, TokenScreen | TemplateScreen) or pilot.app.screen.query(DataPane):
        shown = next((str(p._shown) for s in pilot.app.screen_stack for p in s.query(DataPane)), "")
        clipped = "ch pa"  # names of files that the dialogue covers in part
        return f"{shown} {PAIRS} {clipped}".replace("\\n", " ")
    told = [
        *stories.preparing(),
        *stories.lively(Path(), 200),
        *stories.ending(Path()),
        screens.NO_GPU.reason,
    ]
    quoted: dict[str, Sequence[object]] = {
        "help": ["pair tin"],  # names of files that the dialogue covers in part
        **dict.fromkeys(("chat-refused", "sampling"), (ENGINE_SAYS,)),
        "opening": told[:3] + told[-1:],
        "samples": told[3:-1],
        "done": [*told[3:-1], rwkv_snippet(Path(), Path())],
    }
    return str([*map(str, quoted.get(name, []))]).replace("\\n", " ").replace("\\", " ")
