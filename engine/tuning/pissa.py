"""PiSSA: a LoRA that starts as the largest directions of the weight, which the frozen weight then lacks.

W x = (W - s B0 A0) x + s B A x with B0 A0 s the truncated SVD of W, root of S on both sides, and
s = lora_alpha / r (1 unless asked otherwise). Source: the PiSSA paper (2024).

The SVD is taken of the weight as the file holds it, before it is packed: what packing loses is then lost
of the small remainder only. Such an adapter belongs to a changed base; the folder it is saved in holds the
LoRA of twice the rank that does the same to the base as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.adapter import (
    PISSA_INIT,
    Adapter,
    lora_config,
    read_pth,
    targets_of,
    unbased,
    write_adapter,
)
from engine.checkpoints.save import load_tensors, save_tensors
from engine.contract.adapter import SVD_NITER, AdapterOptions
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.models.base import RWKV
from engine.tuning.adapter import AdapterTuning
from engine.tuning.base import check_numbers


class PissaTuning(AdapterTuning):
    """Takes the start out of each weight while the model is loaded, then trains as a LoRA."""

    def __init__(self, method: str, options: AdapterOptions, parts: tuple[str, ...] = ()) -> None:
        super().__init__(method, options, parts)
        self.rank = int(options.options["r"])
        self.scale = float(options.options.get("lora_alpha", self.rank)) / self.rank
        self.start: dict[str, Tensor] = {}

    def adjust(self, name: str, weight: Tensor) -> Tensor:
        """The weight without its start."""
        linear = name.removesuffix(".weight")
        down, up = self._start(linear, weight.float())
        self.start |= {f"{linear}.lora_A.weight": down.cpu(), f"{linear}.lora_B.weight": up.cpu()}
        return (weight.float() - self.scale * (up @ down)).to(weight.dtype)

    def _start(self, linear: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.options.load is not None:
            return self._loaded_start(self.options.load, linear, weight)
        if self.rank > min(weight.shape):
            raise UserError(
                _(
                    "peft_config: r {rank} is above the {shape} that {linear} has.",
                    rank=self.rank,
                    shape=min(weight.shape),
                    linear=linear,
                ),
                _("Lower r."),
            )
        niter = int(self.options.options.get("svd_niter", SVD_NITER))
        left, sizes, right = torch.svd_lowrank(weight, self.rank, niter)
        root = (sizes / self.scale).sqrt()
        return (right * root).T.contiguous(), left * root

    def _loaded_start(self, load: Path, linear: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        init = self.options.init or load.parent / PISSA_INIT
        if load.is_dir() or not init.is_file():
            raise UserError(
                _(
                    "lora_load: {load} is no PiSSA to go on from: that is a .pth with {pissa_init} "
                    "beside it.",
                    load=load,
                    pissa_init=PISSA_INIT,
                ),
                _("A folder holds the LoRA of twice the rank; go on with peft lora."),
            )
        tensors = load_tensors(init)
        down, up = (tensors.get(f"{linear}.init_lora_{end}") for end in "AB")
        if down is None or up is None or (up.shape[0], down.shape[1]) != weight.shape:
            raise UserError(
                _("lora_load: {init} matches nothing at {linear}.", init=init, linear=linear),
                _("Use the base it was made for."),
            )
        return down.to(weight), up.to(weight) / self.scale

    def attach(self, model: RWKV) -> None:
        tensors = self.start
        parts: dict[str, Tensor] = {}
        if self.options.load is not None:
            inner, parts = read_pth(self.options.load)
            tensors = {f"{name}.weight": t for name, t in inner.items()}
            tensors = {n: t / self.scale if ".lora_B." in n else t for n, t in tensors.items()}
        rank = next(t.shape[0] for name, t in self.start.items() if ".lora_A." in name)
        config: Any = lora_config(rank, self.scale * rank, targets_of(self.start))
        config.lora_dropout = self.options.options.get("lora_dropout", 0.0)
        self.attach_adapter(model, Adapter(config, tensors, parts))

    def adapter(self, model: RWKV) -> Adapter:
        """Of the incumbent's layout: what multiplies the changed base, without a scale."""
        found = super().adapter(model)
        rank = found.config.r  # type: ignore[attr-defined]
        tensors = self._unscaled(found.tensors)
        return Adapter(lora_config(rank, rank, targets_of(tensors)), tensors, found.parts)

    def save(self, model: RWKV, path: Path) -> Path:
        """Writes the folder, the incumbent's file and, once a run, the start that belongs to it."""
        found, start = self.adapter(model), self._unscaled(self.start)
        check_numbers(found.tensors | found.parts)
        doubled = lora_config(2 * found.config.r, 2 * found.config.r, targets_of(found.tensors))  # type: ignore[attr-defined]
        write_adapter(Adapter(doubled, unbased(found.tensors, start), found.parts), path.with_suffix(""))
        init = path.parent / PISSA_INIT
        if not init.exists():
            renamed = {
                n.removesuffix(".weight").replace(".lora_", ".init_lora_"): t for n, t in start.items()
            }
            save_tensors(renamed, init)
        save_tensors(self.tensors(model), path)
        return path

    def _unscaled(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t * self.scale if ".lora_B." in n else t for n, t in tensors.items()}
