"""Turns loose values into settings that can start a run, or into a list of what is wrong.

Everything that accepts settings (flags, presets, the form, the engine itself) comes through here.
"""

from __future__ import annotations

import difflib
import importlib.util
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.contract.adapter import ADAPTERS, TRAIN_PARTS, adapter_options
from engine.contract.data_files import SUFFIXES, unpacked
from engine.contract.errors import Problem, SettingsError
from engine.contract.i18n import N_, _
from engine.contract.settings import TrainSettings, train_params

LARGEST = 1 << 53  # whole numbers beyond are no longer told apart as float
WHY_FOREIGN = {
    ("quant", "full"): N_("full tuning changes every weight, and packed ones cannot be changed"),
    ("train_parts", "full"): N_("full tuning trains every part already"),
}


@dataclass(frozen=True)
class Checked:
    """The outcome: `settings` when every value parses by itself, and all problems found."""

    settings: TrainSettings | None
    problems: tuple[Problem, ...]

    def by_field(self) -> dict[str, str]:
        """The first message of each field."""
        return {p.field: p.message for p in reversed(self.problems)}


def check_values(values: Mapping[str, Any], *, files: bool = True) -> Checked:
    """Checks types, ranges, contradictions and, with `files`, what is on disk."""
    try:
        settings = TrainSettings.model_validate(dict(values))
    except ValidationError as error:
        return Checked(None, tuple(_problem(e) for e in error.errors()))
    if endless := _endless(settings):
        return Checked(None, tuple(endless))
    problems = contradictions(settings)
    if files:
        problems += missing_files(settings)
    return Checked(settings, tuple(problems))


def require_settings(values: Mapping[str, Any], *, files: bool = True, source: str = "") -> TrainSettings:
    """As `check_values`, but raises SettingsError when anything is wrong."""
    checked = check_values(values, files=files)
    if checked.settings is None or checked.problems:
        raise SettingsError(list(checked.problems), source)
    return checked.settings


def _problem(error: Any) -> Problem:
    field = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, train_params(), n=1)
        return Problem(
            field,
            _("no such parameter; did you mean {near}?", near=near[0]) if near else _("no such parameter"),
        )
    param = train_params().get(field)
    given = error.get("input")
    if param is None:
        return Problem(field, str(error["msg"]))
    if param.kind == "choice":
        return Problem(
            field,
            _(
                "{given!r} is none of its values; use one of {choices}",
                given=given,
                choices=", ".join(param.choices),
            ),
        )
    if error["type"] in ("greater_than_equal", "greater_than", "less_than_equal", "less_than"):
        return Problem(
            field, _("{given} is out of range; it must be {limits}", given=given, limits=param.limits)
        )
    kinds = {
        "int": N_("{given!r} is not a whole number"), "float": N_("{given!r} is not a number"),
        "bool": N_("{given!r} is not 0 or 1"), "json": N_("{given!r} is not a JSON object"),
    }  # fmt: skip
    return Problem(field, _(kinds.get(param.kind, N_("{given!r} is not valid")), given=given))


def _endless(s: TrainSettings) -> list[Problem]:
    """Numbers that nothing here could be computed with."""
    values = ((p.name, getattr(s, p.name)) for p in train_params().values() if p.kind in ("int", "float"))
    return [Problem(name, _("is out of range; it is far too large")) for name, value in values
            if not -LARGEST <= value <= LARGEST]  # fmt: skip


def contradictions(s: TrainSettings) -> list[Problem]:
    """Settings that are each valid and cannot be meant together."""
    rules = (_method(s), _data(s), _machines(s), _adapter(s), _foreign(s))
    return [Problem(name, wrong) for name, wrong in itertools.chain(*rules)]


Wrong = Iterator[tuple[str, str]]
"""For each rule that is broken a parameter, and what is wrong with its value."""


def _method(s: TrainSettings) -> Wrong:
    """About what is trained, and how fast."""
    if s.peft not in ("none", "state") and s.train_type == "state":
        yield "train_type", _("state contradicts peft {peft}; leave one of the two out", peft=s.peft)
    if s.peft == "state" and s.train_type == "none":
        yield "train_type", _("none contradicts peft state; leave one of the two out")
    if s.lr_final > s.lr_init:
        said = N_("{lr_final:g} is above lr_init {lr_init:g}; lower it or raise lr_init")
        yield "lr_final", _(said, lr_final=s.lr_final, lr_init=s.lr_init)
    if s.lr_init == 0:
        yield "lr_init", _("0 would train nothing; state tuning wants 1")
    if s.dataload == "only" and s.micro_bsz > 1:
        yield "micro_bsz", _("dataload only takes one document a step; set it to 1")
    if s.train_type != "infctx" and s.chunk_ctx != train_params()["chunk_ctx"].default:
        yield "chunk_ctx", _("is read by train_type infctx only; set that or leave it out")


