"""`rwkv-tune`: parses the command line and hands over to the command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.i18n import LANGUAGES, _, choose
from engine.contract.job_flags import (
    add_chat_flags,
    add_convert_flags,
    add_ctx_len,
    add_evaluate_flags,
    add_export_flags,
    add_init_flags,
    add_json,
    add_merge_flags,
    add_plan_flags,
    add_source_flags,
    translate_argparse,
)
from engine.contract.plain import say
from rwkv_tui.plain import wrapped
from rwkv_tui.services.preferences import THEME_NAMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 done, 1 refused or failed, 130 stopped."""
    if arguments is None:
        _in_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args = parse(choose(given, os.environ))
        _prepare_output(json=getattr(args, "json", False))
        return _command(args.command)(args)
    except UserError as error:
        say(f"rwkv-tune: {error}", error=True)
        return 1
    except KeyboardInterrupt:
        begun = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C on this line
        say(f"{begun}rwkv-tune: {_('stopped.')}", error=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; closing quietly is what a pipe expects.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _in_utf8() -> None:
    """Begins anew where the language settings would hide file names that are UTF-8, as ours are.

    What goes to the terminal stays in the terminal's own encoding.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        terminal = sys.stdout.encoding if sys.stdout else "ascii"
        told = {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{terminal}:replace"}
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **told})


def _prepare_output(*, json: bool) -> None:
    """JSON is UTF-8; on a terminal that cannot show a character, a ? stands for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    if json and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    module, _colon, function = name.partition(":")
    command: Callable[[argparse.Namespace], int] = getattr(
        import_module(f"rwkv_tui.commands.{module}"), function
    )
    return command


def parse(given: list[str]) -> argparse.Namespace:
    """The command line as read; `notes` holds what there is to say about it. Raises UserError."""
    given, notes = _translated(given)
    return _parser(given).parse_args(given, argparse.Namespace(notes=notes))


def _translated(given: list[str]) -> tuple[list[str], list[str]]:
    """`train` also takes RWKV-PEFT's spellings: the same words as ours, and what to say about them."""
    if given[:1] != ["train"]:
        return given, []
    from engine.contract.errors import SettingsError
    from engine.contract.flags import OWN_FLAGS
    from engine.contract.incumbent import read_flags

    reading = read_flags(given[1:], OWN_FLAGS)
    if reading.problems:
        raise SettingsError(reading.problems)
    flags = [f"--{name}={value}" for name, value in reading.values.items()]
    return ["train", *reading.rest, *flags], [str(note) for note in reading.notes]


class _Help(argparse.HelpFormatter):
    """Breaks lines by the cells they take: argparse counts signs, of which a Chinese one takes two."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(text, width) if text.isascii() else wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.isascii():
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in wrapped(text, width - len(indent)))


class _Parser(argparse.ArgumentParser):
    """Says a wrong command line in one line, and where help is. A flag counts only when written out."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_abbrev": False, "formatter_class": _Help})

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(
            _("{message}.", message=message), _("`{program} --help` lists what it takes.", program=self.prog)
        )


