"""Training from random weights: with a first layer without attention and a copying head, or with neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.inspect import inspect_model, inspect_state
from engine.contract import events
from engine.contract.check import check_values
from engine.contract.errors import SettingsError
from engine.contract.settings import TrainSettings
from engine.models.init import make_checkpoint
from engine.train.prepare import check_model
from engine.train.run import run_training
from tests.train.test_validation import of, train
from tests.tuning.conftest import VERSIONS

RANDOM: dict[str, Any] = {
    "train_type": "none", "n_layer": 2, "n_embd": 64, "vocab_size": 256, "lr_init": 1e-2, "lr_final": 1e-2,
    "ctx_len": 20, "micro_bsz": 4, "epoch_steps": 10, "eval_docs": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    path = tmp_path_factory.mktemp("count") / "count.npy"
    np.save(path, np.concatenate([[*range(1 + 4 * i, 21 + 4 * i), 0] for i in range(8)]))
    return path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("extras", [{}, {"pre_ffn": True, "head_qk": 8}])
def test_the_loss_falls(version: str, extras: dict[str, Any], count: Path, tmp_path: Path) -> None:
    values = {**RANDOM, **extras, "my_testing": version, "data_type": "numpy", "data_file": count}
    told = train(tmp_path / "run", **values)
    end = told[-1]
    assert isinstance(end, events.Finished), end
    assert end.loss_before and end.loss_after and end.loss_after < end.loss_before - 0.5
    start, trained = (inspect_model(tmp_path / "run" / f"{name}.pth") for name in ("init", "rwkv-0"))
    for info in (start, trained):
        assert (info.version, info.n_layer, info.n_embd, info.vocab_size) == (version, 2, 64, 256)
        assert (info.pre_ffn, info.head_qk) == (bool(extras), extras.get("head_qk", 0))
    # What was trained is a model to go on from: its state, or all of it in chunks.
    values = {**RANDOM, "vocab_size": 0, "load_model": tmp_path / "run" / "rwkv-0.pth", "data_type": "numpy",
              "data_file": count, "epoch_steps": 2}  # fmt: skip
    on = train(tmp_path / "on", **{**values, **extras, "train_type": "infctx", "chunk_ctx": 6})
    assert isinstance(on[-1], events.Finished) and on[-1].loss_before == pytest.approx(
        end.loss_after, abs=1e-5
    )
    state = train(tmp_path / "state", **{**values, "train_type": "state", "lr_init": 1.0})
    assert isinstance(state[-1], events.Finished)
    found = inspect_state(tmp_path / "state" / "rwkv-0.pth")
    assert (found.n_layer, found.pre_ffn) == (2, bool(extras))


def test_the_seed_decides_and_a_resumed_run_keeps_its_start(count: Path, tmp_path: Path) -> None:
    values = {**RANDOM, "my_testing": "x070", "data_type": "numpy", "data_file": count, "epoch_steps": 2}
    losses = [
        of(events.Step, train(tmp_path / name, **values, random_seed=seed))[0].loss
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert losses[0] == losses[1] != losses[2]
    from engine.contract.rundir import RunDir

    before = (tmp_path / "a" / "init.pth").stat().st_mtime_ns
    assert run_training(RunDir(tmp_path / "a")) == 0
    assert (tmp_path / "a" / "init.pth").stat().st_mtime_ns == before


def test_a_file_without_them_is_refused(tmp_path: Path) -> None:
    plain = make_checkpoint(tmp_path / "plain.pth", "x070", 2, 64, 70)
    both = make_checkpoint(tmp_path / "both.pth", "x070", 2, 64, 70, pre_ffn=True, head_qk=16)
    for flag, right, wrong, said in (
        ("pre_ffn", False, True, "has attention in its first layer"),
        ("head_qk", 0, 16, "has no copying head"),
    ):
        check_model(TrainSettings.model_validate({flag: right}), plain)
        check_model(TrainSettings.model_validate({flag: right}), both)  # the file decides
        check_model(TrainSettings.model_validate({flag: wrong}), both)
        with pytest.raises(SettingsError, match=said):
            check_model(TrainSettings.model_validate({flag: wrong}), plain)
    with pytest.raises(SettingsError, match="a copying head of width 16"):
        check_model(TrainSettings(head_qk=8), both)


def test_without_a_model_file_all_must_be_said() -> None:
    whole = {**RANDOM, "my_testing": "x070", "data_type": "dummy", "proj_dir": "x"}
    assert not check_values(whole).problems
    for left_out in ("my_testing", "n_layer", "n_embd", "train_type"):
        partial = {k: v for k, v in whole.items() if k != left_out}
        assert "load_model" in check_values(partial).by_field(), left_out
