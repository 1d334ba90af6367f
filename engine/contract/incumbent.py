"""What RWKV-PEFT's command line says differently, as of June 2025 and January 2026.

Its flags that are parameters here keep their name and need nothing. This module holds the rest: flags
that are gone, values that are spelled differently, and a strategy that one device makes pointless.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.contract.errors import Problem
from engine.contract.settings import train_params

ANY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """A flag of the incumbent that is no parameter here.

    `there` says what it did; `here` what holds instead. It is left out, with a word about it, when its
    value is one of `harmless` (ANY: whatever it is), and refused otherwise.
    """

    there: str
    here: str
    harmless: tuple[str, ...] | None = ANY
    switch: bool = False


_DEAD = "was read by nothing"
_FILE = "the model file says it"
_OF_2024 = "write --peft lora with --lora_config"
FOREIGN: dict[str, Foreign] = {
    "dim_att": Foreign("set the width of the attention", _FILE),
    "dim_ffn": Foreign("set the width of the feed-forward layers", _FILE),
    "head_size_a": Foreign("set the width of a head", _FILE),
    "head_size_divisor": Foreign(
        "scaled an epsilon that every released model has at 8", "it is always 8", ("8",)
    ),
    "tiny_att_dim": Foreign(_DEAD, "nothing replaces it"),
    "tiny_att_layer": Foreign(_DEAD, "nothing replaces it"),
    "my_pos_emb": Foreign(_DEAD, "nothing replaces it"),
    "my_ffn_shift": Foreign(_DEAD, "nothing replaces it"),
    "my_att_shift": Foreign(_DEAD, "nothing replaces it"),
    "load_partial": Foreign(_DEAD, "a model is loaded whole or refused"),
    "dropout": Foreign(_DEAD, "an adapter's dropout stands in its own settings"),
    "weight_decay_final": Foreign("ended in an error when positive", "weight_decay stays what it is"),
    "layerwise_lr": Foreign(
        "0 gave every parameter the same rate", "full tuning lets the decays learn at twice the rate", ("1",)
    ),
    "optim": Foreign("adam_mini replaced Adam", "there is no adam_mini", ("none",)),
    "ds_bucket_mb": Foreign("set the size of DeepSpeed's buffers", "DeepSpeed's own default holds"),
    "l2warp_sparse": Foreign("chose how L2Wrap is computed, not its result", "there is one way"),
    "avg_loss": Foreign("was overwritten by the log", "the log shows each step and a smoothed loss"),
    "compile": Foreign("compiled the model for speed", "op auto takes the fastest operator", switch=True),
    "fla": Foreign("chose the fla operator", "op auto takes the fastest one", switch=True),
    "fused_kernel": Foreign(
        "chose a loss that never holds all logits", "the loss never holds them", switch=True
    ),
    "my_pile_version": Foreign(_DEAD, "nothing replaces it"),
    "my_pile_stage": Foreign(
        "ran the stages of a pre-training and set epochs by itself",
        "give epoch_steps and epoch_count yourself", ("0",),
    ),
    "my_pile_shift": Foreign(_DEAD, "nothing replaces it"),
    "my_pile_edecay": Foreign(_DEAD, "nothing replaces it"),
    "magic_prime": Foreign("ordered the data of a pre-training", "documents are shuffled afresh each pass"),
    "my_random_steps": Foreign(_DEAD, "nothing replaces it"),
    "my_sample_len": Foreign(_DEAD, "sample_len sets the length of the answer at the end"),
    "my_qa_mask": Foreign("1 ended in an error", "write --loss_mask qa", ("0",)),
    "my_exit": Foreign("ended the run after an epoch", "write --epoch_count", ("99999999",)),
    "my_exit_tokens": Foreign(_DEAD, "epoch_steps and epoch_count end a run"),
    "data_shuffle": Foreign(
        "0 kept the order of the documents", "documents are shuffled afresh each pass", ("1",)
    ),
    "merge": Foreign(
        "1 saved the merged model after each epoch", "what was trained is saved; merging is a step of its own"
    ),
    "sft_field": Foreign(
        "named columns of a data set on the Hub", "make a .jsonl of it and run `data convert`", None
    ),
    "sft_split": Foreign(
        "named a part of a data set on the Hub", "make a .jsonl of it and run `data convert`", None
    ),
    "lora": Foreign("meant peft lora until 2024", _OF_2024, None, switch=True),
    "lora_load": Foreign("was a flag of its own until 2024", _OF_2024, None),
    "lora_r": Foreign("was a flag of its own until 2024", _OF_2024, None),
    "lora_alpha": Foreign("was a flag of its own until 2024", _OF_2024, None),
    "lora_dropout": Foreign("was a flag of its own until 2024", _OF_2024, None),
    "lora_parts": Foreign("was a flag of its own until 2024", _OF_2024, None),
    "PISSA": Foreign("meant peft pissa until 2024", "write --peft pissa", None, switch=True),
    "svd_niter": Foreign("was a flag of its own until 2024", "write --peft pissa", None),
}  # fmt: skip

# Flags whose values are words of their own; here they are joined by commas.
LISTS = ("train_parts", "sft_field")

# Other names for a parameter; one that took no value stands for the value given here.
RENAMED: dict[str, tuple[str, str | None]] = {
    "rwkv_version": ("my_testing", None),
    "state_tune": ("train_type", "state"),
    "pissa_config": ("lora_config", None),
    "bone_config": ("lora_config", None),
    "disha_config": ("lora_config", None),
}
RESPELLED: dict[tuple[str, str], str] = {
    ("lr_schedule", "cos"): "cos_decay",
    ("peft", "bone"): "miss",
    ("peft", "disha"): "miss",
    ("peft", "DiSHA"): "miss",
    ("train_type", "finetune"): "none",
    ("precision", "bf16-true"): "bf16",
    ("strategy", "single-device"): "auto",
    ("strategy", "deepspeed"): "deepspeed_stage_2",
    ("random_seed", "-1"): "0",
    ("warmup_steps", "-1"): "0",
}
# The same name and another meaning: worth a word.
MEANINGS: dict[tuple[str, str], str] = {
    ("lr_schedule", "wsd"): "there it was a warmup and a cosine to 0; here the rate stays and falls to "
    "lr_final over the last fifth",
}
# What spreads a run over devices, and on one only costs memory and time. Offloading does more than that.
SPREADING = ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")

# What train.py takes where a script says nothing, as far as it is not what holds here.
DEFAULTS_THERE: dict[str, str] = {
    "train_type": "none",
    "micro_bsz": "12",
    "ctx_len": "1024",
    "epoch_count": "500",
    "epoch_save": "5",
    "lr_init": "0.0006",
    "lr_final": "1e-05",
    "warmup_steps": "0",
    "grad_cp": "0",
}


@dataclass
class Reading:
    """A command line as read: values by parameter, what was said about it, what is wrong with it.

    `notes` and `problems` name the flag in `field`; `rest` are words that are no flags of a run.
    """

    values: dict[str, str] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)


def read_flags(words: Sequence[str], own: Mapping[str, bool] = {}) -> Reading:
    """Reads what follows `train.py` or `rwkv-tune train`. Of flags written twice the last one counts.

    `own` are flags of the command itself and whether they take a value; they go to `rest` untouched.
    """
    reading = Reading()
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        flag, equals, value = word.partition("=")
        if flag in own:
            reading.rest.append(word)
            if own[flag] and not equals and at < len(words):
                reading.rest.append(words[at])
                at += 1
            continue
        if not word.startswith("--") or word == "--":
            reading.rest.append(word)
            continue
        given = [value] if equals else []
        takes = _takes(flag[2:])
        while not equals and at < len(words) and not words[at].startswith("--"):
            if takes == "none" or (takes == "one" and given):
                break
            given.append(words[at])
            at += 1
        _read(reading, flag[2:], given)
    return reading


def _takes(name: str) -> Literal["none", "one", "many"]:
    if name in LISTS:
        return "many"
    if name not in train_params() and (
        (name in FOREIGN and FOREIGN[name].switch) or (name in RENAMED and RENAMED[name][1])
    ):
        return "none"
    return "one"


def _read(reading: Reading, name: str, given: list[str]) -> None:
    value = ",".join(given)
    if name in RENAMED and name not in train_params():
        new, fixed = RENAMED[name]
        reading.notes.append(Problem(f"--{name}", f"is called --{new}{f' {fixed}' if fixed else ''} here"))
        name, given = new, [fixed] if fixed else given
        value = fixed or value
    if name in train_params():
        if not given:
            reading.problems.append(Problem(f"--{name}", "has no value; give one after it"))
            return
        reading.values[name] = _respell(reading, name, value)
        return
    foreign = FOREIGN.get(name)
    if foreign is None:
        near = difflib.get_close_matches(name, train_params(), n=1)
        hint = f"; did you mean --{near[0]}?" if near else ""
        reading.problems.append(Problem(f"--{name}", f"no such flag{hint}"))
    elif not foreign.switch and not given:
        reading.problems.append(Problem(f"--{name}", "has no value; leave it out"))
    elif foreign.harmless == ANY or (foreign.harmless and _plain(value) in foreign.harmless):
        reading.notes.append(
            Problem(f"--{name}", f"left out: in RWKV-PEFT it {foreign.there}; {foreign.here}")
        )
    else:
        said = f"{value} " if value else ""
        reading.problems.append(Problem(
            f"--{name}", f"{said}cannot be honoured: in RWKV-PEFT it {foreign.there}; {foreign.here}"
        ))  # fmt: skip


def _respell(reading: Reading, name: str, value: str) -> str:
    new = RESPELLED.get((name, value))
    if new is None:
        return value
    reading.notes.append(Problem(f"--{name}", f"{value} is written {new} here"))
    return new


def _plain(value: str) -> str:
    """A number without needless digits: 0.0 is 0."""
    try:
        return f"{float(value):g}" if len(value) < 20 and float(value) < 1e5 else value
    except ValueError:
        return value


def on_one_device(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The values of a script with a strategy that spreads work replaced by auto where there is one device.

    The tutorial's scripts name deepspeed_stage_1 for a single GPU, for nothing ran without DeepSpeed there;
    who writes it on our command line gets it.
    """
    strategy = values.get("strategy")
    if strategy not in SPREADING or {str(values.get(name, 1)) for name in ("devices", "num_nodes")} != {"1"}:
        return dict(values), []
    note = Problem("--strategy", f"{strategy} spreads a run over devices; with one it is auto")
    return {**values, "strategy": "auto"}, [note]
