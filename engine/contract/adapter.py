"""What `peft_config` and `lora_config` say of an adapter, under one set of names: peft's.

`lora_config` is the tutorial's spelling, {"lora_r":32,"lora_alpha":64}. The incumbent names the same
things after each method (pissa_r, bone_r, disha_r), so any of these prefixes is understood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import Problem
from engine.contract.i18n import N_, _
from engine.contract.settings import TrainSettings

ADAPTERS = ("lora", "pissa", "miss")
TRAIN_PARTS = ("emb", "head", "time", "ln")
DEFAULTS: dict[str, dict[str, Any]] = {
    "lora": {"r": 32, "lora_alpha": 64},
    "pissa": {"r": 32},
    "miss": {"r": 64},
}
PISSA_KEYS = ("r", "lora_alpha", "lora_dropout", "svd_niter")
SVD_NITER = 4
REFUSED = {
    "modules_to_save": N_("use train_parts"), "bias": N_("these models have none; leave it out"),
    "layer_replication": N_("it makes another model"), "trainable_token_indices": N_("use train_parts"),
    "target_parameters": N_("use target_modules"), "megatron_config": N_("it imports a module of its own"),
    "megatron_core": N_("it imports a module of its own"),
}  # fmt: skip
# peft's starts that leave the base as it is; a file with any other does not say what it belongs to.
STARTS = (True, False, "gaussian", "orthogonal")
_PREFIXES = ("lora_", "pissa_", "bone_", "disha_", "miss_")
_KEYS = {
    "r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "load": "load", "init": "init",
    "svd_niter": "svd_niter", "mode": "mode", "parts": "parts",
}  # fmt: skip
_MODES = {"bone": True, "miss": True, "bat": "bat"}  # peft's init_weights


@dataclass(frozen=True)
class AdapterOptions:
    """`given`: what was asked for, `options`: the same above the defaults, `load`: an adapter to go on
    from, `init`: what belongs to a PiSSA file of the incumbent."""

    given: dict[str, Any]
    options: dict[str, Any]
    load: Path | None
    init: Path | None


def adapter_options(settings: TrainSettings) -> tuple[AdapterOptions, list[Problem]]:
    """The adapter that the settings ask for, and what is wrong with it."""
    method = settings.peft
    old, problems = _renamed(settings.lora_config, method)
    given = {**old, **settings.peft_config}
    for name, value in settings.peft_config.items():
        if name in old and old[name] != value:
            said = N_("its {name} {old} contradicts {value} in peft_config; give it once")
            problems.append(Problem("lora_config", _(said, name=name, old=old[name], value=value)))
    paths = {name: Path(str(given.pop(name))).expanduser() for name in ("load", "init") if name in given}
    problems += [Problem("peft_config", said) for said in _refused(given, method)]
    options = {**DEFAULTS.get(method, {}), **given}
    return AdapterOptions(given, options, paths.get("load"), paths.get("init")), problems


def _refused(given: Mapping[str, Any], method: str) -> Iterator[str]:
    """What cannot be had of what peft could be told."""
    if method == "pissa":
        for name in [name for name in given if name not in PISSA_KEYS]:
            yield _("pissa has no {name}; it takes {keys}", name=name, keys=", ".join(PISSA_KEYS))
    for name in [name for name in given if name in REFUSED]:
        yield _("{name} is not available: {why}", name=name, why=_(REFUSED[name]))
    start = given.get("init_lora_weights", True)
    if start not in STARTS:
        hint = _("use true, gaussian or orthogonal")
        if str(start).startswith("pissa"):
            hint = _("use peft pissa")
        yield _("init_lora_weights {start!r} changes the base model; {hint}", start=start, hint=hint)
    rank = given.get("r", 1)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        yield _("r is {rank!r}; it must be a whole number from 1 on", rank=rank)


def _renamed(config: Mapping[str, Any], method: str) -> tuple[dict[str, Any], list[Problem]]:
    """What `lora_config` says, in peft's names."""
    found, problems = dict[str, Any](), []
    for key, value in config.items():
        prefix = next((p for p in _PREFIXES if key.startswith(p)), "")
        name, wrong = _KEYS.get(key.removeprefix(prefix)), ""
        if name is None:
            keys = ", ".join(f"lora_{known}" for known in _KEYS)
            wrong = _("{key} is none of its keys; {hint}", key=key, hint=_("it takes {keys}", keys=keys))
        elif name == "parts":
            wrong = _("{key} is none of its keys; {hint}", key=key, hint=_("use train_parts"))
        elif name == "mode" and (method != "miss" or value not in _MODES):
            wrong = _("{key} {value!r}: miss has the modes bone and bat", key=key, value=value)
        elif name == "lora_alpha" and method == "miss":
            wrong = _("miss has no {key}; leave it out", key=key)
        elif name == "mode":
            found["init_weights"] = _MODES[value]
        elif name == "lora_dropout" and method == "miss":
            found["miss_dropout"] = value
        elif value or name not in ("load", "init"):  # the tutorial writes "lora_load":"" for none
            found[name] = value
        if wrong:
            problems.append(Problem("lora_config", wrong))
    return found, problems
