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
from engine.contract.i18n import N_, _
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


_DEAD = N_("was read by nothing")
_FILE = N_("the model file says it")
_OF_2024 = N_("write --peft lora with --lora_config")
FOREIGN: dict[str, Foreign] = {
    "dim_att": Foreign(N_("set the width of the attention"), _FILE),
    "dim_ffn": Foreign(N_("set the width of the feed-forward layers"), _FILE),
    "head_size_a": Foreign(N_("set the width of a head"), _FILE),
    "head_size_divisor": Foreign(
        N_("scaled an epsilon that every released model has at 8"), N_("it is always 8"), ("8",)
    ),
    "tiny_att_dim": Foreign(_DEAD, N_("nothing replaces it")),
    "tiny_att_layer": Foreign(_DEAD, N_("nothing replaces it")),
    "my_pos_emb": Foreign(_DEAD, N_("nothing replaces it")),
    "my_ffn_shift": Foreign(_DEAD, N_("nothing replaces it")),
    "my_att_shift": Foreign(_DEAD, N_("nothing replaces it")),
    "load_partial": Foreign(_DEAD, N_("a model is loaded whole or refused")),
    "dropout": Foreign(_DEAD, N_("an adapter's dropout stands in its own settings")),
    "weight_decay_final": Foreign(N_("ended in an error when positive"), N_("weight_decay stays what it is")),
    "layerwise_lr": Foreign(
        N_("0 gave every parameter the same rate"),
        N_("full tuning lets the decays learn at twice the rate"),
        ("1",),
    ),
    "optim": Foreign(N_("adam_mini replaced Adam"), N_("there is no adam_mini"), ("none",)),
    "ds_bucket_mb": Foreign(N_("set the size of DeepSpeed's buffers"), N_("DeepSpeed's own default holds")),
    "l2warp_sparse": Foreign(N_("chose how L2Wrap is computed, not its result"), N_("there is one way")),
    "avg_loss": Foreign(N_("was overwritten by the log"), N_("the log shows each step and a smoothed loss")),
    "compile": Foreign(
        N_("compiled the model for speed"), N_("op auto takes the fastest operator"), switch=True
    ),
    "fla": Foreign(N_("chose the fla operator"), N_("op auto takes the fastest one"), switch=True),
    "fused_kernel": Foreign(
        N_("chose a loss that never holds all logits"), N_("the loss never holds them"), switch=True
    ),
    "my_pile_version": Foreign(_DEAD, N_("nothing replaces it")),
    "my_pile_stage": Foreign(
        N_("ran the stages of a pre-training and set epochs by itself"),
        N_("give epoch_steps and epoch_count yourself"),
        ("0",),
    ),
    "my_pile_shift": Foreign(_DEAD, N_("nothing replaces it")),
    "my_pile_edecay": Foreign(_DEAD, N_("nothing replaces it")),
    "magic_prime": Foreign(
        N_("ordered the data of a pre-training"), N_("documents are shuffled afresh each pass")
    ),
    "my_random_steps": Foreign(_DEAD, N_("nothing replaces it")),
    "my_sample_len": Foreign(_DEAD, N_("sample_len sets the length of the answer at the end")),
    "my_qa_mask": Foreign(N_("1 ended in an error"), N_("write --loss_mask qa"), ("0",)),
    "my_exit": Foreign(N_("ended the run after an epoch"), N_("write --epoch_count"), ("99999999",)),
    "my_exit_tokens": Foreign(_DEAD, N_("epoch_steps and epoch_count end a run")),
    "data_shuffle": Foreign(
        N_("0 kept the order of the documents"), N_("documents are shuffled afresh each pass"), ("1",)
    ),
    "merge": Foreign(
        N_("1 saved the merged model after each epoch"),
        N_("what was trained is saved; merging is a step of its own"),
    ),
    "sft_field": Foreign(
        N_("named columns of a data set on the Hub"), N_("make a .jsonl of it and run `data convert`"), None
    ),
    "sft_split": Foreign(
        N_("named a part of a data set on the Hub"), N_("make a .jsonl of it and run `data convert`"), None
    ),
    "lora": Foreign(N_("meant peft lora until 2024"), _OF_2024, None, switch=True),
    "lora_load": Foreign(N_("was a flag of its own until 2024"), _OF_2024, None),
    "lora_r": Foreign(N_("was a flag of its own until 2024"), _OF_2024, None),
    "lora_alpha": Foreign(N_("was a flag of its own until 2024"), _OF_2024, None),
    "lora_dropout": Foreign(N_("was a flag of its own until 2024"), _OF_2024, None),
    "lora_parts": Foreign(N_("was a flag of its own until 2024"), _OF_2024, None),
    "PISSA": Foreign(N_("meant peft pissa until 2024"), N_("write --peft pissa"), None, switch=True),
    "svd_niter": Foreign(N_("was a flag of its own until 2024"), N_("write --peft pissa"), None),
}

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
    ("lr_schedule", "wsd"): N_(
        "there it was a warmup and a cosine to 0; here the rate stays and falls to lr_final "
        "over the last fifth"
    ),
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
        spelled = f"--{new} {fixed}" if fixed else f"--{new}"
        reading.notes.append(Problem(f"--{name}", _("is called {flag} here", flag=spelled)))
        name, given = new, [fixed] if fixed else given
        value = fixed or value
    if name in train_params():
        if not given:
            reading.problems.append(Problem(f"--{name}", _("has no value; give one after it")))
            return
        reading.values[name] = _respell(reading, name, value)
        return
    foreign = FOREIGN.get(name)
    if foreign is None:
        near = difflib.get_close_matches(name, train_params(), n=1)
        said = _("no such flag; did you mean --{near}?", near=near[0]) if near else _("no such flag")
        reading.problems.append(Problem(f"--{name}", said))
    elif not foreign.switch and not given:
        reading.problems.append(Problem(f"--{name}", _("has no value; leave it out")))
    elif foreign.harmless == ANY or (foreign.harmless and _plain(value) in foreign.harmless):
        reading.notes.append(
            Problem(
                f"--{name}",
                _("left out: in RWKV-PEFT it {there}; {here}", there=_(foreign.there), here=_(foreign.here)),
            )
        )
    else:
        said = _(
            "cannot be honoured: in RWKV-PEFT it {there}; {here}",
            there=_(foreign.there),
            here=_(foreign.here),
        )
        reading.problems.append(Problem(f"--{name}", f"{value} {said}".strip()))


def _respell(reading: Reading, name: str, value: str) -> str:
    new = RESPELLED.get((name, value))
    if new is None:
        return value
    reading.notes.append(Problem(f"--{name}", _("{value} is written {new} here", value=value, new=new)))
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
    note = Problem(
        "--strategy", _("{strategy} spreads a run over devices; with one it is auto", strategy=strategy)
    )
    return {**values, "strategy": "auto"}, [note]
