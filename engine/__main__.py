"""The engine's jobs: `python -m engine JOB ...`. They read and write files and print JSON, never a screen.

A job that fails prints one line on stderr and exits with 1; one that was asked to stop exits with 130.
"""

from __future__ import annotations

import argparse
import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.i18n import LANGUAGES, N_, _, choose
from engine.contract.job_flags import (
    add_chat_flags,
    add_convert_flags,
    add_evaluate_flags,
    add_export_flags,
    add_init_flags,
    add_merge_flags,
    add_plan_flags,
    add_source_flags,
    translate_argparse,
)
from engine.contract.plain import say, say_json
from engine.processors import share_processors

if TYPE_CHECKING:
    from engine.checkpoints.adapter import Adapter
    from engine.contract.reports import Report

Job = Callable[[argparse.Namespace], int]
Flags = Callable[[argparse.ArgumentParser], None]

BY_SUFFIX = {".jsonl": "jsonl", ".npy": "numpy"}  # data_type of a file where none is said
PROGRESS_EVERY = 0.25  # seconds between two progress events


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one job and returns its exit status."""
    try:
        args = _parser().parse_args(choose(sys.argv[1:] if arguments is None else arguments, os.environ))
        job: Job = args.job
        return job(args)
    except UserError as error:
        say(f"rwkv-tune: {error}", error=True)
        return 1
    except KeyboardInterrupt:
        say(f"rwkv-tune: {_('stopped.')}", error=True)
        return 130


def _parser() -> argparse.ArgumentParser:
    translate_argparse()
    parser = argparse.ArgumentParser(prog="python -m engine", description=__doc__)
    parser.add_argument("--lang", choices=LANGUAGES, help=_("what it speaks; by default as the locale says"))
    jobs = parser.add_subparsers(required=True)

    def add(name: str, does: Job, told: str, *flags: Flags) -> argparse.ArgumentParser:
        job = jobs.add_parser(name, help=told)
        for add_flags in flags:
            add_flags(job)
        job.set_defaults(job=does)
        return job

    job = add("train", _train, _("train the run in a folder"))
    job.add_argument("proj_dir", type=Path)
    job.add_argument("--on_finish", default="", help=_("a shell command that is started at the end"))

    job = add("rank", _rank, _("one process of a run of several; `train` starts them"))
    job.add_argument("proj_dir", type=Path)
    job.add_argument("local", type=int)
    job.add_argument("meeting")
    job.add_argument("report", type=int)
    job.add_argument("parent", type=int)
    job.add_argument("--on_finish", default="")

    what = _("what data holds, as JSON; with --whole as events")
    job = add("summary", _summary, what, add_source_flags, add_plan_flags)
    job.add_argument("--whole", action="store_true", help=_("read all of it, not just the first part"))

    job = add("show", _show, _("a document as tokens, as JSON"), add_source_flags, add_plan_flags)
    job.add_argument("number", type=int)

    add("convert", _convert, _("jsonl to binidx; prints events"), add_convert_flags)
    add("init", _init, _("write a model with random weights; prints its description"), add_init_flags)
    add("evaluate", _evaluate, _("loss over a data set; prints it"), add_evaluate_flags)
    add("chat", _chat, _("answers questions on stdin by events"), add_chat_flags)
    add("merge", _merge, _("a model and its state or adapter into one file"), add_merge_flags)
    add("export", _export, _("a model or a state as Ai00 reads it"), add_export_flags)
    add("gpus", _gpus, _("the UUIDs of the GPUs that a run here finds, as JSON"))
    add("doctor", _doctor, _("what the training stack can do here, as JSON"))
    return parser


def _train(args: argparse.Namespace) -> int:
    from engine.contract.paths import UserPaths
    from engine.contract.rundir import RunDir
    from engine.train.ranks import processes_here, train_in_ranks
    from engine.train.stop import StopRequest

    stop = StopRequest()
    stop.install()  # before torch, which takes a second to import
    run = RunDir(args.proj_dir.absolute())
    if number := processes_here(run):
        return train_in_ranks(run, number, stop, args.on_finish)
    from engine.train.run import run_training

    return run_training(run, stop, on_finish=args.on_finish, cache=UserPaths.of_user().cache)


def _rank(args: argparse.Namespace) -> int:
    from engine.contract.paths import UserPaths
    from engine.contract.process import die_with_parent
    from engine.contract.rundir import RunDir
    from engine.train.ranks import Place
    from engine.train.stop import StopRequest

    die_with_parent(args.parent)
    stop = StopRequest()
    stop.install()
    from engine.train.run import run_training

    run = RunDir(args.proj_dir)
    settings = run.read_settings()
    if settings.num_nodes == 1:  # gloo goes by the machine's name, which may lead nowhere
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with os.fdopen(args.report, "w", encoding="utf-8") as report:

        def fail(event: events.Event) -> None:
            report.write(events.dump_event(event))
            report.flush()

        place = Place.of(settings, args.local, args.meeting)
        return run_training(run, stop, args.on_finish, UserPaths.of_user().cache, place, fail)


def _convert(args: argparse.Namespace) -> int:
    from engine.data.convert import convert

    signal.signal(signal.SIGTERM, _interrupt)

    try:
        report = convert(
            args.source, args.out, repeat=args.repeat, ctx_len=args.ctx_len, seed=args.seed,
            weights=args.weights, held_out=args.held_out, fields=args.fields, template=args.template,
            skip_bad=args.skip_bad, force=args.force, progress=_progress(),
        )  # fmt: skip
    except UserError as error:
        _emit(events.Failed(cause=error.cause, reason=error.message, remedy=error.remedy))
        return 1
    _emit(events.Converted(report=report))
    return 0


def _emit(event: events.Event) -> None:
    sys.stdout.write(events.dump_event(event))
    sys.stdout.flush()


def _progress() -> Callable[[str, int, int], None]:
    """Tells of progress now and then."""
    last = 0.0

    def tell(phase: str, done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= PROGRESS_EVERY:
            last = time.monotonic()
            _emit(events.Progress(phase=phase, done=done, total=total))

    return tell


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _summary(args: argparse.Namespace) -> int:
    from engine.data.plan import plan_of
    from engine.data.summary import summarise

    signal.signal(signal.SIGTERM, _interrupt)
    how = {"fields": args.fields, "template": args.template}
    if not args.whole:
        say_json(summarise(args.source, plan_of(args), **how).model_dump_json())
        return 0
    report = summarise(args.source, plan_of(args), **how, limit_bytes=None, progress=_progress())
    _emit(events.Summarised(report=report))
    return 0


def _show(args: argparse.Namespace) -> int:
    from engine.data.plan import plan_of
    from engine.data.show import show_document

    how = {"fields": args.fields, "template": args.template}
    say_json(show_document(args.source, args.number, plan_of(args), **how).model_dump_json())
    return 0


def _init(args: argparse.Namespace) -> int:
    from engine.models.init import make_checkpoint

    signal.signal(signal.SIGTERM, _interrupt)
    info = make_checkpoint(
        args.out, args.version, args.n_layer, args.n_embd, args.vocab_size, args.seed,
        pre_ffn=args.pre_ffn, head_qk=args.head_qk,
    )  # fmt: skip
    said = N_("{out}: {version}, {parameters:,} parameters")
    return _told(args, info, _(said, out=args.out, version=info.version, parameters=info.parameters))


def _told(args: argparse.Namespace, report: Report, said: str) -> int:
    """Prints a job's result, for a program or for a person."""
    if args.json:
        say_json(report.model_dump_json(indent=2))
    else:
        say(said)
    return 0


