"""What to change when memory is short: the settings that take less, the cheapest first."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.contract.i18n import _
from engine.contract.settings import TrainSettings


@dataclass(frozen=True)
class Saving:
    """`changes` are settings and the values they would have, as one types them; `cost` is what that costs."""

    cost: str
    changes: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return _(" with ").join(f"{name} {value}" for name, value in self.changes.items()) + f" ({self.cost})"


def savings(s: TrainSettings) -> list[Saving]:
    """Changes to these settings that take less memory, in order of what they cost."""
    found = []
    if s.grad_cp == 0:
        found.append(Saving(_("the same result, a third slower"), {"grad_cp": "1"}))
    if s.grad_cp < 2 and s.accelerator != "cpu":
        cost = _("the same result, a little slower than 1; takes memory of the computer")
        found.append(Saving(cost, {"grad_cp": "2"}))
    if s.micro_bsz > 1:
        batches = str(s.micro_bsz * s.accumulate_grad_batches)
        changes = {"micro_bsz": "1", "accumulate_grad_batches": batches}
        found.append(Saving(_("the same result, slower"), changes))
    if s.precision in ("fp32", "tf32"):
        found.append(Saving(_("half the memory, less exact"), {"precision": "bf16"}))
    if s.method != "full" and s.quant != "nf4":
        kind = "int8" if s.quant == "none" else "nf4"
        found.append(Saving(_("frozen weights take less, a slightly higher loss"), {"quant": kind}))
    if s.method == "full":
        found.append(Saving(_("a small part of the weights learns"), {"peft": "lora", "train_type": "auto"}))
    if s.ctx_len > 128:
        found.append(Saving(_("less of each document is learned"), {"ctx_len": str(s.ctx_len // 2)}))
    return found


def on_cpu(device: str) -> bool:
    """By what a run's plan calls its device, in whichever language that was."""
    return device.startswith("CPU")


def without_gpu(s: TrainSettings) -> TrainSettings:
    """The same, known to compute without a GPU: `accelerator auto` does not say so before a run."""
    return s.model_copy(update={"accelerator": "cpu"})


def advice(s: TrainSettings) -> str:
    """The same as a sentence."""
    return _(
        "What takes less, the cheapest first: {ways}.",
        ways="; ".join([*map(str, savings(s)), _("a smaller model")]),
    )


def host_emb(s: TrainSettings) -> bool:
    """Whether a GPU's run keeps the embedding in the host's memory: one that is frozen is only looked up.
    DeepSpeed wants to send all parameters around."""
    return _frozen(s, "emb")


def host_head(s: TrainSettings) -> bool:
    """The same of the head, which is fetched for each loss: only where memory is worth that."""
    return s.grad_cp == 2 and _frozen(s, "head")


def _frozen(s: TrainSettings, part: str) -> bool:
    frozen = s.method != "full" and part not in s.train_parts.split(",")
    return frozen and not s.strategy.startswith("deepspeed")
