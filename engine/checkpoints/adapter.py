"""Adapters as files: peft's folder, which describes itself, and the incumbent's .pth, which does not.

A folder holds `adapter_config.json` and `adapter_model.safetensors` as peft writes them and, where parts
of the model were trained too, `trained_parts.safetensors` with those tensors under their own names.
A .pth has `X.lora_A` [r, in] and `X.lora_B` [out, r], or `X.disha` (earlier `X.bone`) [r, out], for a
linear X, and the trained parts beside them; PiSSA's starting point is in a second file, `init_pissa.pth`.
Source of that layout: RWKV-PEFT, rwkvt/peft/rwkvLinear.py and merge/ (2025).

peft takes about ten seconds to import, so nothing here does before it must.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.checkpoints.header import read_header
from engine.checkpoints.save import load_tensors
from engine.contract.errors import UserError, first_line
from engine.contract.i18n import _
from engine.packages import require

if TYPE_CHECKING:
    from peft import PeftConfig

CONFIG, WEIGHTS, PARTS = "adapter_config.json", "adapter_model.safetensors", "trained_parts.safetensors"
PISSA_INIT = "init_pissa.pth"
OUTER = "base_model.model."  # peft's own prefix of every name in a file
LARGEST_CONFIG = 1 << 20  # bytes
MOST_SIGNS = 2  # that let a pattern match in several ways
NAME = "default"  # of the one adapter that a model has


@dataclass(frozen=True)
class Adapter:
    """`config`: peft's; `tensors` by peft's names without prefix; `parts`: whole tensors of the model."""

    config: PeftConfig
    tensors: dict[str, Tensor]
    parts: dict[str, Tensor] = field(default_factory=dict)

    def targets(self) -> set[str]:
        """The dotted names of the linears it belongs to."""
        return targets_of(self.tensors)


def targets_of(tensors: Iterable[str]) -> set[str]:
    """The dotted names of the linears that an adapter's tensors belong to."""
    return {re.split(r"\.(?:lora|miss)_\w+", name)[0] for name in tensors}


def read_adapter(path: Path, alpha: float | None = None, init: Path | None = None) -> Adapter:
    """A folder or a .pth file; `rwkv-3.pth` with a folder `rwkv-3` beside it is read from there.

    A LoRA .pth does not say its alpha, so `alpha` must. `init` (default: init_pissa.pth beside the file)
    makes it a PiSSA: then the result is the LoRA of twice the rank that does the same to an unchanged
    base. Raises UserError for anything that is no adapter.
    """
    require("peft", _("read the adapter on another computer"))
    if (path / CONFIG).is_file():
        return _read_folder(path)
    if path.name == WEIGHTS:
        return _read_folder(path.parent)
    if path.is_dir() or path.suffix != ".pth":
        raise UserError(
            _("{path} is no adapter: it has no {config}.", path=path, config=CONFIG),
            _("Name an adapter's folder or .pth file."),
        )
    if (path.with_suffix("") / CONFIG).is_file():
        return _read_folder(path.with_suffix(""))
    if init is None and (path.parent / PISSA_INIT).is_file():
        init = path.parent / PISSA_INIT
    return _read_pth(path, alpha, init)


def _read_folder(folder: Path) -> Adapter:
    from peft import PeftConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).is_file():
        raise UserError(
            _("{folder} has no {weights}.", folder=folder, weights=WEIGHTS),
            _("Save or copy the adapter again."),
        )
    try:
        with (folder / CONFIG).open("rb") as file:
            if len(file.read(LARGEST_CONFIG + 1)) > LARGEST_CONFIG:
                raise ValueError(_("its {config} is larger than any", config=CONFIG))
        tensors = {name.removeprefix(OUTER): t for name, t in load_file(folder / WEIGHTS).items()}
        parts = load_file(folder / PARTS) if (folder / PARTS).is_file() else {}
        config = PeftConfig.from_pretrained(str(folder))
        _check_config(config, tensors)
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError
    ) as error:  # fmt: skip
        raise UserError(
            _("{folder} is a damaged adapter ({error}).", folder=folder, error=first_line(error)),
            _("Save or copy it again."),
        ) from error
    return Adapter(config, tensors, parts)


