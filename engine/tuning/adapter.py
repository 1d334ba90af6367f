"""Adapters through Hugging Face peft: the weights stay, small matrices beside the linears are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.checkpoints.adapter import (
    NAME,
    WEIGHTS,
    Adapter,
    inject,
    inject_new,
    pth_tensors,
    read_adapter,
    set_parts,
    write_adapter,
)
from engine.checkpoints.save import save_tensors
from engine.contract.adapter import AdapterOptions
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.models.base import RWKV
from engine.packages import require
from engine.quant import LINEARS
from engine.tuning.base import Tuning, check_numbers
from engine.tuning.parts import keep_wide, names, param_groups, train_parts, value


class AdapterTuning(Tuning):
    """LoRA and its variants, and MiSS: whatever peft puts beside a linear. Trained in fp32."""

    def __init__(self, method: str, options: AdapterOptions, parts: tuple[str, ...] = ()) -> None:
        self.method = method
        self.options = options
        self.parts = parts

    def attach(self, model: RWKV) -> None:
        """Raises UserError when peft does not know an option or a loaded adapter does not fit."""
        self.attach_adapter(model, self._loaded())

    def attach_adapter(self, model: RWKV, start: Adapter | None) -> None:
        """Attaches `start`, or when None a new adapter."""
        model.requires_grad_(False)
        if start is None:
            self._inject(model)
        else:
            inject(model, start)
        if type(model.head) is not nn.Linear or not isinstance(model.emb, nn.Embedding):
            raise UserError(
                _("peft_config: target_modules names emb or head, which adapters do not reach."),
                _("Use train_parts for them."),
            )
        if start is not None:
            set_parts(model, start.parts, model.dtype)
            keep_wide(model, start.parts)  # they go on learning, and are saved again
        train_parts(model, self.parts)

    def param_groups(self, model: RWKV, weight_decay: float) -> list[dict[str, Any]]:
        return param_groups(model, weight_decay)

    def tensors(self, model: RWKV) -> dict[str, Tensor]:
        found = self.adapter(model)
        return pth_tensors(found) or found.tensors | found.parts

    def adapter(self, model: RWKV) -> Adapter:
        """What was trained, as it is written into files."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
        parts = {name: value(model, name) for name, p in names(model).items() if p.requires_grad}
        configs: Any = model.peft_config
        return Adapter(
            configs[NAME],
            {name: t.detach() for name, t in tensors.items()},
            {name: t for name, t in parts.items() if "lora_" not in name and ".miss_" not in name},
        )

    def save(self, model: RWKV, path: Path) -> Path:
        """Writes the folder `rwkv-N` and, where the incumbent knows such an adapter, `rwkv-N.pth`."""
        adapter = self.adapter(model)
        folder = path.with_suffix("")
        check_numbers(adapter.tensors | adapter.parts)
        write_adapter(adapter, folder)
        known = pth_tensors(adapter)
        if known is None:
            return folder / WEIGHTS
        save_tensors(known, path)
        return path

    def _inject(self, model: RWKV) -> None:
        peft = require("peft")
        kind: Any = peft.MissConfig if self.method == "miss" else peft.LoraConfig
        options = {"target_modules": LINEARS, **self.options.options}
        try:
            inject_new(kind(**options), model)
        except (TypeError, ValueError, ImportError) as error:
            reason = str(error).splitlines()[0].removeprefix(f"{kind.__name__}.__init__() ")
            raise UserError(
                _("peft_config: peft refuses it ({reason}).", reason=reason),
                _("Its page on {name} lists the keys.", name=kind.__name__),
            ) from error

    def _loaded(self) -> Adapter | None:
        """The adapter to go on from. Raises UserError when it is not what the options say."""
        if self.options.load is None:
            return None
        found = read_adapter(self.options.load, self.options.given.get("lora_alpha"), self.options.init)
        config: Any = found.config
        if config.peft_type.value != ("MISS" if self.method == "miss" else "LORA"):
            raise UserError(
                _(
                    "lora_load: {load} is a {kind}, not a {method}.",
                    load=self.options.load,
                    kind=config.peft_type.value,
                    method=self.method,
                ),
                _("Set peft to its kind."),
            )
        for name, wanted in self.options.given.items():
            real = getattr(config, name, None)
            if real != wanted and name not in ("lora_dropout", "miss_dropout", "target_modules"):
                raise UserError(
                    _(
                        "lora_load: the adapter has {name} {real}, the settings say {wanted}.",
                        name=name,
                        real=real,
                        wanted=wanted,
                    ),
                    _("Leave that out."),
                )
        for name in ("lora_dropout", "miss_dropout"):
            if name in self.options.given:
                setattr(config, name, self.options.given[name])
        return found
