"""RWKV-PEFT's training scripts as settings, and settings as a script of our own. Nothing is ever run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from engine.contract.check import check_values
from engine.contract.errors import Problem, UserError
from engine.contract.flags import OWN_FLAGS, spell
from engine.contract.i18n import _
from engine.contract.incumbent import DEFAULTS_THERE, MEANINGS, Reading, on_one_device, read_flags
from engine.contract.presets import TYPED_ONLY, render_yaml
from engine.contract.risks import risks
from engine.contract.settings import TrainSettings, train_params
from engine.contract.shell import Command, Word, read_commands

_MARK = re.compile("\0([0-9]+)\0")
LONGEST_NOTE = 500  # characters
SHOWN = 60  # characters of a foreign command that are shown


@dataclass(frozen=True)
class ScriptRun:
    """One training command: the values it gives, what cannot be honoured, and what should be known.

    Each text names its line. `values` are as written; they make valid settings when `problems` is empty.
    """

    line: int
    values: dict[str, Any]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def to_yaml(self, title: str) -> str:
        """The values as a preset. Raises pydantic's error when there are problems."""
        return render_yaml(TrainSettings.model_validate(self.values), title, self.values)


@dataclass(frozen=True)
class Script:
    """The training commands of a script, in order, and what was said about all of it."""

    runs: tuple[ScriptRun, ...]
    notes: tuple[str, ...]


def read_script(text: str) -> Script:
    """What the training commands of a shell script would do here.

    Raises UserError when there is none, or naming the line where the script cannot be read.
    """
    runs: list[ScriptRun] = []
    notes: list[str] = []
    for command in read_commands(text):
        start = _training(command.words)
        if start is not None:
            runs.append(_read_run(command, start))
            notes += runs[-1].notes
        elif command.words and command.words[0].text.startswith("--"):
            notes.append(
                _(
                    "line {line}: {words} stands by itself and reached no command: the line before it "
                    "does not go on (a comment ends a command, too); left out",
                    line=command.line,
                    words=_shown(command.words),
                )
            )
        elif command.words:
            notes.append(_("line {line}: {words} is not run", line=command.line, words=_shown(command.words)))
    if not runs:
        raise UserError(
            _("The script holds no training command."),
            _("It would be `python train.py ...` or `rwkv-tune train ...`."),
        )
    return Script(tuple(runs), tuple(map(_printable, notes)))


def _training(words: Sequence[Word]) -> int | None:
    """Where the flags of a training command begin; None for any other command."""
    for place, word in enumerate(words):
        name = PurePosixPath(word.text).name
        if name == "train.py":
            return place + 1
        if name == "rwkv-tune" and [w.text for w in words[place + 1 : place + 2]] == ["train"]:
            return place + 2
    return None


def _read_run(command: Command, start: int) -> ScriptRun:
    words = command.words[start:]
    lines = {w.text.partition("=")[0]: w.line for w in words if w.text.startswith("--")}
    told = _told_before(command, start)

    def placed(problem: Problem, message: object) -> str:
        flag = problem.field if problem.field.startswith("--") else f"--{problem.field}"
        return _("line {line}: {message}", line=lines.get(flag, command.line), message=message)

    def at(problem: Problem) -> Problem:
        return Problem(_printable(problem.field), _printable(placed(problem, problem.message)))

    reading = _read_words(words)
    problems = [at(p) for p in reading.problems]
    told += [placed(p, p) for p in reading.notes]
    values: dict[str, Any] = dict(reading.values)
    if command.words[start - 1].text != "train":
        told += _differences(values, command.line)
    values, replaced = on_one_device(values)
    told += [placed(p, p) for p in replaced]
    checked = check_values(values, files=False)
    problems += [at(p) for p in checked.problems]
    if checked.settings is not None:
        told += [_("{note} (risky)", note=placed(p, p)) for p in risks(checked.settings)]
    return ScriptRun(command.line, values, tuple(problems), tuple(map(_printable, told)))


