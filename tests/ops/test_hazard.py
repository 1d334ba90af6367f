"""What a trial of an operator leaves behind that ends more than itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.errors import UserError
from engine.ops import choice, hazard
from engine.ops.choice import choose
from engine.ops.hazard import Declined, Lost, trial
from engine.ops.parts import Parts, fused
from engine.ops.registry import USABLE, Need

NEED = Need("wkv7", "cuda", torch.bfloat16, heads=2, width=16)
BAD = "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'"


class Gpu:
    """Where triton seems to work; `broken` ends all use of it in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *broken: str) -> None:
        self.broken, self.lost = broken, False
        self.tried: list[str] = []
        for name in USABLE:
            monkeypatch.setitem(USABLE, name, lambda need: "")
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "synchronize", self._synchronize)
        monkeypatch.setattr(choice, "check", lambda name, need, cache: self._use(name))
        monkeypatch.setattr(choice, "function_of", lambda name, need, cache: print)
        monkeypatch.setattr(fused, "FusedParts", self._parts)
        monkeypatch.setattr("engine.ops.parts.trial.Trial", lambda need: self._use("fused"))

    def _synchronize(self) -> None:
        if self.lost:
            raise RuntimeError(BAD)

    def _use(self, name: str) -> Any:
        self.tried.append(name)
        self.lost |= name in self.broken
        self._synchronize()
        raise ValueError("it does not compute right")

    def _parts(self) -> Any:
        parts = Parts()
        parts.name = "fused"
        return parts


def restarted(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """The same machine, for a process that begins."""
    return Gpu(monkeypatch, "triton", "fused")


def test_an_operator_that_ends_the_use_of_the_gpu_is_named_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = restarted(monkeypatch)
    with pytest.raises(
        Lost, match=r"trial of triton has ended .*: CUDA error: an illegal memory access"
    ) as told:
        choose("auto", NEED, tmp_path)
    assert gpu.tried == ["triton"] and "--op chunked" in told.value.remedy  # no other is blamed
    gpu = restarted(monkeypatch)
    with pytest.raises(UserError, match=r"none of triton, .* it does not compute right"):
        choose("auto", NEED, tmp_path)
    assert gpu.tried == ["fla", "cuda", "chunked"]


def test_parts_that_end_the_use_of_the_gpu_are_left_out_the_next_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    restarted(monkeypatch)
    with pytest.raises(Lost, match="trial of fused has ended"):
        choose("triton", NEED, tmp_path)
    gpu = restarted(monkeypatch)
    selected = choose("triton", NEED, tmp_path)
    assert not gpu.tried and selected.parts.name == "torch"
    assert selected.parts_reason.startswith("fused failed: it ended the use of the GPU before: CUDA error")
    next((tmp_path / hazard.FOLDER).iterdir()).unlink()  # as it says
    with pytest.raises(Lost):
        choose("triton", NEED, tmp_path)


DIES = "import os, sys; from pathlib import Path; from engine.ops.hazard import trial\n"
DIES += "with trial('triton', 'here', 'cuda', Path(sys.argv[1])): os.kill(os.getpid(), 9)"


def test_what_a_process_died_of_is_not_tried_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, tmp_path], check=False)
    (note,) = (tmp_path / hazard.FOLDER).iterdir()
    with (
        pytest.raises(Declined, match=f"the process that tried it before ended at it .remove {note}"),
        trial("triton", "here", "cuda", tmp_path),
    ):
        pytest.fail("was tried")
    with trial("triton", "elsewhere", "cuda", tmp_path), trial("triton", "elsewhere", "cuda", tmp_path):
        pass  # two at once
    assert [*(tmp_path / hazard.FOLDER).iterdir()] == [note]


@pytest.mark.parametrize("error", [ValueError("wrong"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_what_only_failed_is_tried_again(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for _ in range(2):
        with pytest.raises(type(error)), trial("triton", "here", "cuda", tmp_path):
            raise error
    assert not [*(tmp_path / hazard.FOLDER).iterdir()]
