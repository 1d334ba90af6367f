"""A run that is about to start, in sentences and as a command."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.contract.flags import changed, flag_words, spell
from engine.contract.settings import TrainSettings
from rwkv_tui.draft import Draft
from rwkv_tui.services.files import short

TOPICS = ("Train", "On", "For", "Rate", "With", "Into")


def sentences(s: TrainSettings, draft: Draft, cwd: Path) -> tuple[str, ...]:
    """What will happen and where files go, one text for each of TOPICS."""
    return (
        _train(s, draft, cwd), _data(s, draft, cwd), _amount(s, draft),
        _rate(s), _hardware(s), _files(s, cwd),
    )  # fmt: skip


def _path(path: Path | None, cwd: Path) -> str:
    return short(cwd / path, cwd) if path else "(not chosen yet)"


def _train(s: TrainSettings, draft: Draft, cwd: Path) -> str:
    what = {"state": "the initial state", "full": "all weights"}.get(s.method, f"a {s.method} adapter")
    model = draft.model
    about = f" (RWKV-{s.my_testing[2]} {model.size_name})" if model and s.my_testing != "auto" else ""
    kept = ", which itself stays as it is" if s.method != "full" else ""
    base = "a new model of random weights" if s.from_random else _path(s.load_model, cwd)
    return f"{what} of {base}{about}{kept}."


def _data(s: TrainSettings, draft: Draft, cwd: Path) -> str:
    parts = {"qa": "only answers are learned", "se": "only what mask_id encloses is learned"}
    learned = parts.get(s.loss_mask, "all of a document is learned")
    cut = draft.data.cut_documents if draft.data and draft.data.ctx_len == s.ctx_len else 0
    limit = f"{s.ctx_len:,} tokens"
    how = f"; {cut:,} documents are cut to {limit}" if cut else f", at most {limit} each"
    return f"{_path(s.data_file, cwd)}{how}; {learned}."


def _amount(s: TrainSettings, draft: Draft) -> str:
    passes = draft.passes()
    over = f", {passes:,.3g} passes over the data" if passes is not None else ""
    bsz = f"{s.micro_bsz} document{'s' if s.micro_bsz > 1 else ''}"
    epochs = f"{s.epoch_count:,} epoch{'s' if s.epoch_count > 1 else ''}"
    return f"{epochs} of {s.epoch_steps:,} steps with {bsz} each{over}."


def _rate(s: TrainSettings) -> str:
    warmup = f" after {s.warmup_steps:,} steps of warmup" if s.warmup_steps else ""
    if s.lr_schedule == "constant" or s.lr_init == s.lr_final:
        return f"{s.lr_init:g} throughout{warmup}."
    return f"from {s.lr_init:g} to {s.lr_final:g} ({s.lr_schedule}){warmup}."


def _hardware(s: TrainSettings) -> str:
    where = {"auto": "a GPU if there is one, else the CPU", "gpu": "the GPU", "cpu": "the CPU"}[s.accelerator]
    saving = "; memory is saved by recomputing (grad_cp)" if s.grad_cp else ""
    return f"{where} in {s.precision}{saving}."


def _files(s: TrainSettings, cwd: Path) -> str:
    kind = "state" if s.method == "state" else "model"
    when = {0: "at the end", 1: "every epoch"}.get(s.epoch_save, f"every {s.epoch_save} epochs")
    return f"{_path(s.proj_dir, cwd)}: a {kind} file rwkv-N.pth {when}, train_log.txt and the settings."


def command_lines(s: TrainSettings) -> str:
    """The `rwkv-tune train` command that does the same, a flag a line, as a shell takes it."""
    flags = [shlex.join(flag_words(name, spell(value))) for name, value in changed(s).items()]
    return " \\\n  ".join(["rwkv-tune train", *flags])