def _told_before(command: Command, start: int) -> list[str]:
    """What surrounds the program's name and is not taken over."""
    told = [
        _(
            "line {line}: {words} is left out; set it where you start the run",
            line=word.line,
            words=_shown([word]),
        )
        for word in command.environment
    ]
    launcher = command.words[: start - 1]
    if any(PurePosixPath(w.text).name in ("torchrun", "deepspeed", "accelerate") for w in launcher):
        told.append(
            _(
                "line {line}: {launcher} is left out; --devices says how many there are",
                line=command.line,
                launcher=_shown(launcher),
            )
        )
    if command.redirected:
        told.append(
            _("line {line}: the redirection is left out; a run keeps a log in proj_dir", line=command.line)
        )
    return told


def _read_words(words: Sequence[Word]) -> Reading:
    """Reads the flags, setting aside those whose value only a shell could know."""
    reading = read_flags([_marked(w, number) for number, w in enumerate(words)], OWN_FLAGS)

    def restore(text: str) -> str:
        return _MARK.sub(lambda found: words[int(found[1])].unknown, text)

    for name, value in list(reading.values.items()):
        if found := _MARK.search(value):
            word = words[int(found[1])]
            del reading.values[name]
            reading.notes.append(
                Problem(
                    f"--{name}",
                    _("left out: only a shell knows {unknown}; set it yourself", unknown=word.unknown),
                )
            )
    for name in [n for n in reading.values if n in train_params() and train_params()[n].typed_only]:
        del reading.values[name]
        reading.notes.append(Problem(f"--{name}", _("left out: it {why}", why=_(TYPED_ONLY))))
    if "--preset" in reading.rest:
        reading.problems.append(
            Problem("--preset", _("a preset cannot begin with another; write its values into the script"))
        )
    extra = [w for w in reading.rest if w.partition("=")[0] not in OWN_FLAGS]
    reading.notes += [Problem("", _("{w} belongs to no flag; left out", w=restore(w))) for w in extra]
    reading.problems = [Problem(restore(p.field), restore(p.message)) for p in reading.problems]
    return reading


def _marked(word: Word, number: int) -> str:
    """The word's text; where a part of it is unknown, the flag it may begin with and a mark in its place."""
    if not word.unknown:
        return word.text.replace("\0", "")  # a shell drops them, too
    flag, equals, _rest = word.text.partition("=")
    return f"{flag}=\0{number}\0" if equals and flag.startswith("--") else f"\0{number}\0"


def _differences(values: dict[str, Any], line: int) -> list[str]:
    """Where the same words mean something else here; adds train.py's defaults to what a script leaves out."""
    told = [
        _("line {line}: {message}", line=line, message=f"--{name} {value}: {_(text)}")
        for (name, value), text in MEANINGS.items() if values.get(name) == value
    ]  # fmt: skip
    missing = {
        name: value for name, value in DEFAULTS_THERE.items()
        if name not in values and not (name == "train_type" and values.get("peft", "none") != "none")
    }  # fmt: skip
    values.update(missing)
    if missing:
        said = ", ".join(f"{name} {value}" for name, value in missing.items())
        told.append(
            _(
                "line {line}: left to the defaults of train.py, which the preset takes over: {said}",
                line=line,
                said=said,
            )
        )
    return told


def _shown(words: Sequence[Word]) -> str:
    text = shlex.join(w.text or w.unknown for w in words)
    return f"`{text if len(text) <= SHOWN else text[:SHOWN] + ' ...'}`"


def _printable(text: str) -> str:
    """What a script holds may not steer the terminal it is shown on, nor fill it."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= LONGEST_NOTE else clean[:LONGEST_NOTE] + " ..."


def write_script(values: Mapping[str, Any], title: str) -> str:
    """A shell script whose one `rwkv-tune train` command gives these values; more may follow its name."""
    settings = TrainSettings.model_validate(dict(values))
    lines = [
        "#!/bin/sh", f"# {_printable(title)}", "#",
        _("# Flags given to this script go above the values in it:"),
        "#   sh THIS --load_model MODEL.pth --data_file DATA --proj_dir OUT",  # unsaid
    ]  # fmt: skip
    for name in values:
        lines += [
            "",
            f"# {train_params()[name].help}",
            f"{name}={shlex.quote(spell(getattr(settings, name)))}",
        ]
    flags = [f'  --{name}="${name}" \\' for name in values]
    return "\n".join([*lines, "", "rwkv-tune train \\", *flags, '  "$@"', ""])  # unsaid
