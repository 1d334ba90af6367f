"""Which operator `op` means, and why."""

from __future__ import annotations

import importlib.metadata
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.contract.errors import UserError
from engine.ops import choice, native, registry
from engine.ops.choice import choose
from engine.ops.parts import TORCH, Parts, fused
from engine.ops.parts.fused import FusedParts
from engine.ops.parts.trial import Trial
from engine.ops.registry import USABLE, Need, recurrence_of
from engine.ops.wkv7.chunked import wkv7_chunked
from tests.ops.cases import operator

NEED = Need("wkv7", "cpu", torch.float32, heads=2, width=16, batch=1, steps=20)


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_on_a_cpu_nothing_is_timed(recurrence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(choice, "milliseconds")
    selected = choose("auto", replace(NEED, recurrence=recurrence), tmp_path)
    assert selected.name == "chunked"
    assert selected.function is operator("chunked", recurrence)
    assert set(selected.reasons) == {*USABLE} - {"chunked"}
    assert all(selected.reasons.values())
    assert "GPU" in selected.reasons["triton"]
    assert not list(tmp_path.iterdir())


def test_versions_have_their_recurrence() -> None:
    assert [recurrence_of(v) for v in ("x052", "x060", "x070")] == ["wkv6", "wkv6", "wkv7"]


@pytest.mark.parametrize("op", ["triton", "cuda", "fla"])
def test_a_named_operator_that_does_not_work_here_says_why(op: str) -> None:
    with pytest.raises(UserError, match=f"{op} does not work here: ") as caught:
        choose(op, NEED)
    assert "chunked" in caught.value.remedy and op not in caught.value.remedy


def test_a_named_operator_is_taken_untimed_and_nonsense_is_not() -> None:
    assert choose("reference", NEED).function is operator("reference", "wkv7")
    with pytest.raises(UserError, match="nonsense"):
        choose("nonsense", NEED)


class Machine:
    """Where several operators seem to work; `calls` counts what each of them computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **operators: Any) -> None:
        self.calls: list[str] = []
        for name, plain in operators.items():
            monkeypatch.setitem(USABLE, name, lambda need: "")
            operators[name] = self._counted(name, plain)

        def function(name: str, need: Need, cache: Path | None = None) -> Any:
            return operators.get(name, wkv7_chunked)

        monkeypatch.setattr(choice, "function_of", function)
        monkeypatch.setattr(choice, "milliseconds", self._milliseconds)
        monkeypatch.setattr(registry, "function_of", function)

    def _counted(self, name: str, plain: Any) -> Any:
        def counted(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            self.calls.append(name)
            y, last = plain(*inputs)
            return y, last

        return counted

    def _milliseconds(self, timed: Any, inputs: list[Tensor]) -> float:
        before = len(self.calls)
        timed(*inputs)
        name = self.calls[-1] if len(self.calls) > before else "chunked"
        return {"triton": 1.0, "fla": 0.5, "cuda": 3.0, "chunked": 2.0}[name]


def wrong(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    y, last = wkv7_chunked(*inputs)
    return 1.1 * y, last


def broken(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("no kernel image is available\nmore")


def test_auto_takes_the_fastest_that_computes_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, triton=wkv7_chunked, fla=wrong, cuda=wkv7_chunked)
    selected = choose("auto", NEED, tmp_path)
    assert selected.name == "triton"
    assert selected.reasons["chunked"] == "2.00 ms, triton 1.00 ms"
    assert selected.reasons["cuda"] == "3.00 ms, triton 1.00 ms"
    assert "off by" in selected.reasons["fla"]
    machine.calls.clear()
    again = choose("auto", NEED, tmp_path)
    assert (again.name, again.reasons) == (selected.name, selected.reasons)
    assert not machine.calls  # remembered
    choose("auto", replace(NEED, steps=40), tmp_path)
    assert machine.calls
    for damage in ("not JSON", "[]", '{"x": 1}'):
        (tmp_path / choice.FILE).write_text(damage)
        assert choose("auto", NEED, tmp_path).name == "triton"


def test_what_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler may be installed by then, and others may have left the GPU."""
    Machine(monkeypatch, triton=full)
    selected = choose("auto", NEED, tmp_path)
    assert selected.name == "chunked"
    assert selected.reasons["triton"].startswith("failed: OutOfMemoryError: CUDA out of memory")
    Machine(monkeypatch, triton=wkv7_chunked)
    assert choose("auto", NEED, tmp_path).name == "triton"


def test_where_nothing_fits_it_is_the_memory_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, triton=broken, chunked=full)
    with pytest.raises(torch.OutOfMemoryError):
        choose("auto", NEED)