def _check_config(config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a config that asks for more than its tensors hold or for what is never done
    at another's word: importing a module that it names, or trying a pattern that never ends."""
    if str(config.peft_type.value) not in ("LORA", "MISS"):
        raise ValueError(_("peft_type {kind} is none of LORA and MISS", kind=config.peft_type.value))
    if getattr(config, "megatron_config", None):
        raise ValueError(_("megatron_config imports a module of its own"))
    ranks, scales = (getattr(config, name, None) or {} for name in ("rank_pattern", "alpha_pattern"))
    for pattern in (*ranks, *scales):
        if not isinstance(pattern, str) or sum(map(pattern.count, "*+?{(")) > MOST_SIGNS:
            raise ValueError(_("the pattern {pattern!r} is too involved", pattern=str(pattern)[:60]))
    largest = max((max(t.shape, default=0) for t in tensors.values()), default=0)
    for rank in (config.r, *ranks.values()):
        if type(rank) is not int or not 0 < rank <= largest:
            raise ValueError(_("its tensors have no rank {rank}", rank=str(rank)[:20]))
    for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        setattr(config, name, None)  # its tensors say which linears it belongs to


def read_pth(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The incumbent's tensors by kind: those of the adapter and whole parts of the model."""
    read_header(path)  # says in one line what is wrong with a file
    tensors = load_tensors(path)
    inner = {n: t for n, t in tensors.items() if re.search(r"\.(lora_[AB]|bone|disha)$", n)}
    if not inner:
        raise UserError(
            _(
                "{path} is no adapter: it has no lora_A, bone or disha (it has {first}).",
                path=path,
                first=next(iter(tensors)),
            ),
            _("Name an adapter's folder or .pth file."),
        )
    return inner, {n: t for n, t in tensors.items() if n not in inner}


def _read_pth(path: Path, alpha: float | None, init: Path | None) -> Adapter:
    inner, parts = read_pth(path)
    if any(".lora_" not in name for name in inner):
        return _miss_from_pth(path, inner, parts)
    tensors = {f"{name}.weight": t for name, t in inner.items()}
    rank, targets = next(t.shape[0] for n, t in inner.items() if n.endswith(".lora_A")), targets_of(tensors)
    if init is not None:
        read_header(init)
        before = {n.replace(".init_lora_", ".lora_") + ".weight": t for n, t in load_tensors(init).items()}
        if before.keys() != tensors.keys():
            raise UserError(
                _("{init} does not belong to {path}.", init=init, path=path),
                _("Name the init file of the same run."),
            )
        return Adapter(lora_config(2 * rank, 2 * rank, targets), unbased(tensors, before), parts)
    if alpha is None:
        raise UserError(
            _("{path} does not say its lora_alpha.", path=path), _("Give the one it was trained with.")
        )
    return Adapter(lora_config(rank, alpha, targets), tensors, parts)


def _miss_from_pth(path: Path, inner: dict[str, Tensor], parts: dict[str, Tensor]) -> Adapter:
    from peft import MissConfig

    if any(t.ndim != 2 for t in inner.values()):
        raise UserError(
            _(
                "{path} is of the mode bat, with blocks along the inputs; those of peft lie along "
                "the outputs.",
                path=path,
            ),
            _("Merge it with the program that made it."),
        )
    rank = next(iter(inner.values())).shape[0]
    tensors = {re.sub(r"\.(bone|disha)$", ".miss_block", name): t for name, t in inner.items()}
    return Adapter(MissConfig(r=rank, target_modules=exactly(targets_of(tensors))), tensors, parts)


def lora_config(rank: int, alpha: float, targets: Iterable[str]) -> PeftConfig:
    """A plain LoRA."""
    from peft import LoraConfig

    # peft computes with any number, whatever its annotation says
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=exactly(targets))  # type: ignore[arg-type]


def exactly(targets: Iterable[str]) -> str:
    """The pattern by which peft finds just these linears."""
    return "|".join(map(re.escape, sorted(targets)))


def unbased(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA of twice the rank that does to the base what the tensors, less those before, do."""
    doubled = {}
    for name, tensor in tensors.items():
        down = name.endswith(".lora_A.weight")
        first = before[name].to(tensor)
        doubled[name] = torch.cat([tensor, first], 0) if down else torch.cat([tensor, -first], 1)
    return doubled


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Writes peft's folder; it appears whole, in the place of one that was there."""
    from safetensors.torch import save_file

    partial, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        whole = {f"{OUTER}{name}": t.detach().cpu().contiguous() for name, t in adapter.tensors.items()}
        save_file(whole, partial / WEIGHTS, {"format": "pt"})
        if adapter.parts:
            save_file({n: t.detach().cpu().contiguous() for n, t in adapter.parts.items()}, partial / PARTS)
        config = copy.deepcopy(adapter.config)
        config.inference_mode = True  # as peft marks what is saved for use
        config.save_pretrained(str(partial))
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            _("Cannot write {folder} ({strerror}).", folder=folder, strerror=error.strerror),
            _("Free some space or choose another folder."),
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def pth_tensors(adapter: Adapter) -> dict[str, Tensor] | None:
    """The adapter as the incumbent's file holds it; None where it knows no such adapter."""
    config: Any = adapter.config
    if config.peft_type.value == "MISS":
        known = config.init_weights is True
    else:
        plain = all(n.endswith((".lora_A.weight", ".lora_B.weight")) for n in adapter.tensors)
        known = plain and not (config.use_rslora or config.alpha_pattern)
    if not known:
        return None
    names = {n: n.removesuffix(".weight").replace(".miss_block", ".disha") for n in adapter.tensors}
    return {names[n]: t for n, t in adapter.tensors.items()} | adapter.parts


def inject(model: nn.Module, adapter: Adapter) -> None:
    """Puts the adapter's layers and values into a model (or a part of one that has just its linears).

    Raises UserError when they do not fit it.
    """
    from peft import set_peft_model_state_dict

    targets = adapter.targets()
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    foreign = sorted(targets - linears)
    if foreign or not targets:
        what = (
            _("has {foreign}, which the model has not", foreign=foreign[0])
            if foreign
            else _("holds no tensors")
        )
        raise UserError(
            _("The adapter matches nothing: it {what}.", what=what),
            _("Use the base model it was trained on."),
        )
    config: Any = copy.deepcopy(adapter.config)
    config.target_modules = exactly(targets)
    config.inference_mode = False
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True  # the values come from the file: no start that changes the base
    try:
        inject_new(config, model)
        result: Any = set_peft_model_state_dict(model, dict(adapter.tensors), NAME)
    except (RuntimeError, ValueError, KeyError) as error:
        lines = map(str.strip, str(error).splitlines())
        reason = next((line for line in lines if "size mismatch" in line), str(error))  # unsaid
        raise UserError(
            _("The adapter does not fit the model ({reason}).", reason=reason), _("Use its own base model.")
        ) from error
    missing = [name for name in result.missing_keys if name.endswith(f".{NAME}") or f".{NAME}." in name]
    if result.unexpected_keys or missing:
        if result.unexpected_keys:
            what = _("it has {name}", name=result.unexpected_keys[0])
        else:
            what = _("it lacks {name}", name=missing[0])
        raise UserError(
            _("The adapter does not fit its {config}: {what}.", config=CONFIG, what=what),
            _("Copy its folder again."),
        )


def inject_new(config: PeftConfig, model: nn.Module) -> None:
    """Puts fresh layers into a model whose own parameters are frozen; theirs are fp32 and learn."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, NAME)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@torch.no_grad()
def set_parts(model: nn.Module, parts: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Gives parts of a model that computes in `dtype` other values. Raises UserError for one that it
    does not have."""
    known = dict(model.named_parameters())
    for name, tensor in parts.items():
        if name not in known or known[name].shape != tensor.shape:
            raise UserError(
                _("The adapter's {name} does not fit the model.", name=name),
                _("Use the base model it was trained on."),
            )
        kept = torch.promote_types(known[name].dtype, dtype)
        known[name].data = tensor.detach().to(known[name].device, kept, copy=True)
