"""`op: auto`: which of the operators that work here is the fastest, found once and remembered.

On a CPU there is one candidate and nothing to find. On a GPU each candidate first computes a small
case, whose answer and gradients must be those of `chunked`, and is then timed on the real shape. With any
operator made for GPUs, the element-wise parts of the layers are chosen likewise (`parts.trial`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.contract.errors import UserError
from engine.contract.files import write_atomic
from engine.contract.i18n import _
from engine.ops.hazard import Declined, Lost, trial
from engine.ops.parts import TORCH, Parts
from engine.ops.registry import USABLE, Need, Operator, Selected, function_of, named, why_not

FILE = "operators.json"
VERSION = 4  # of the operators: a change that may change their speed asks for new measurements
ROUNDS = 5
SAFE = "chunked"
DEFINITION = "reference"
PLAIN = (SAFE, DEFINITION)  # torch alone
FUSING = "triton"  # what the fused parts are written in
PARTS = "parts"
TIMED_STEPS = 4096
CHECKED_STEPS = 80  # whole chunks of 16, and not of 32
# Of a result, the largest error relative to its root mean square that rounding explains.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}


def choose(op: str, need: Need, cache: Path | None = None) -> Selected:
    """The operator that `op` names, or with "auto" the fastest that works, and the parts that go with it, or
    those that `op` names behind it (`Selected.spelled`).

    A choice that was timed is kept in the folder `cache` and holds until the device, torch or the shape
    is another; one for which something failed is made anew, for that may be mended or have been short of
    memory. Raises UserError when what is named does not work here.
    """
    op, _space, parts = op.partition(" ")
    selected = named(op, need, cache) if op != "auto" else _auto(need, cache)
    if parts:
        return replace(selected, parts=_parts_of(parts, need))
    if selected.name in PLAIN or why_not(FUSING, need):
        return selected
    known = _remembered(cache, need, PARTS)
    if known is None:
        known, failed = _parts(need, cache)
        _give_back(need)
        if not failed:
            _remember(cache, need, known, PARTS)
    return replace(selected, parts=_parts_of(known["name"], need), parts_reason=str(known["reasons"]))


def _parts_of(name: str, need: Need) -> Parts:
    """The parts of a name. Raises UserError when they do not work here."""
    if name == TORCH.name:
        return TORCH
    if reason := why_not(FUSING, need):
        raise UserError(
            _("op: the fused element-wise parts do not work here: {reason}.", reason=reason),
            _("Use {works}.", works=", ".join(("auto", *PLAIN))),
        )
    from engine.ops.parts import fused

    return fused.FusedParts()


def _give_back(need: Need) -> None:
    """What was tried took memory that torch would keep: of other sizes than a run wants, and from others who
    use the GPU."""
    if need.device == "cuda":
        torch.cuda.empty_cache()


class Wrong(ValueError):
    """An answer is not what it should be."""


def _parts(need: Need, cache: Path | None) -> tuple[dict[str, Any], bool]:
    """Which element-wise parts to use, and why; without a length, the fused ones if they compute right. Also
    whether they could not be tried."""
    from engine.ops.parts.fused import FusedParts
    from engine.ops.parts.trial import Trial

    fused = FusedParts()
    try:
        with trial(fused.name, _key(need, PARTS), need.device, cache):
            small = Trial(replace(need, batch=2, steps=CHECKED_STEPS))
            _same(small.results(fused), small.wide().results(TORCH), need.dtype)
            if not need.steps:
                return {"name": fused.name, "reasons": _("expected to be faster than torch's")}, False
            real = Trial(replace(need, batch=1, steps=min(need.batch * need.steps, TIMED_STEPS)))
            times = {one.name: _median(real, one) for one in (fused, TORCH)}
    except Lost:
        raise
    except Exception as error:  # a compiler or a driver may raise anything; torch still works
        reason = _("fused failed: {reason}", reason=_first_line(error))
        return {"name": TORCH.name, "reasons": reason}, not isinstance(error, Wrong)
    told = _(
        "{fused:.2f} ms fused, {plain:.2f} ms by torch", fused=times[fused.name], plain=times[TORCH.name]
    )
    return {"name": min(times, key=lambda name: times[name]), "reasons": told}, False


def _median(real: Any, parts: Parts) -> float:
    """Milliseconds of a forward and a backward pass of every part."""
    return timed(lambda: real.results(parts)[0])


def _auto(need: Need, cache: Path | None) -> Selected:
    declined = {name: reason for name in USABLE if (reason := why_not(name, need))}
    candidates = [name for name in USABLE if name not in declined and name != DEFINITION]
    declined[DEFINITION] = _("step by step: slower than {safe} on {device}", safe=SAFE, device=need.device)
    if candidates == [SAFE]:
        return Selected(SAFE, function_of(SAFE, need), declined)
    known = _remembered(cache, need)
    if known is not None and known["name"] in candidates:
        with contextlib.suppress(UserError):  # what was compiled may be gone
            return Selected(known["name"], function_of(known["name"], need, cache), known["reasons"])
    name, reasons, failed = _fastest(candidates, need, cache)
    _give_back(need)
    reasons = declined | reasons
    if not failed:
        _remember(cache, need, {"name": name, "reasons": reasons})
    return Selected(name, function_of(name, need, cache), reasons)


def _fastest(candidates: list[str], need: Need, cache: Path | None) -> tuple[str, dict[str, str], bool]:
    """The winner, what is to be said of the others, and whether one of them could not be tried. Without a
    length, the first that computes right."""
    reasons: dict[str, str] = {}
    times: dict[str, float] = {}
    failed = False
    inputs = make_inputs(need) if need.steps else []
    for name in candidates:
        try:
            with trial(name, _key(need, ""), need.device, None if name in PLAIN else cache):
                check(name, need, cache)
                if need.steps:
                    times[name] = milliseconds(function_of(name, need, cache), inputs)
        except Lost:
            raise
        except Exception as error:  # a compiler or a driver may raise anything; the others still work
            reasons[name] = _("failed: {reason}", reason=_first_line(error))
            failed |= not isinstance(error, Wrong)
            if name == candidates[-1] and not times and isinstance(error, torch.OutOfMemoryError):
                raise  # none fits: whoever tells of that knows what takes less
            continue
        if not need.steps:
            expected = {
                other: _("{name} is expected to be faster", name=name)
                for other in candidates
                if other not in reasons and other != name
            }
            return name, reasons | expected, failed
    if not times:
        raise UserError(
            _(
                "op: none of {candidates} works here: {reason}.",
                candidates=", ".join(candidates),
                reason=reasons[SAFE],
            ),
            _("`rwkv-tune doctor` tells more; --accelerator cpu works without a GPU."),
        )
    best = min(times, key=lambda name: times[name])
    for name, taken in times.items():
        if name != best:
            reasons[name] = f"{taken:.2f} ms, {best} {times[best]:.2f} ms"
    return best, reasons, failed


def check(name: str, need: Need, cache: Path | None = None) -> None:
    """Raises Wrong, naming what differs, when an operator's answers are not those of `chunked`."""
    if name != SAFE:
        compare(function_of(name, need, cache), need)


