"""`rwkv-tune chat`: a conversation on the screen, or a line at a time."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType
from typing import IO

from pydantic import ValidationError

from engine.contract import events as ev
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.paths import UserPaths
from engine.contract.plain import plain, say
from engine.contract.talk import Ask, Halt, Request, Sampling
from rwkv_tui.commands.app import in_tmux
from rwkv_tui.services.engine import engine_command, engine_environment
from rwkv_tui.services.jobs import reason
from rwkv_tui.services.results import chat_flags
from rwkv_tui.services.runs import find_run


def chat(args: argparse.Namespace) -> int:
    """Exit status 0, or 1 when there is nothing to talk to."""
    flags = _flags(args)
    sampling = _sampling(args)
    if sys.stdin.isatty() and sys.stdout.isatty() and not args.plain:
        from rwkv_tui.app import TuneApp

        how = {"theme": args.theme, "ascii": args.ascii, "tmux": in_tmux()}
        TuneApp(UserPaths.of_user(), chat=(flags, sampling), **how).run()
        return 0
    who: tuple[ev.Who, ...] = ("base", "tuned") if args.base else ("tuned",)
    return _by_lines(flags, who, "text" if args.text else "chat", sampling)


def _flags(args: argparse.Namespace) -> list[str]:
    """Of the engine's job, which works in another folder."""
    given = {name: value for name in ("model", "state", "adapter", "init") if (value := getattr(args, name))}
    if args.model is None:
        if given:
            raise UserError(_("No model is given."), _("Name it with --model FILE.pth."))
        _name, run = find_run(UserPaths.of_user().runs, args.run)
        flags = chat_flags(run)
    else:
        flags = [word for name, path in given.items() for word in (f"--{name}", str(path.absolute()))]
    if args.lora_alpha is not None:
        flags += ["--lora-alpha", str(args.lora_alpha)]
    return flags if args.quant == "none" else [*flags, "--quant", args.quant]


def _sampling(args: argparse.Namespace) -> Sampling:
    try:
        return Sampling(**{name: getattr(args, name) for name in Sampling.model_fields})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise UserError(
            _("--{name} {value} is out of range.", name=name, value=getattr(args, name)),
            _("`{program} --help` lists what it takes.", program="rwkv-tune chat"),  # unsaid
        ) from None


def _by_lines(flags: list[str], who: tuple[ev.Who, ...], form: str, sampling: Sampling) -> int:
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
        engine_command("chat", *flags), env=engine_environment(), cwd="/", start_new_session=True, text=True,
        encoding="utf-8", errors="replace", bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=errors,
    ) as job:  # fmt: skip
        told = _events(job, errors)
        try:
            ready = _first_ready(told)
            heard = tuple(one for one in who if one in ready.who)
            for number, line in enumerate(_questions()):
                how = sampling.model_copy(update={"seed": sampling.seed + number})
                _send(job, Ask.model_validate({"text": line, "who": heard, "form": form, "sampling": how}))
                _print_answers(job, told, heard)
        finally:
            with suppress(OSError):
                assert job.stdin is not None
                job.stdin.close()
            job.terminate()
    return 0


def _questions() -> Iterator[str]:
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is no text is no reason to end
    ask = sys.stdin.isatty()
    while True:
        if ask:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _events(job: subprocess.Popen[str], errors: IO[bytes]) -> Iterator[ev.Event]:
    assert job.stdout is not None
    for line in job.stdout:
        event = ev.parse_event(line)
        if isinstance(event, ev.Failed):
            raise UserError(event.reason, event.remedy)
        if event is not None:
            yield event
    raise UserError(reason(errors, job.wait()))


def _first_ready(told: Iterator[ev.Event]) -> ev.Ready:
    for event in told:
        if isinstance(event, ev.Progress) and sys.stderr.isatty():
            end = "\n" if event.done >= event.total else ""
            sys.stderr.write(f"\r{_(event.phase)} {event.done / max(1, event.total):.0%}{end}")
        if isinstance(event, ev.Ready):
            if sys.stderr.isatty():
                sys.stderr.write("\r\033[K")
            return event
    raise AssertionError("the events end by an error")  # unsaid


def _send(job: subprocess.Popen[str], request: Request) -> None:
    assert job.stdin is not None
    with suppress(BrokenPipeError):  # the events say why
        job.stdin.write(request.model_dump_json() + "\n")


def _print_answers(job: subprocess.Popen[str], told: Iterator[ev.Event], who: tuple[ev.Who, ...]) -> None:
    """Prints what comes, until all have answered; Ctrl-C ends the answers, and once more the conversation."""

    def halt(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, usual)
        _send(job, Halt())

    usual = signal.signal(signal.SIGINT, halt)
    left, fresh = len(who), True
    try:
        while left:
            event = next(told)
            if isinstance(event, ev.Piece):
                if fresh and len(who) > 1:
                    sys.stdout.write(f"[{_(event.who)}] ")
                sys.stdout.write(plain(event.text.lstrip() if fresh else event.text))
                sys.stdout.flush()
                fresh = False
            elif isinstance(event, ev.Answered):
                left, fresh = left - 1, True
                say("")
    finally:
        signal.signal(signal.SIGINT, usual)
