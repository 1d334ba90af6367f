"""What is said to a person, in their language: gettext, over the catalogues beside this file.

English is what stands in the sources. A sentence is written where it is said, `_("No {path}.", path=path)`,
or, where it is declared before a language is chosen, marked with `N_` and given to `_` where it is shown.
`make messages` brings the catalogues up to date. Each process speaks the language it was started with
(`--lang`); the words a run leaves behind stay as they were told.
"""

from __future__ import annotations

import gettext
from collections.abc import Mapping, Sequence
from pathlib import Path

DOMAIN = "rwkv-tune"
FOLDER = Path(__file__).with_name("locale")
LANGUAGES = {"en": "English", "zh": "简体中文"}
"""By the code that `--lang` takes: the languages, each in its own words."""


class _Spoken:
    """What this process speaks."""

    code = "en"
    catalogue = gettext.NullTranslations()


def speak(code: str, catalogue: gettext.NullTranslations | None = None) -> None:
    """Chooses the language of this process, one of LANGUAGES; `catalogue` replaces its sentences."""
    if catalogue is None:
        english = code == "en"
        catalogue = gettext.NullTranslations() if english else gettext.translation(DOMAIN, FOLDER, [code])
    _Spoken.code, _Spoken.catalogue = code, catalogue


def choose(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Speaks what `--lang` says, wherever it stands, or else the locale; gives the other arguments.

    Raises UserError for a language that we lack.
    """
    from engine.contract.errors import UserError  # which speaks, too

    speak(preferred(environment))
    rest, words = [], iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--lang":
            code = value if equals else next(words, "")
            if code not in LANGUAGES:
                known = ", ".join(f"{name} ({own})" for name, own in LANGUAGES.items())
                raise UserError(
                    _("--lang: there is no language {code!r}.", code=code),
                    _("There are {known}.", known=known),
                )
            speak(code)
        else:
            rest.append(word)
    return rest


def spoken() -> str:
    """The code of the language of this process."""
    return _Spoken.code


def preferred(environment: Mapping[str, str]) -> str:
    """The language that a person's locale asks for, as gettext reads it; English where we lack theirs."""
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if wanted := environment.get(name):
            codes = (one.replace("-", "_").split("_")[0].split(".")[0].lower() for one in wanted.split(":"))
            return next((code for code in codes if code in LANGUAGES), "en")
    return "en"


def _(message: str, /, **values: object) -> str:
    """A sentence in the language of this process, `values` put in the places of its {names}."""
    said = _Spoken.catalogue.gettext(message) if message else ""  # what "" stands for is the catalogue's head
    return said.format(**values) if values else said


def n_(one: str, many: str, n: int, /, **values: object) -> str:
    """A sentence on `n` things, which it may name as {n}."""
    return _Spoken.catalogue.ngettext(one, many, n).format(n=n, **values)


def p_(context: str, message: str, /, **values: object) -> str:
    """A word that means something else elsewhere; `context` says what is meant."""
    said = _Spoken.catalogue.pgettext(context, message)
    return said.format(**values) if values else said


def sentences(*said: str) -> str:
    """One after the other, without the empty ones; a Chinese full stop needs no space behind it."""
    text = ""
    for one in filter(None, said):
        text += one if not text or text.endswith("。") else f" {one}"
    return text


def in_english(message: str, /, **values: object) -> str:
    """The same as `_` in the words of the sources, for what is written into files."""
    return message.format(**values) if values else message


def N_(message: str, /) -> str:
    """Marks a sentence that is translated where it is shown."""
    return message
