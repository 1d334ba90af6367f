"""What tuning a state needs of a GPU's memory, by arithmetic: no torch, nothing measured at run time.

Counted are the weights as they are kept, the states with gradients and Adam's two moments, the inputs of
all blocks (with grad_cp 1; without it, what every block keeps; with 2 they wait in the host's memory), and
the larger of what is worked with at a time: the logits, or a block (with 2, its larger half). CUDA's own
context (about 0.5 GB) and what an allocator loses are not: they depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from engine.contract.i18n import _
from engine.contract.memory import host_emb, host_head, savings
from engine.contract.settings import TrainSettings
from engine.contract.sizes import SIZES, Quant, fit

HEAD = 64
VOCABULARY = 65536
BYTES = {"fp16": 2.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}  # of a weight in a layer's linear, with its scale
# Bytes a token and channel that a block keeps for its backward pass, weights being frozen: counted by
# autograd's hooks (tests/test_estimate.py counts again).
KEPT = {"x052": 35.2, "x060": 55.6, "x070": 76.8}
KEPT_HALF = {"x052": 22.2, "x060": 42.6, "x070": 66.8}  # its time mixing
PROCESS = 5e8  # bytes that Python and torch take before there is a model
PASSING = 24  # bytes a token and channel of gradients and products on their way, about six tensors in fp32
FORWARD = 45  # the same of the forward pass of half a block
HIDDEN = (
    16  # the same of what the loss holds beside the logits: the last block's output, its copies and gradient
)
LOGITS = 1 << 24  # elements the loss holds at a time, in fp32 and in 16 bits: at least, and an eighth


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    weights: float
    states: float
    activations: float  # that wait for the backward pass
    working: float
    away: float = 0.0  # beside all that: pinned memory of the host, where with grad_cp 2 inputs and head wait

    @property
    def total(self) -> float:
        return self.weights + self.states + self.activations + self.working


def parameters(version: str, n_layer: int, n_embd: int, vocabulary: int = VOCABULARY) -> tuple[int, int]:
    """Those of the layers' linears, which can be packed, and all others, as `engine.models.init` makes."""
    d = n_embd
    if version == "x070":
        linears = 12 * d * d
        ranks = sum(max(32, round(factor * math.sqrt(d) / 32) * 32) for factor in (2.5, 2.5, 1.7, 5.0))
        rest = 2 * d * ranks + 15 * d  # mixes, biases, k_k, k_a, r_k, ln_x
    else:
        inner = max(int(3.5 * d) // 32 * 32, 32)
        linears = 6 * d * d + 2 * inner * d
        rest = 10 * d  # mixes, decay, bonus, ln_x
        if version == "x060":
            rank = 64 if d >= 4096 else 32
            rest += 2 * d * 5 * rank + 2 * d * 2 * rank + 2 * d
    norms = 4 * d
    return n_layer * linears, n_layer * (rest + norms) + 4 * d + 2 * vocabulary * d


def state_memory(
    version: str, n_layer: int, n_embd: int, *, quant: Quant, ctx_len: int, micro_bsz: int = 1,
    grad_cp: int = 1, vocabulary: int = VOCABULARY, on_host: bool = True, head_on_host: bool | None = None,
) -> Memory:  # fmt: skip
    """Of tuning a state in 16 bits; `on_host`: without the embedding, see `contract.memory.host_emb`, and
    `head_on_host`: with the head only until the backward pass, see `host_head`; None: as `grad_cp` has it."""
    linears, rest = parameters(version, n_layer, n_embd, vocabulary)
    positions = ctx_len * micro_bsz
    one = 2 * positions * n_embd  # the input of a block
    kept = KEPT[version] * positions * n_embd
    values = one * (version == "x070")  # the first layer's, which all others read
    # Of inputs that are away two are here while a half is computed, and the values' gradient.
    again = (0.0, kept, KEPT_HALF[version] * positions * n_embd + 2 * one + values)[grad_cp]
    waiting = (n_layer * kept, one * (n_layer + 2), values)[grad_cp]
    block = again + PASSING * positions * n_embd
    if quant != "fp16":  # the largest linear, unpacked
        block += 2 * n_embd * (4 * n_embd if version == "x070" else int(3.5 * n_embd))
    head = 2 * vocabulary * n_embd * (grad_cp == 2 if head_on_host is None else head_on_host)
    block = max(block - head, FORWARD * positions * n_embd)
    elements = min(max(LOGITS, positions * vocabulary // 8), positions * vocabulary)
    logits = elements * (4 + 2) + HIDDEN * positions * n_embd
    return Memory(
        weights=BYTES[quant] * linears + 2 * (rest - (vocabulary * n_embd if on_host else 0)),
        states=16 * n_layer * n_embd * HEAD,  # fp32: value, gradient, two moments
        activations=waiting,
        working=max(block, logits),
        away=_away(n_layer, one, head) if grad_cp == 2 else _handed_out(head),
    )


def host_memory(s: TrainSettings, n_layer: int, n_embd: int, vocabulary: int) -> int:
    """Bytes of the host's memory that a process of a GPU's run pins with grad_cp 2, whatever its method."""
    if s.grad_cp != 2:
        return 0
    wide = 4 if s.precision in ("fp32", "tf32") else 2
    length = min(s.ctx_len, s.chunk_ctx) if s.train_type == "infctx" else s.ctx_len
    head = (wide if s.quant == "none" else 2) * vocabulary * n_embd * host_head(s)
    return _away(n_layer, wide * length * s.micro_bsz * n_embd, head)


def _away(n_layer: int, one: int, head: int) -> int:
    """Of the inputs of all halves of blocks, and the head."""
    return 2 * n_layer * _handed_out(one) + _handed_out(head)


def _handed_out(size: int) -> int:
    """Bytes of pinned memory that the host's allocator takes for so many."""
    return 1 << (size - 1).bit_length() if size else 0


def needed(s: TrainSettings) -> Memory | None:
    """What a run takes of its GPU; None unless it tunes states in 16 bits of a model whose size `s` tells."""
    known = s.my_testing != "auto" and s.n_layer and s.n_embd
    if s.method != "state" or s.precision not in ("bf16", "fp16") or not known:
        return None
    return state_memory(
        s.my_testing, s.n_layer, s.n_embd, quant="fp16" if s.quant == "none" else s.quant,
        ctx_len=s.ctx_len, micro_bsz=s.micro_bsz, grad_cp=s.grad_cp, vocabulary=s.vocab_size or VOCABULARY,
        on_host=host_emb(s), head_on_host=host_head(s),
    )  # fmt: skip


def needed_of_host(s: TrainSettings) -> Memory | None:
    """The same of the computer's memory, for a run on the CPU in any precision, with what Python takes.

    Its operators keep somewhat more than those for a GPU, of which this is the arithmetic; there grad_cp 2
    is 1.
    """
    if s.method != "state" or s.my_testing == "auto" or not (s.n_layer and s.n_embd):
        return None
    need = state_memory(
        s.my_testing, s.n_layer, s.n_embd, quant="fp16" if s.quant == "none" else s.quant,
        ctx_len=s.ctx_len, micro_bsz=s.micro_bsz, grad_cp=min(s.grad_cp, 1), on_host=False,
        vocabulary=s.vocab_size or VOCABULARY,
    )  # fmt: skip
    wide = 2 if s.precision in ("fp32", "tf32") else 1
    return Memory(
        weights=need.weights * (wide if s.quant == "none" else 1), states=need.states,
        activations=need.activations * wide, working=need.working * wide + PROCESS,
    )  # fmt: skip


def what_fits(
    s: TrainSettings, room: float, needed: Callable[[TrainSettings], Memory | None] = needed,
    beside: float = math.inf,
) -> tuple[str, dict[str, str]] | None:  # fmt: skip
    """Of a run that did not fit into `room` bytes: the cheapest changes that make it fit, as a sentence and
    as settings; None where that cannot be told. `beside` are the bytes that the host has for a GPU's run.

    That it did not fit is known, too: where the arithmetic has it fit, its answers are too low by as much.
    """
    now = needed(s)
    if now is None:
        return None
    low = max(1.0, room / now.total)
    changes: dict[str, str] = {}
    said: dict[tuple[str, ...], str] = {}  # of two changes of the same the second one
    for saving in savings(s):
        need = needed(TrainSettings.model_validate(s.model_dump() | changes | saving.changes))
        if need is not None and (need.total >= now.total or need.away > beside):
            continue
        now = need or now
        changes |= saving.changes
        said[tuple(saving.changes)] = str(saving)
        if need is not None and fit(low * need.total / 1e9, int(room)) == "fits":
            return _(
                "Set {changes}: that takes about {takes:.3g} GB of the {room:.3g} GB which it can have here.",
                changes=_(" and ").join(said.values()),
                takes=low * need.total / 1e9,
                room=room / 1e9,
            ), changes
    return None


def table(target: float = 0.7, ctx_len: int = 1024) -> list[dict[str, object]]:
    """Every cell that was published, with what we need and what alone the weights need, in GB.

    `verdict`: met, missed, or weights when they alone are more than `target` of what was published.
    """
    rows: list[dict[str, object]] = []
    for size in SIZES:
        for version, published in size.vram.items():
            for quant, gb in published.items():
                need = state_memory(version, size.n_layer, size.n_embd, quant=quant, ctx_len=ctx_len)
                verdict = "met" if need.total <= target * gb * 1e9 else "missed"
                if need.weights > target * gb * 1e9:
                    verdict = "weights"
                rows.append({
                    "size": size.name, "version": version, "quant": quant, "published": gb,
                    "target": target * gb, "weights": need.weights / 1e9, "total": need.total / 1e9,
                    "verdict": verdict,
                })  # fmt: skip
    return rows