class _Version(argparse.Action):
    """Looks the version up when it is asked for: that loads more than all commands."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from importlib.metadata import version

        say(f"rwkv-tune {version('rwkv-tune')}")
        parser.exit()


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    translate_argparse()
    parser = _Parser(prog="rwkv-tune", description=_("Fine-tune RWKV, from jsonl to a tuned state."))
    parser.add_argument(
        "--version", action=_Version, nargs=0, help=_("show program's version number and exit")
    )
    parser.add_argument(  # `choose` has taken it, from any place; here it is told
        "--lang", choices=LANGUAGES, help=_("the language, with any command; by default as the locale says")
    )
    _add_look(parser)
    parser.set_defaults(command="app:open_app", theme="", ascii=False)
    if given:  # without a word there is no command to be read
        _add_commands(parser.add_subparsers(metavar="COMMAND", parser_class=_Parser), given)
    return parser


def _add_commands(commands: argparse._SubParsersAction[_Parser], given: Sequence[str]) -> None:
    _add_train(commands, wanted="train" in given[:1])
    _add_resume(commands)
    _add_runs(commands)
    _add_data(commands)
    _add_model(commands, given[2:])
    _add_preset(commands)

    command = commands.add_parser("eval", help=_("loss of a model, with or without a state, over a data set"))
    add_evaluate_flags(command)
    command.set_defaults(command="model:evaluate", given=given[1:])

    _add_chat(commands, wanted="chat" in given[:1])

    command = commands.add_parser("merge", help=_("a model and its state or adapter into one model file"))
    add_merge_flags(command)
    command.set_defaults(command="merge:merge", given=given[1:])

    command = commands.add_parser("export", help=_("a model or a state as Ai00 reads it"))
    add_export_flags(command)
    command.set_defaults(command="model:export", given=given[1:])

    command = commands.add_parser("demo", help=_("the whole path on bundled data, in under three minutes"))
    command.add_argument("--headless", action="store_true", help=_("without the screens"))
    command.add_argument("--dir", type=Path, default=Path("rwkv-tune-demo"), help=_("where its files go"))
    _add_look(command)
    command.set_defaults(command="demo:demo")

    command = commands.add_parser("doctor", help=_("what this machine can do, and what is missing"))
    add_json(command)
    command.set_defaults(command="doctor:doctor")

    command = commands.add_parser("keys", help=_("every key of the screens, and how to have others"))
    command.set_defaults(command="keys:show")


def _add_look(command: argparse.ArgumentParser) -> None:
    """For whatever opens the screens; the command palette (F9) remembers such a choice."""
    command.add_argument(
        "--theme", choices=THEME_NAMES, default=argparse.SUPPRESS, help=_("colours of the screens, this time")
    )
    command.add_argument(
        "--ascii", action="store_true", default=argparse.SUPPRESS,
        help=_("draw the screens with ASCII only, this time, for poor fonts"),
    )  # fmt: skip


def _add_train(commands: argparse._SubParsersAction[_Parser], wanted: bool) -> None:
    command = commands.add_parser(
        "train",
        help=_("train without screens"),
        usage=_(
            "rwkv-tune train [--preset NAME|FILE.yaml] [--json] [--detach]\n"
            "                       [--PARAMETER VALUE ...]"
        ),
        description=_(
            "Trains in a process of its own. Exit status: 0 finished, 130 stopped, 1 failed. "
            "Takes the command line of RWKV-PEFT's train.py as well, and says what is different."
        ),
    )
    command.add_argument(
        "--preset", metavar="NAME|FILE.yaml", help=_("start from a preset; flags go above it")
    )
    add_json(command, events=True)
    _add_detach(command)
    command.set_defaults(command="train:train")
    if wanted:  # pydantic takes a moment to load: only the command that needs the flags pays for it
        from engine.contract.flags import add_flags

        add_flags(command)


def _add_resume(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "resume",
        help=_("go on with a run that was stopped or broke off"),
        description=_("Goes on exactly where a run was last saved. Exit status: as for train."),
    )
    _add_run(command)
    add_json(command, events=True)
    _add_detach(command)
    command.set_defaults(command="resume:resume")


def _add_run(command: argparse.ArgumentParser, *, needed: bool = False) -> None:
    command.add_argument(
        "run", metavar="RUN", nargs=None if needed else "?", default="",
        help=_("its name, the beginning of its name, or its folder")
        if needed
        else _("its name, the beginning of its name, or its folder; without it the newest run"),
    )  # fmt: skip


def _add_detach(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--detach",
        action="store_true",
        help=_("print the run's name (with --json one document) and return; the run goes on by itself"),
    )


def _add_runs(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser("runs", help=_("your runs and how they stand, newest first"))
    add_json(command)
    command.set_defaults(command="runs:show_list")

    command = commands.add_parser(
        "attach",
        help=_("watch a run"),
        description=_(
            "Opens the monitor; in a pipe, or with --plain or --json, follows the run as train "
            "does. Ctrl-C only ends the watching. Several people can watch one run."
        ),
    )
    _add_run(command)
    command.add_argument("--plain", action="store_true", help=_("without screens on a terminal, too"))
    add_json(command, events=True)
    _add_look(command)
    command.set_defaults(command="attach:attach")

    command = commands.add_parser(
        "stop", help=_("end a run: it finishes its step and saves"),
        description=_("Waits until the run has ended and says how. Exit status 0 when it runs no more."),
    )  # fmt: skip
    _add_run(command)
    command.add_argument(
        "--now", action="store_true", help=_("kill it when it has not ended by itself within five seconds")
    )
    command.set_defaults(command="runs:stop")

    command = commands.add_parser("logs", help=_("what a run has told, and what its process printed"))
    _add_run(command)
    command.add_argument("-f", "--follow", action="store_true", help=_("go on until it ends"))
    command.set_defaults(command="runs:logs")

    command = commands.add_parser(
        "rm",
        help=_("forget a run that has ended and delete its records"),
        description=_(
            "Deletes settings, events, log and resume files of a run that has ended. Its trained "
            "files, their logs and whatever the program did not write stay."
        ),
    )
    _add_run(command, needed=True)
    command.add_argument("--trained", action="store_true", help=_("delete its trained files and logs, too"))
    command.add_argument("--yes", action="store_true", help=_("do not ask"))
    command.set_defaults(command="runs:rm")


def _add_chat(commands: argparse._SubParsersAction[_Parser], wanted: bool) -> None:
    command = commands.add_parser(
        "chat",
        help=_("talk to what a run has made, or to any model"),
        description=_(
            "Opens a conversation; in a pipe, or with --plain, each line is a question and its answer is "
            "printed. Ctrl-C ends an answer, and where there is none the conversation."
        ),
    )
    _add_run(command)
    add_chat_flags(command)
    command.add_argument("--base", action="store_true", help=_("the base answers, too, beside a state"))
    command.add_argument("--text", action="store_true", help=_("a line is continued as it stands"))
    command.add_argument("--plain", action="store_true", help=_("without screens on a terminal, too"))
    _add_look(command)
    command.set_defaults(command="chat:chat")
    if wanted:  # as for train
        from engine.contract.talk import Sampling

        for name, field in Sampling.model_fields.items():
            spelled = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
            kind = type(field.default)
            told = f"{_(field.description or '')} ({field.default:g})"
            command.add_argument(*spelled, dest=name, type=kind, default=field.default, help=told)


def _add_data(commands: argparse._SubParsersAction[_Parser]) -> None:
    data = commands.add_parser("data", help=_("prepare training data")).add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser
    )
    lint = data.add_parser(
        "lint", help=_("what is wrong with data, before anything is written"),
        description=_("Exit status: 0 nothing that conversion would refuse, 1 something."),
    )  # fmt: skip
    add_source_flags(lint)
    add_plan_flags(lint)
    add_json(lint)
    lint.set_defaults(command="data:lint")
    show = data.add_parser("show", help=_("a document as tokens: learned, only read, cut off"))
    add_source_flags(show, several=False)
    show.add_argument(
        "number", metavar="N", type=int, help=_("which document, or with --dataload get which window, from 1")
    )
    add_plan_flags(show)
    add_json(show)
    show.set_defaults(command="data:show")
    template = data.add_parser("template", help=_("print the template that makes text of conversations"))
    template.set_defaults(command="data:template")
    convert = data.add_parser("convert", help=_("anything to the .bin/.idx pair that training reads"))
    add_convert_flags(convert)
    add_json(convert)
    convert.set_defaults(command="data:convert")
    inspect = data.add_parser("inspect", help=_("check a pair, and tell how it was made"))
    inspect.add_argument("prefix", metavar="PREFIX", type=Path, help=_("the name of a .bin/.idx pair"))
    add_ctx_len(inspect, _("for the magic prime"), default=512)
    add_json(inspect)
    inspect.set_defaults(command="data:inspect")


def _add_model(commands: argparse._SubParsersAction[_Parser], given: Sequence[str]) -> None:
    model = commands.add_parser("model", help=_("look at a model file, or make one")).add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser
    )
    inspect = model.add_parser("inspect", help=_("version and dimensions, read from the file's header"))
    inspect.add_argument("file", metavar="FILE.pth", type=Path)
    add_json(inspect)
    inspect.set_defaults(command="model:inspect")
    init = model.add_parser("init", help=_("write a model with the reference initialisation"))
    add_init_flags(init)
    init.set_defaults(command="model:init", given=given)


def _add_preset(commands: argparse._SubParsersAction[_Parser]) -> None:
    preset = commands.add_parser("preset", help=_("saved settings")).add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser
    )
    action = preset.add_parser("list", help=_("names and what they are for"))
    action.set_defaults(command="preset:show_list")
    action = preset.add_parser("show", help=_("print one as YAML"))
    action.add_argument("name", metavar="NAME")
    action.set_defaults(command="preset:show")
    action = preset.add_parser("save", help=_("keep a YAML file under a name"))
    action.add_argument("name", metavar="NAME")
    action.add_argument(
        "--from", dest="source", metavar="FILE", type=Path, required=True, help=_("the YAML file")
    )
    action.set_defaults(command="preset:save")
    action = preset.add_parser("import", help=_("make one of a training script for RWKV-PEFT; runs nothing"))
    action.add_argument("script", metavar="SCRIPT.sh", type=Path)
    action.add_argument("--name", help=_("of the preset; without it the script's"))
    action.set_defaults(command="preset:import_script")
    action = preset.add_parser("export", help=_("print one as a script"))
    action.add_argument("name", metavar="NAME")
    action.add_argument(
        "--to", choices=["sh"], default="sh", help=_("a shell script that runs `rwkv-tune train`")
    )
    action.set_defaults(command="preset:export")
    action = preset.add_parser("delete", help=_("remove one of your own"))
    action.add_argument("name", metavar="NAME")
    action.set_defaults(command="preset:delete")
