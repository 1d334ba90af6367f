"""What a parameter's present value leads to: memory, time and risk, in a few words that follow the typing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from engine.contract.i18n import N_, _, n_
from engine.contract.reports import DataSummary
from engine.contract.risks import risks
from engine.contract.settings import TrainSettings
from engine.estimate import needed
from rwkv_tui.draft import Draft
from rwkv_tui.plain import duration, one_line, short, size
from rwkv_tui.services.speed import Speed

TIME = ("micro_bsz", "ctx_len", "epoch_steps", "epoch_count", "data_file", "dataload", "load_model")
"""Parameters that the amount of work follows from."""
OTHER_SPEED = ("peft", "train_type", "precision", "grad_cp", "quant", "op", "accelerator", "chunk_ctx")
"""Parameters that change the speed itself: what was measured before them is no longer quite true."""
MEMORY = ("micro_bsz", "ctx_len", "grad_cp", "quant", "precision", "load_model", "peft", "train_type")
"""Parameters that a GPU's memory depends on."""
TOKEN_BYTES = 2  # of a token in a pair
OFTEN = 20  # passes after which answers tend to be known by heart


@dataclass(frozen=True)
class Consequence:
    """One line beside a field."""

    kind: Literal["memory", "time", "risk"]
    text: str


def consequences(name: str, draft: Draft, speed: Speed | None) -> list[Consequence]:
    """What the value of the parameter `name` leads to, as far as it is known."""
    s = draft.approximate()
    memory = _memory(s) if name in MEMORY else ""
    found = [Consequence("memory", memory)] if memory else []
    if name in (*TIME, *OTHER_SPEED):
        found.append(Consequence("time", _time(s, speed)))
    found += [Consequence("risk", p.message) for p in risks(s) if p.field == name]
    return found + [Consequence("risk", text) for text in _of_data(name, draft, s)]


def of_conversion(field: str, text: str, data: DataSummary, sources: Sequence[Path]) -> str:
    """What a value of the form of a conversion leads to; nothing where that is not known yet."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return ""
    if not all(0 < number < inf for number in numbers):
        return ""
    if field == "weights" and len(numbers) == len(sources):
        shares = zip(sources, numbers, strict=True)
        return ", ".join(f"{one_line(path.name)} {share / sum(numbers):.0%}" for path, share in shares)
    if not data.complete or len(numbers) > 1:
        return ""
    if field == "repeat":
        tokens = data.tokens * numbers[0]
        return _("Writes {tokens:,.0f} tokens, {size}.", tokens=tokens, size=size(TOKEN_BYTES * tokens))
    if field == "held-out":
        copies = next((found.count for found in data.findings if found.code == "duplicate"), 0)
        distinct = data.documents - copies
        held = max(1, round(numbers[0] * distinct)) if numbers[0] < 1 else int(numbers[0])
        if held >= distinct:
            return _("There are only {n:,} different documents: none would be left.", n=distinct)
        if copies:
            told = N_("Holds out {n:,} of {all:,} documents, copies counted once.")
        else:
            told = N_("Holds out {n:,} of {all:,} documents.")
        return _(told, n=held, all=distinct)
    return ""


def _memory(s: TrainSettings) -> str:
    """Of a GPU, where it can be told: for states in 16 bits of a model whose size is known."""
    need = needed(s)
    if need is None:
        return ""
    if need.away:
        told = N_(
            "about {total} of a GPU's memory, {weights} of it the weights, and {away} of the computer's"
        )
    else:
        told = N_("about {total} of a GPU's memory, {weights} of it the weights")
    return _(told, total=size(need.total), weights=size(need.weights), away=size(need.away))


def _time(s: TrainSettings, speed: Speed | None) -> str:
    if speed is None:
        return n_("{n:,} step; how long it takes is known after a run of this model and method",
                  "{n:,} steps; how long they take is known after a run of this model and method",
                  s.total_steps)  # fmt: skip
    tokens = s.micro_bsz * s.ctx_len
    took = duration(s.total_steps * speed.step_s * tokens / speed.tokens)
    return _("about {time}, from {seconds} s a step of {tokens:,} tokens in the run {run}", time=took,
             seconds=short(speed.step_s), tokens=speed.tokens, run=one_line(speed.name))  # fmt: skip


def _of_data(name: str, draft: Draft, s: TrainSettings) -> list[str]:
    """What only the data tells."""
    passes, data = draft.passes(), draft.data
    if name in ("micro_bsz", "epoch_steps", "epoch_count") and passes is not None:
        if passes > OFTEN:
            return [_("{n:,.0f} passes over the data: answers come to be known by heart", n=passes)]
        if passes < 1:
            return [_("{share:.0%} of the data is never seen", share=1 - passes)]
    if name == "ctx_len" and data is not None and s.dataload != "get":
        return _cuts(data, s.ctx_len)
    return []


def _cuts(data: DataSummary, ctx_len: int) -> list[str]:
    if data.longest > ctx_len:
        return [_("documents are cut: the longest has {n:,} tokens", n=data.longest)]
    if ctx_len > 2 * data.longest and data.complete:
        return [_("the longest document has {n:,} tokens: the rest is never used", n=data.longest)]
    return []