def test_the_memory_of_a_trial_is_given_back(bare: Need, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    machine = Machine(monkeypatch, triton=broken)
    monkeypatch.setattr(choice, "compare", lambda operator, need: machine.calls.append("compared"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.extend(machine.calls))
    monkeypatch.setattr(choice, "_parts", lambda *_: ({"name": "torch", "reasons": ""}, False))
    assert choose("auto", bare).name == "triton"
    assert given == ["compared"] * 2  # after the operator's, and after that of the parts


def test_without_a_length_the_first_right_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, triton=wrong, fla=wkv7_chunked, cuda=wkv7_chunked)
    selected = choose("auto", replace(NEED, steps=0))
    assert selected.name == "fla"
    assert set(machine.calls) == {"triton", "fla"}
    assert set(selected.reasons) == {*USABLE} - {"fla"}


def test_when_nothing_works_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, triton=broken, chunked=broken)
    with pytest.raises(UserError, match="no kernel image"):
        choose("auto", NEED)


def full(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


class Fused(Parts):
    """In the place of the fused parts, which need a GPU."""

    name = "fused"


class Wrong(Fused):
    def squared_relu(self, x: Tensor) -> Tensor:
        return 1.1 * super().squared_relu(x)


class Broken(Fused):
    def squared_relu(self, x: Tensor) -> Tensor:
        raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("made", "milliseconds", "name", "reason"),
    [(Fused, (1.0, 3.0), "fused", "1.00 ms fused, 3.00 ms by torch"),
     (Fused, (3.0, 1.0), "torch", "3.00 ms fused, 1.00 ms by torch"),
     (Wrong, (1.0, 3.0), "torch", "fused failed: Wrong: result 12 is off by 1.0e-01 of its size"),
     (Broken, (1.0, 3.0), "torch", "fused failed: RuntimeError: no kernel image is available")],
)  # fmt: skip
def test_element_wise_parts_are_fused_where_that_is_right_and_faster(
    made: type[Parts], milliseconds: tuple[float, float], name: str, reason: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    Machine(monkeypatch, triton=wkv7_chunked)
    times = iter(milliseconds)
    monkeypatch.setattr(fused, "FusedParts", made)
    monkeypatch.setattr(choice, "timed", lambda passes: float(passes().isfinite().all()) * next(times))
    selected = choose("triton", NEED, tmp_path)
    assert (selected.name, selected.parts.name, selected.parts_reason) == ("triton", name, reason)
    monkeypatch.setattr(fused, "FusedParts", Wrong if made is Broken else made)
    again = choose("triton", NEED, tmp_path)
    if made is Broken:  # tried again
        assert "off by" in again.parts_reason
    else:  # remembered: there are no more times
        assert (again.parts.name, again.parts_reason) == (name, reason)
    assert choose("chunked", NEED, tmp_path).parts is TORCH


@pytest.mark.parametrize("parts", [TORCH, Fused()])
def test_what_was_chosen_is_found_again_by_its_spelling(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Untimed and untried, whatever would be chosen now."""
    machine = Machine(monkeypatch, triton=wkv7_chunked)
    monkeypatch.setattr(fused, "FusedParts", Fused)
    monkeypatch.delattr(choice, "_parts")
    first = replace(choose("chunked", NEED), name="triton", parts=parts)
    again = choose(first.spelled, NEED, tmp_path)
    assert (again.name, again.parts.name) == ("triton", parts.name)
    assert not machine.calls and not list(tmp_path.iterdir())


def test_fused_parts_by_name_are_refused_where_they_do_not_work() -> None:
    with pytest.raises(UserError, match="fused element-wise parts do not work here: it needs an NVIDIA GPU"):
        choose("chunked fused", NEED)


def test_real_parts_are_timed() -> None:
    assert choice._median(Trial(NEED), TORCH) > 0


def test_where_weights_learn_the_parts_are_torchs() -> None:
    """Their kernels, which do not run here, give activations a gradient only."""
    trial = Trial(NEED)
    plain = trial.results(TORCH)
    for weight in (*trial.fixed, trial.norm, trial.r_k):
        weight.requires_grad_()

    class NoKernels(FusedParts):
        squared_relu, cross_entropy = Parts.squared_relu, Parts.cross_entropy  # they have no weights

    assert all(torch.equal(f, p) for f, p in zip(trial.results(NoKernels()), plain, strict=True))


@pytest.mark.parametrize("recurrence", ["wkv6", "wkv7"])
def test_timing_and_checking_work_on_real_operators(recurrence: str) -> None:
    need = replace(NEED, recurrence=recurrence)
    reference = operator("reference", recurrence)
    assert choice.milliseconds(reference, choice.make_inputs(need)) > 0
    choice.check("reference", need)
    choice.check("reference", replace(need, dtype=torch.bfloat16))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Need:
    """What a GPU is to compute, on a machine that has one and no compiler."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(native, "USUAL_PLACE", str(tmp_path / "nvcc"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    return replace(NEED, device="cuda", steps=0)


def test_without_a_compiler_auto_does_without_and_says_so(bare: Need) -> None:
    selected = choose("auto", bare)
    assert selected.name == "chunked"
    assert selected.reasons["cuda"].startswith("there is no nvcc to compile it: install the CUDA toolkit")
    assert selected.reasons["triton"] == "there is no C compiler for it: install gcc or clang"


def test_without_pythons_headers_triton_is_not_tried(
    bare: Need, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on Ubuntu, where they are not installed with Python."""
    monkeypatch.setenv("CC", "gcc")
    assert not registry.why_not("triton", bare)
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    assert registry.why_not("triton", bare) == (
        f"{tmp_path}/Python.h, which it compiles with, is missing: "
        f"install python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    )


@pytest.mark.parametrize(("op", "what"), [("cuda", "CUDA toolkit"), ("triton", "install gcc or clang")])
def test_without_a_compiler_a_named_operator_is_refused(op: str, what: str, bare: Need) -> None:
    with pytest.raises(UserError, match=f"op: {op} does not work here: there is no .*{what}") as caught:
        choose(op, bare)
    assert caught.value.remedy == "Use auto, chunked, reference."


def test_a_compiler_that_fails_is_done_without(bare: Need, tmp_path: Path) -> None:
    """An nvcc that finds no compiler of its own, as where only the toolkit is installed."""
    (tmp_path / "nvcc").write_text(
        "#!/bin/sh\necho 'nvcc fatal: Failed to preprocess host compiler' >&2; exit 1\n"
    )
    (tmp_path / "nvcc").chmod(0o755)
    assert not registry.why_not("cuda", bare)
    with pytest.raises(UserError, match=r"cannot compile wkv7\.cu for sm_90: nvcc fatal: Failed") as caught:
        choose("cuda", bare, tmp_path / "cache")
    assert "Use --op auto" in caught.value.remedy
    assert not list((tmp_path / "cache").rglob("*.part"))
    selected = choose("auto", bare, tmp_path / "cache")
    assert selected.name == "chunked" and "nvcc fatal" in selected.reasons["cuda"]


@pytest.mark.parametrize(
    ("installed", "reason"),
    [("0.5.1", "older than 0.6"), (None, "is not flash-linear-attention's"), ("0.7rc1", ""), ("1.0", "")],
)
def test_fla_is_told_from_what_has_its_name(
    installed: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(registry, "_triton", lambda need: "")
    monkeypatch.setattr(registry, "_not_installed", lambda name: "")
    monkeypatch.setattr(importlib.metadata, "version", version)
    said = registry.why_not("fla", NEED)
    assert reason in said and bool(reason) == bool(said)