def compare(operator: Operator, need: Need) -> None:
    """As `check`, for any function."""
    small = replace(need, heads=2, batch=2, steps=CHECKED_STEPS)
    inputs = make_inputs(small)
    right = results(function_of(SAFE, small), [x.detach().float() for x in inputs])
    _same(results(operator, inputs), right, need.dtype)


def _same(found: list[Tensor], right: list[Tensor], dtype: torch.dtype) -> None:
    for i, (f, r) in enumerate(zip(found, right, strict=True)):
        error = float((f.float() - r).norm() / r.norm())
        if not error <= TOLERANCE[dtype]:
            raise Wrong(_("result {i} is off by {error:.1e} of its size", i=i, error=error))


def results(operator: Operator, inputs: list[Tensor]) -> list[Tensor]:
    """y, the last state, and the gradient of every input of a sum that weighs y unevenly."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y, last = operator(*leaves)
    weights = torch.linspace(-1, 2, y.numel(), device=y.device).view_as(y)
    grads = torch.autograd.grad((y.float() * weights).sum() + last.float().sum(), leaves)
    return [y.detach(), last.detach(), *grads]


def milliseconds(operator: Operator, inputs: list[Tensor]) -> float:
    """The median time of a forward and a backward pass."""

    def passes() -> Tensor:
        y, last = operator(*inputs)
        torch.autograd.grad([y, last], inputs, [torch.ones_like(y), torch.ones_like(last)])
        return y

    return timed(passes)


def timed(passes: Callable[[], Tensor]) -> float:
    """The median time of what gives a tensor of the device that it keeps busy."""
    taken = []
    for turn in range(ROUNDS + 2):
        begin = time.perf_counter()
        made = passes()
        if made.is_cuda:
            torch.cuda.synchronize(made.device)
        if turn >= 2:
            taken.append(1e3 * (time.perf_counter() - begin))
    return sorted(taken)[len(taken) // 2]


def make_inputs(need: Need) -> list[Tensor]:
    """Random inputs in the ranges a model produces, as leaves: r, log_w, k, v, then u or a and b, state."""
    random = torch.Generator(need.device).manual_seed(0)
    shape = (need.batch, need.steps, need.heads, need.width)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random, device=need.device)

    state = normal(need.batch, need.heads, need.width, need.width)
    if need.recurrence == "wkv6":
        log_w = -torch.exp(normal(*shape) - 1.5)
        inputs = [normal(*shape), log_w, normal(*shape), normal(*shape), normal(need.heads, need.width)]
    else:
        kk = F.normalize(normal(*shape), dim=-1)
        log_w = -0.6065 * torch.sigmoid(normal(*shape))
        inputs = [
            normal(*shape),
            log_w,
            normal(*shape),
            normal(*shape),
            -kk,
            kk * torch.sigmoid(normal(*shape)),
        ]
    made = [x if x is log_w else x.to(need.dtype) for x in inputs]
    return [x.requires_grad_() for x in [*made, state]]


def _key(need: Need, what: str) -> str:
    device = torch.cuda.get_device_name() if need.device == "cuda" else need.device
    shape = "x".join(map(str, (need.batch, need.steps, need.heads, need.width)))
    return f"{VERSION} {what or need.recurrence} {device} torch {torch.__version__} {need.dtype} {shape}"


def _read(cache: Path) -> dict[str, Any]:
    """All that is remembered; nothing if the file is missing or damaged, for it can be made again."""
    try:
        found = json.loads((cache / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remembered(cache: Path | None, need: Need, what: str = "") -> dict[str, Any] | None:
    entry = _read(cache).get(_key(need, what)) if cache is not None else None
    return entry if isinstance(entry, dict) and {"name", "reasons"} <= entry.keys() else None


def _remember(cache: Path | None, need: Need, entry: dict[str, Any], what: str = "") -> None:
    if cache is None:
        return
    with contextlib.suppress(OSError):  # then it is measured again next time
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(cache / FILE, json.dumps(_read(cache) | {_key(need, what): entry}, indent=1))


def _first_line(error: BaseException) -> str:
    if isinstance(error, Declined):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
