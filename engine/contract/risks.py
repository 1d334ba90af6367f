"""Settings that are allowed and probably not wanted: one table of plain rules; told, never refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.contract.errors import Problem
from engine.contract.i18n import N_, _
from engine.contract.settings import TrainSettings


@dataclass(frozen=True)
class Rule:
    """`text` is said of `field` while `holds`; {s.NAME} in it is a setting, {s.NAME:g} a number in short."""

    field: str
    holds: Callable[[TrainSettings], bool]
    text: str


RULES = (
    Rule(
        "warmup_steps",
        lambda s: s.warmup_steps >= s.total_steps,
        N_("the run has only {s.total_steps} steps: its rate never gets to lr_init"),
    ),
    Rule(
        "warmup_steps",
        lambda s: s.method == "state" and s.lr_init >= 1 and not s.warmup_steps,
        N_("a rate of {s.lr_init:g} from the first step on can throw a state far off; 10 is advised"),
    ),
    Rule(
        "lr_init",
        lambda s: s.method != "state" and s.lr_init > 1e-2,
        N_("{s.lr_init:g} suits state tuning; for {s.method} at most 1e-4 is advised"),
    ),
    Rule(
        "lr_init",
        lambda s: s.method == "state" and s.lr_init < 1e-3,
        N_("{s.lr_init:g} hardly moves a state; 1 is advised"),
    ),
    Rule(
        "lr_init",
        lambda s: s.method == "state" and s.lr_init > 2,
        N_("{s.lr_init:g} is more than a state usually bears; 1 is advised"),
    ),
    Rule(
        "grad_clip",
        lambda s: s.grad_clip == 0 and s.method == "state" and s.lr_init >= 0.5,
        N_("without clipping a single odd batch can ruin the state at such a rate; 1 is advised"),
    ),
    Rule(
        "optimizer",
        lambda s: bool(s.weight_decay) and s.optimizer == "adam",
        N_("adam adds weight_decay to the gradient, which weakens it; adamw is advised"),
    ),
    Rule(
        "mask_id",
        lambda s: bool(s.mask_id) and s.loss_mask != "se",
        N_("has no effect with loss_mask {s.loss_mask}; only se reads it"),
    ),
    Rule(
        "data_file",
        lambda s: s.data_file is not None and s.data_type == "dummy",
        N_("is not read: data_type dummy makes its own random tokens"),
    ),
    Rule(
        "val_split",
        lambda s: 0.5 < s.val_split < 1,
        N_("holds out more documents than are learned; 0.05 is usual"),
    ),
    Rule(
        "epoch_save",
        lambda s: not s.epoch_save and s.epoch_count > 1 and not s.early_stop,
        N_("only the last epoch is kept: a better one before it is lost"),
    ),
    Rule(
        "keep_checkpoints",
        lambda s: s.keep_checkpoints == 1 and s.epoch_count > 1,
        N_("no epoch can be compared with another"),
    ),
    Rule(
        "save_minutes",
        lambda s: not s.save_minutes and not s.epoch_save,
        N_("nothing is saved before the end: a run that is killed is lost"),
    ),
    Rule(
        "strategy",
        lambda s: (
            s.processes == 1 and s.strategy.startswith("deepspeed") and not s.strategy.endswith("_offload")
        ),
        N_("{s.strategy} has one device only to divide by; auto saves time and memory"),
    ),
)


def risks(s: TrainSettings) -> list[Problem]:
    """What the rules say of these settings."""
    return [Problem(rule.field, _(rule.text, s=s)) for rule in RULES if rule.holds(s)]