def _counter(unit: str) -> Callable[[int, int], None]:
    """Tells on a terminal how many of something are done."""

    def tell(done: int, total: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done}/{total} {unit}" + ("" if done < total else "\n"))
            sys.stderr.flush()

    return tell


def _evaluate(args: argparse.Namespace) -> int:
    from engine.checkpoints.inspect import inspect_model
    from engine.contract.check import require_settings

    if args.ctx_len < 1:
        raise UserError(
            _("--ctx-len {ctx_len} is out of range.", ctx_len=args.ctx_len), _("It must be at least 1.")
        )
    kind = args.data_type or BY_SUFFIX.get(args.data.suffix, "binidx")
    settings = require_settings({
        "data_type": kind, "data_file": args.data, "ctx_len": args.ctx_len, "quant": args.quant,
        "dataload": "get" if kind.startswith("utf") else "pad",  # a text is one long document
    }, files=False)  # fmt: skip
    vocab_size = inspect_model(args.model).vocab_size

    # What is wrong so far has been told before torch is loaded.
    from engine.contract.paths import UserPaths
    from engine.data.dataset import check_vocabulary, cut
    from engine.data.sources import open_data
    from engine.gpu import memory_told
    from engine.models import load_model
    from engine.train.evaluate import measure
    from engine.train.prepare import choose_device

    device = choose_device("auto")
    data = open_data(settings, vocab_size, lambda phase, done, total: None)
    check_vocabulary(data, vocab_size)
    adapter = _adapter(args)
    with memory_told():
        model = load_model(
            args.model, state=args.state, device=device, adapter=adapter, quant=settings.quant,
            cache=UserPaths.of_user().cache,
        )  # fmt: skip
        report = measure(model, cut(data, settings), device=device, progress=_counter(_("documents")))
    said = _(
        "loss {loss:.4f}  perplexity {perplexity:.3f}  {tokens:,} tokens of {documents:,} documents",
        loss=report.loss, perplexity=report.perplexity, tokens=report.tokens, documents=report.documents,
    )  # fmt: skip
    return _told(args, report, said)