def _data(s: TrainSettings) -> Wrong:
    if s.data_type == "wds_img":
        usable = ", ".join(c for c in train_params()["data_type"].choices if c != s.data_type)
        said = N_("images are not text: rwkv-tune trains language models only; use {usable}")
        yield "data_type", _(said, usable=usable)
    text = s.data_type in ("utf-8", "utf-16le")
    if text and s.dataload != "get":
        said = N_(
            "{dataload} takes documents and a text file is one long one; set it to get, which takes windows"
        )
        yield "dataload", _(said, dataload=s.dataload)
    if s.loss_mask in ("qa", "se") and (text or s.data_type == "dummy"):
        said = N_("{loss_mask} needs documents, which {data_type} has not; use pad")
        yield "loss_mask", _(said, loss_mask=s.loss_mask, data_type=s.data_type)
    if s.loss_mask == "se" and s.mask_ids is None:
        yield "mask_id", _('loss_mask se needs two ids, like {"mask0":"130","mask1":"131"}')
    if s.val_split > 1 and s.val_split != int(s.val_split):
        said = N_("{val_split:g} is neither a share below 1 nor a whole number")
        yield "val_split", _(said, val_split=s.val_split)
    if s.early_stop and not s.val_split:
        yield "early_stop", _("goes by documents held out; set val_split, e.g. to 0.05")


def _machines(s: TrainSettings) -> Wrong:
    if s.node_rank >= s.num_nodes:
        said = N_("{node_rank} is none of {num_nodes} machines, counted from 0")
        yield "node_rank", _(said, node_rank=s.node_rank, num_nodes=s.num_nodes)
    if s.num_nodes > 1 and not s.main_address:
        yield "main_address", _("is needed with num_nodes above 1: the address of machine 0")


def _adapter(s: TrainSettings) -> Wrong:
    if s.peft in ADAPTERS:
        for problem in adapter_options(s)[1]:
            yield problem.field, problem.message
    strange = sorted(set(filter(None, s.train_parts.split(","))) - set(TRAIN_PARTS))
    if strange:
        said = N_("there is no part {strange}; use {train_parts}")
        yield "train_parts", _(said, strange=strange[0], train_parts=", ".join(TRAIN_PARTS))


def _foreign(s: TrainSettings) -> Wrong:
    """Settings moved from their default that the chosen method would not read."""
    for p in train_params().values():
        if p.methods and s.method not in p.methods and getattr(s, p.name) != p.default:
            why = WHY_FOREIGN.get((p.name, s.method), N_("has no effect when tuning {method}"))
            told = _(why, method=s.method)
            yield p.name, _("{why}; leave it at {value}", why=told, value=p.default or _("nothing"))


def missing_files(s: TrainSettings) -> list[Problem]:
    """Files the run needs and does not find, and a proj_dir that cannot be used."""
    found = []
    for name, param in train_params().items():
        spared = {"data_file": s.data_type == "dummy", "load_model": s.from_random}.get(name, False)
        if param.required and not spared and getattr(s, name) is None:
            found.append(Problem(name, _("is not set; it names {help}", help=_lower_first(param.help))))
    if s.load_model is not None and not _is_file(s.load_model):
        found.append(
            Problem(
                "load_model",
                _("no file {load_model}; give the path of a .pth model", load_model=s.load_model),
            )
        )
    if s.data_file is not None:
        found += _missing_data(s.data_file, s.data_type)
    if s.wandb and not _installed("wandb"):
        found.append(
            Problem(
                "wandb",
                _(
                    "its package is not installed; `pip install 'rwkv-tune[wandb]'` does it, or leave "
                    "the project name empty"
                ),
            )
        )
    if s.proj_dir is not None and _is_file(s.proj_dir):
        found.append(Problem("proj_dir", _("{proj_dir} is a file; name a folder", proj_dir=s.proj_dir)))
    return found


def _missing_data(path: Path, data_type: str) -> list[Problem]:
    if data_type == "dummy":
        return []
    if data_type != "binidx":
        return (
            []
            if _is_file(path)
            else [
                Problem(
                    "data_file",
                    _(
                        "no file {path}; data_type {data_type} names a file with its suffix",
                        path=path,
                        data_type=data_type,
                    ),
                )
            ]
        )
    missing = [data_half(path, half) for half in (".bin", ".idx") if not _is_file(data_half(path, half))]
    if missing and _is_file(path) and Path(unpacked(path.name)).suffix in SUFFIXES:
        return [
            Problem(
                "data_file",
                _(
                    "{path} is no .bin/.idx pair; set data_type to jsonl, or make the pair with "
                    "`rwkv-tune data convert`",
                    path=path,
                ),
            )
        ]
    return [
        Problem("data_file", _("no file {half}; make the pair with `rwkv-tune data convert`", half=half))
        for half in missing[:1]
    ]


def _installed(package: str) -> bool:
    """A folder that only happens to have the name does not count."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def data_half(prefix: Path, suffix: str) -> Path:
    """PREFIX.bin or PREFIX.idx; unlike `with_suffix` it keeps dots that belong to the name."""
    return Path(f"{prefix}{suffix}")


def _is_file(path: Path) -> bool:
    """False too for a name that is too long or a folder one may not look into."""
    try:
        return path.is_file()
    except OSError:
        return False


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".。")
