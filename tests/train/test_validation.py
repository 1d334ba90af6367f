"""Whole runs in this process: held-out documents, early stopping, and each kind of data."""

from __future__ import annotations

import itertools
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.contract import events
from engine.contract.presets import render_yaml
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.data.tokenizer import Tokenizer
from engine.train.run import run_training
from tests.conftest import PAIRS

SMALL: dict[str, Any] = {
    "ctx_len": 16, "micro_bsz": 2, "precision": "fp32", "accelerator": "cpu", "grad_cp": False,
    "sample_len": 0, "eval_docs": 0, "epoch_steps": 2, "epoch_count": 1, "warmup_steps": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A run takes the signals of its process; this one is pytest's."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def train(folder: Path, **values: Any) -> list[events.Event]:
    """Trains a run in `folder` and gives all it told."""
    run = RunDir(folder)
    run.claim("test")
    settings = TrainSettings(**{**SMALL, "proj_dir": folder, **values})
    run.settings.write_text(render_yaml(settings, "test"), encoding="utf-8")
    run.record_process("test", Process.current())
    run_training(run)
    return [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]


def of(kind: type[Any], told: list[events.Event]) -> list[Any]:
    return [e for e in told if isinstance(e, kind)]


def plan(told: list[events.Event]) -> events.Plan:
    assert isinstance(told[-1], events.Finished), told[-1]
    found: events.Plan = of(events.Started, told)[0].plan
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_jsonl: Path) -> dict[str, Path]:
    """The same questions and answers as each type of data."""
    folder = tmp_path_factory.mktemp("kinds")
    texts = [f"User: {q}\n\nAssistant: {a}" for q, a in PAIRS * 3]
    ids = [token for text in texts for token in (*Tokenizer().encode(text), 0)]
    book = "\n\n".join(texts)
    (folder / "book.txt").write_bytes(book.encode("utf-8"))
    (folder / "book16.txt").write_bytes(book.encode("utf-16le"))
    np.save(folder / "ids.npy", np.array(ids))
    np.array(ids, "<u2").tofile(folder / "ids.bin")
    return {
        "jsonl": tiny_jsonl, "utf-8": folder / "book.txt", "utf-16le": folder / "book16.txt",
        "numpy": folder / "ids.npy", "uint16": folder / "ids.bin",
    }  # fmt: skip