def _adapter(args: argparse.Namespace) -> Adapter | None:
    if args.adapter is None:
        return None
    from engine.checkpoints.adapter import read_adapter

    return read_adapter(args.adapter, args.lora_alpha, args.init)


def _chat(args: argparse.Namespace) -> int:
    from engine.checkpoints.inspect import inspect_model

    if args.model is None:
        raise UserError(_("No model is given."), _("Name it with --model FILE.pth."))
    try:
        inspect_model(args.model)  # told before torch is loaded

        from engine.chat.job import converse, open_talks
        from engine.contract.paths import UserPaths
        from engine.gpu import memory_told
        from engine.train.prepare import choose_device

        with memory_told():
            device = choose_device("auto")
            cache = UserPaths.of_user().cache
            talks = open_talks(args.model, args.state, _adapter(args), args.quant, device, _emit, cache)
            converse(talks, sys.stdin, _emit)
    except UserError as error:
        _emit(events.Failed(cause=error.cause, reason=error.message, remedy=error.remedy))
        return 1
    return 0


def _merge(args: argparse.Namespace) -> int:
    from engine.checkpoints.merge import merge

    signal.signal(signal.SIGTERM, _interrupt)

    report = merge(
        args.base, args.out, state=args.state, adapter=args.adapter, alpha=args.lora_alpha, init=args.init,
        progress=_counter(_("tensors")),
    )  # fmt: skip
    said = _(
        "{path}: {version}, {file_bytes:,} bytes. {notice}",
        path=report.path, version=report.version, file_bytes=report.file_bytes, notice=report.notice,
    )  # fmt: skip
    return _told(args, report, said)


def _export(args: argparse.Namespace) -> int:
    from engine.checkpoints.export import export

    signal.signal(signal.SIGTERM, _interrupt)
    report = export(args.file, args.out or args.file.with_suffix(".st"), _counter(_("tensors")))
    said = _("{path}: {file_bytes:,} bytes", path=report.path, file_bytes=report.file_bytes)
    return _told(args, report, said)


def _gpus(args: argparse.Namespace) -> int:
    from engine.contract.cuda import visible

    say_json(events.dump_json(visible()))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from engine.doctor import diagnose

    say_json(events.dump_json(diagnose()))
    return 0


def _leave(status: int) -> None:
    """Ends the process without taking torch apart, which takes half a second and changes nothing."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    share_processors()
    _leave(main())
