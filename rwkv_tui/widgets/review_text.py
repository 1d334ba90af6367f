"""A run that is about to start, in sentences and as a command."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.contract.flags import changed, flag_words, spell
from engine.contract.i18n import N_, _, n_
from engine.contract.settings import TrainSettings
from rwkv_tui.draft import Draft
from rwkv_tui.services.files import short

TOPICS = (N_("Train"), N_("On"), N_("For"), N_("Rate"), N_("With"), N_("Into"))


def sentences(s: TrainSettings, draft: Draft, cwd: Path) -> tuple[str, ...]:
    """What will happen and where files go, one text for each of TOPICS."""
    return (
        _train(s, draft, cwd), _data(s, draft, cwd), _amount(s, draft),
        _rate(s), _hardware(s), _files(s, cwd),
    )  # fmt: skip


def _path(path: Path | None, cwd: Path) -> str:
    return short(cwd / path, cwd) if path else _("(not chosen yet)")


def _train(s: TrainSettings, draft: Draft, cwd: Path) -> str:
    base = _("a new model of random weights") if s.from_random else _path(s.load_model, cwd)
    if draft.model and s.my_testing != "auto":
        base += f" (RWKV-{s.my_testing[2]} {draft.model.size_name})"
    if s.method == "full":
        return _("all weights of {base}.", base=base)
    if s.method == "state":
        return _("the initial state of {base}, which itself stays as it is.", base=base)
    return _("a {method} adapter of {base}, which itself stays as it is.", method=s.method, base=base)


def _data(s: TrainSettings, draft: Draft, cwd: Path) -> str:
    parts = {"qa": _("only answers are learned"), "se": _("only what mask_id encloses is learned")}
    learned = parts.get(s.loss_mask) or _("all of a document is learned")
    cut = draft.data.cut_documents if draft.data and draft.data.ctx_len == s.ctx_len else 0
    file = _path(s.data_file, cwd)
    if s.dataload == "get":
        return _("{file}, in windows of {n:,} tokens; {learned}.", file=file, n=s.ctx_len, learned=learned)
    if not cut:
        return _("{file}, at most {n:,} tokens each; {learned}.", file=file, n=s.ctx_len, learned=learned)
    return n_("{file}; {n:,} document is cut to {tokens:,} tokens; {learned}.",
              "{file}; {n:,} documents are cut to {tokens:,} tokens; {learned}.",
              cut, file=file, tokens=s.ctx_len, learned=learned)  # fmt: skip


def _amount(s: TrainSettings, draft: Draft) -> str:
    run = n_("{n:,} epoch of {steps:,} steps with {documents} each",
             "{n:,} epochs of {steps:,} steps with {documents} each", s.epoch_count, steps=s.epoch_steps,
             documents=examples(s, s.micro_bsz))  # fmt: skip
    passes = draft.passes()
    if passes is None:
        return _("{run}.", run=run)
    return _("{run}, {passes:,.3g} passes over the data.", run=run, passes=passes)


def examples(s: TrainSettings, n: int) -> str:
    """So many of what a run learns from."""
    if s.dataload == "get":
        return n_("{n:,} window", "{n:,} windows", n)
    return n_("{n:,} document", "{n:,} documents", n)


def _rate(s: TrainSettings) -> str:
    if s.lr_schedule == "constant" or s.lr_init == s.lr_final:
        rate = _("{rate:g} throughout", rate=s.lr_init)
    else:
        first, last = s.lr_init, s.lr_final
        rate = _("from {first:g} to {last:g} ({schedule})", first=first, last=last, schedule=s.lr_schedule)
    if not s.warmup_steps:
        return _("{rate}.", rate=rate)
    return _("{rate} after {n:,} steps of warmup.", rate=rate, n=s.warmup_steps)


def _hardware(s: TrainSettings) -> str:
    places = {"auto": N_("a GPU if there is one, else the CPU"), "gpu": N_("the GPU"), "cpu": N_("the CPU")}
    where, precision = _(places[s.accelerator]), s.precision
    if s.grad_cp == 2:
        told = N_(
            "{where} in {precision}; memory is saved by recomputing and by the computer's own (grad_cp)."
        )
    elif s.grad_cp:
        told = N_("{where} in {precision}; memory is saved by recomputing (grad_cp).")
    else:
        told = N_("{where} in {precision}.")
    return " ".join(filter(None, (_(told, where=where, precision=precision), _together(s))))


def _together(s: TrainSettings) -> str:
    """How several processes share the work; "" where there is one."""
    if s.processes == 1:
        return ""
    if s.num_nodes == 1:
        return _("{n} processes train together (devices); strategy {strategy}.",
                 n=s.processes, strategy=s.strategy)  # fmt: skip
    told = N_(
        "{n} processes train together: devices {devices} on each of num_nodes {nodes}; strategy {strategy}."
    )
    return _(told, n=s.processes, devices=s.devices, nodes=s.num_nodes, strategy=s.strategy)


def _files(s: TrainSettings, cwd: Path) -> str:
    usual = {0: _("at the end"), 1: _("every epoch")}
    when = usual.get(s.epoch_save) or _("every {n} epochs", n=s.epoch_save)
    folder = _path(s.proj_dir, cwd)
    if s.method == "state":
        told = N_("{folder}: a state file rwkv-N.pth {when}, train_log.txt and the settings.")
    else:
        told = N_("{folder}: a model file rwkv-N.pth {when}, train_log.txt and the settings.")
    return _(told, folder=folder, when=when)


def command_lines(s: TrainSettings) -> str:
    """The `rwkv-tune train` command that does the same, a flag a line, as a shell takes it."""
    flags = [shlex.join(flag_words(name, spell(value))) for name, value in changed(s).items()]
    return " \\\n  ".join(["rwkv-tune train", *flags])  # unsaid
