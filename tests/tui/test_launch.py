from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.contract.check import require_settings
from engine.contract.errors import UserError
from engine.contract.paths import UserPaths
from engine.contract.presets import parse_yaml
from engine.contract.rundir import RunList
from engine.contract.settings import TrainSettings
from rwkv_tui.services.launch import launch


@pytest.fixture
def paths(tmp_path: Path) -> UserPaths:
    return UserPaths.under(tmp_path / "user")


@pytest.fixture
def tiny(pair: Path) -> TrainSettings:
    """Relative paths, as one types them in the current folder."""
    return require_settings({
        "load_model": "models/tiny.pth", "data_file": "pairs", "proj_dir": "out", "ctx_len": 16,
        "epoch_steps": 1, "epoch_count": 1, "eval_docs": 0, "sample_len": 0, "precision": "fp32",
    })  # fmt: skip


def test_the_run_is_a_process_of_its_own_that_finishes(
    tiny: TrainSettings, paths: UserPaths, place: Path
) -> None:
    name, run = launch(tiny, paths)
    assert RunList(paths.runs).all() == [(name, run)]
    owner = run.owner()
    assert owner is not None
    fields = Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) == owner.pid  # the leader of its own session
    values = parse_yaml(run.settings.read_text(), "settings")
    assert values["data_file"] == str(place / "pairs")
    for _ in range(600):
        if not owner.alive():
            break
        time.sleep(0.1)
    assert run.checkpoint(0).is_file(), run.log.read_text()


def test_a_folder_with_a_run_is_refused_and_nothing_is_registered(
    tiny: TrainSettings, paths: UserPaths, place: Path
) -> None:
    (place / "out").mkdir()
    (place / "out" / "run.json").write_text('{"name": "before"}')
    with pytest.raises(UserError, match="before"):
        launch(tiny, paths)
    assert RunList(paths.runs).all() == []
    assert (place / "out" / "run.json").read_text() == '{"name": "before"}'


def test_a_run_that_cannot_be_written_is_forgotten(
    tiny: TrainSettings, paths: UserPaths, place: Path
) -> None:
    (place / "out").mkdir()
    (place / "out" / "engine.log").mkdir()  # where the log should go
    with pytest.raises(UserError, match="Cannot start"):
        launch(tiny, paths)
    assert RunList(paths.runs).all() == []
    assert not (place / "out" / "run.json").exists()