@pytest.mark.parametrize("data_type", ["jsonl", "numpy", "uint16"])
def test_documents_of_any_type_train_alike(
    data_type: str, files: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    told = train(
        tmp_path / "run", load_model=tiny_model, data_type=data_type, data_file=files[data_type],
        loss_mask="qa",
    )  # fmt: skip
    found = plan(told)
    assert (found.documents, found.windows) == (12, 0)
    assert found.cut_documents > 0 and found.passes == pytest.approx(4 / 12)
    same = train(
        tmp_path / "other", load_model=tiny_model, data_type="jsonl", data_file=files["jsonl"],
        loss_mask="qa",
    )  # fmt: skip
    assert [e.loss for e in of(events.Step, told)] == [e.loss for e in of(events.Step, same)]


@pytest.mark.parametrize("data_type", ["utf-8", "utf-16le"])
def test_a_text_file_trains_in_windows(
    data_type: str, files: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    told = train(
        tmp_path / "run", load_model=tiny_model, data_type=data_type, data_file=files[data_type],
        dataload="get", eval_docs=4, sample_len=1,
    )  # fmt: skip
    found, tokens = plan(told), len(Tokenizer().encode(files["utf-8"].read_text(encoding="utf-8"))) + 1
    assert (found.documents, found.tokens, found.cut_tokens) == (1, tokens, 0)
    assert found.windows == math.ceil((tokens - 1) / 16)
    assert found.passes == pytest.approx(4 / found.windows)
    assert [e.tokens for e in of(events.Step, told)][-1] == 4 * 16  # every target of a window is learned


def test_dummy_data_needs_no_file(tiny_model: Path, tmp_path: Path) -> None:
    told = train(tmp_path / "run", load_model=tiny_model, data_type="dummy")
    assert plan(told).cut_tokens == 0
    assert of(events.Step, told)[-1].tokens == 4 * 16


def test_what_is_learned_follows_loss_mask(files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    learned = {}
    (start, *rest), end = Tokenizer().encode("Assistant:"), 0
    for mask, more in (
        ("none", {}), ("pad", {}), ("qa", {}), ("se", {"mask_id": {"mask0": end, "mask1": str(start)}}),
    ):  # fmt: skip
        told = train(
            tmp_path / mask, load_model=tiny_model, data_type="jsonl", data_file=files["jsonl"],
            loss_mask=mask, ctx_len=64, **more,
        )  # fmt: skip
        plan(told)
        learned[mask] = of(events.Step, told)[-1].tokens
    assert learned["none"] == learned["pad"] > learned["se"] > learned["qa"]
    assert learned["se"] == learned["qa"] + 4 * len(rest)  # of four documents: what is left of the marker


def test_only_takes_one_whole_document(files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    told = train(
        tmp_path / "run", load_model=tiny_model, data_type="jsonl", data_file=files["jsonl"], dataload="only",
        micro_bsz=1, ctx_len=64, epoch_steps=12,
    )  # fmt: skip
    sizes = [len(Tokenizer().encode(json.loads(line)["text"])) for line in files["jsonl"].open()]
    assert plan(told).windows == 0
    steps = [0, *(e.tokens for e in of(events.Step, told))]
    assert sorted(b - a for a, b in itertools.pairwise(steps)) == sorted(sizes)


def test_a_held_out_loss_each_epoch(files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    told = train(
        tmp_path / "run", load_model=tiny_model, data_type="jsonl", data_file=files["jsonl"], val_split=0.25,
        epoch_count=3, epoch_steps=4, epoch_begin=5, lr_init=0.1,
    )  # fmt: skip
    found, measured = plan(told), of(events.Validated, told)
    assert (found.documents, found.held_out) == (9, 1)  # four distinct documents, three copies of each
    assert [(e.epoch, e.step, e.documents) for e in measured] == [(5, 4, 1), (6, 8, 1), (7, 12, 1)]
    assert measured[-1].best_loss == min(e.loss for e in measured)
    kinds = [e.type for e in told if isinstance(e, (events.Epoch, events.Validated))]
    assert kinds == ["epoch", "validated"] * 3


def test_early_stop_ends_as_finished_and_keeps_the_best(
    files: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    """A rate far too high makes the held-out loss rise."""
    run = RunDir(tmp_path / "run")
    told = train(
        run.path, load_model=tiny_model, data_type="jsonl", data_file=files["jsonl"], val_split=1,
        early_stop=2, epoch_count=30, epoch_steps=4, epoch_save=0, lr_init=3, lr_final=3,
    )  # fmt: skip
    end, measured = told[-1], of(events.Validated, told)
    assert isinstance(end, events.Finished) and end.status == "finished"
    best = measured[-1].best_epoch
    assert len(measured) == best + 3 < 30
    assert end.step == 4 * len(measured)
    assert all(e.loss >= measured[best].loss for e in measured[best:])
    reason = of(events.Log, told)[-1].text
    assert "early_stop" in reason and f"rwkv-{best}.pth" in reason
    for epoch in (best, len(measured) - 1):
        assert len(torch.load(run.checkpoint(epoch), weights_only=True)) == 2
    assert len(run.train_log.read_text().splitlines()) == len(measured)


def test_nothing_to_measure_is_said(files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    told = train(
        tmp_path / "run", load_model=tiny_model, data_type="jsonl", data_file=files["jsonl"], val_split=1,
        loss_mask="qa", ctx_len=2,
    )  # fmt: skip
    assert isinstance(told[-1], events.Failed) and "nothing to learn under loss_mask qa" in told[-1].reason


def test_too_few_documents_to_hold_out(files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    told = train(
        tmp_path / "run", load_model=tiny_model, data_type="jsonl", data_file=files["jsonl"], val_split=4
    )
    assert isinstance(told[-1], events.Failed) and "4 of 4 distinct documents" in told[-1].reason
