"""loss_data.jsonl and Weights & Biases."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.contract import events
from engine.contract.check import check_values
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.train.logs import RunLog


def step(number: int, loss: float | None = 1.0) -> events.Step:
    return events.Step(
        step=number, epoch=0, loss=loss, loss_smooth=loss, lr=0.1, kt_s=2.5, step_s=0.25, grad_norm=1.0,
        tokens=10 * number,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.claim("a run")
    return run


def lines(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.loss_data.read_text().splitlines()]


def test_a_line_a_step(run: RunDir) -> None:
    log = RunLog(run)
    for number, loss in ((1, 3.0), (2, float("nan")), (3, 1.0)):
        log(step(number, loss))
    log.close()
    assert lines(run) == [{"loss": loss, "t_cost": 4.0, "kt_s": 2.5} for loss in (3.0, None, 1.0)]
    assert len(run.events.read_text().splitlines()) == 3


def test_a_run_that_continues_takes_back_the_lines_it_does_again(run: RunDir) -> None:
    for numbers, loss in ((range(1, 6), 1.0), (range(3, 5), 2.0)):
        log = RunLog(run)
        for number in numbers:
            log(step(number, loss))
        log.close()
    assert [line["loss"] for line in lines(run)] == [1.0, 1.0, 2.0, 2.0]


def test_no_steps_no_file(run: RunDir) -> None:
    log = RunLog(run)
    log(events.Log(text="hello"))
    log.close()
    assert not run.loss_data.exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


def summary(run: RunDir) -> dict[str, Any]:
    """What wandb's own reader finds in the offline run."""
    command = ["-m", "wandb", "leet", "inspect", "--summary", "--json", str(run.path / "wandb")]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.usefixtures("offline")
def test_an_offline_run_is_read_by_wandb(run: RunDir) -> None:
    log = RunLog(run)
    log.begin(TrainSettings(wandb="my project", ctx_len=77))
    log(step(1, 3.0))
    log(step(2, 2.0))
    log(events.Epoch(epoch=0, loss=2.5, lr=0.1, seconds=1))
    log(events.Validated(
        epoch=0, step=2, loss=2.25, best_loss=2.25, best_epoch=0, documents=3, seconds=1
    ))  # fmt: skip
    log(events.Evaluated(when="before", loss=None, tokens=9, documents=1))
    log(events.Evaluated(when="after", loss=1.5, tokens=9, documents=1))
    log(events.Finished(status="finished", step=2, seconds=1))
    log.close()
    found = summary(run)
    text = json.dumps(found)
    assert "my project" in text and "a run" in text and "77" in text
    values = found["summary"]
    assert (values["loss"], values["val_loss"], values["epoch_loss"]) == (2.0, 2.25, 2.5)
    assert (values["loss_after"], values["status"], values["tokens"]) == (1.5, "finished", 20)


@pytest.mark.usefixtures("offline")
def test_a_log_that_breaks_does_not_end_the_run(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    log = RunLog(run)
    log.begin(TrainSettings(wandb="p"))
    monkeypatch.setattr(wandb.Run, "log", lambda *_: 1 / 0)
    log(step(1))
    log(step(2))
    log.close()
    wandb.finish()
    told = [events.parse_event(line) for line in run.events.read_bytes().splitlines()]
    assert [type(e) for e in told] == [events.Step, events.Warned, events.Step]
    assert len(lines(run)) == 2


def test_nobody_logged_in_is_said_before_anything_is_loaded(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, home: Path, tiny_model: Path, tiny_data: Path
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    settings = TrainSettings(wandb="p", load_model=tiny_model, data_file=tiny_data, proj_dir=run.path)
    run.settings.write_text(render_yaml(settings, "test"), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "engine", "train", str(run.path)], stdin=subprocess.DEVNULL,
        capture_output=True, check=False,
    )  # fmt: skip
    (told,) = [events.parse_event(line) for line in run.events.read_bytes().splitlines()]
    assert isinstance(told, events.Failed) and "wandb: cannot start" in told.reason
    assert "WANDB_MODE=offline" in told.remedy


def test_without_the_package_it_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.contract import check

    assert "wandb" not in check_values({"wandb": "p"}).by_field()
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda _: None)  # type: ignore[attr-defined]
    assert "pip install 'rwkv-tune[wandb]'" in check_values({"wandb": "p"}).by_field()["wandb"]
    assert "wandb" not in check_values({}).by_field()
