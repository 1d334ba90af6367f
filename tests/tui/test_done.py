from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.widgets import Static

from engine.contract import events as ev
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from rwkv_tui.next_steps import eval_command, rwkv_snippet, steps
from rwkv_tui.screens.done import DoneScreen
from rwkv_tui.screens.home import HomeScreen
from tests.fakes import screens, stories


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def finished(folder: Path) -> RunDir:
    """A run in `folder`, beside its base and its data."""
    run = stories.new_run(folder, "emoji", stories.GONE)
    stories.tell(run, stories.opening() + stories.stepping(folder, 1, 1000) + stories.ending(folder))
    for epoch in range(5):
        run.checkpoint(epoch).write_bytes(b"x" * 2_360_000)
    base, data = folder.parent / "base.pth", folder.parent / "pairs"
    for path in (base, data.with_suffix(".bin"), data.with_suffix(".idx")):
        path.touch()
    settings = TrainSettings(load_model=base, data_file=data, proj_dir=folder, ctx_len=300)
    run.settings.write_text(render_yaml(settings, "emoji"))
    return run


def told(screen: DoneScreen) -> str:
    return "\n".join(str(static.render()) for static in screen.query(Static))


async def test_all_that_came_of_a_run(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = DoneScreen("emoji", run)
        await app.push_screen(screen)
        shown = told(screen)
        assert "finished after 1,000 steps" in shown
        assert "3.2141 -> 1.8764 (-42%)" in shown
        assert "rwkv-4.pth           2.3 MiB  the last one saved" in shown
        assert "帽子" in shown
        assert "You should bring a towel" in shown
        assert f"--model {tmp_path}/base.pth --state {run.path}/rwkv-4.pth" in shown
        assert "--ctx-len 300" in shown
        await pilot.press("c")
        assert app.clipboard.startswith("What to do next\nThe state works only")
        assert "generate_zero_state" in app.clipboard
        await pilot.press("escape")
        assert isinstance(app.screen, HomeScreen)


async def test_a_run_whose_files_are_gone_or_hostile(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", stories.GONE)
    evil = ev.Sample(
        t=1.0, step=3, prompt="[b]\x1b[2Jhi", base="\x1b]52;c;AAAA\x07[/b]", tuned="[@click=quit]x"
    )
    stopped = ev.Finished(t=2, status="stopped", step=3, seconds=1, files=("/no/rwkv-0.pth",))
    stories.tell(run, [*stories.opening(), evil, stopped])
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)):
        screen = DoneScreen("emoji", run)
        await app.push_screen(screen)
        shown = told(screen)
        assert "\x1b" not in shown
        assert "[b]hi" in shown
        assert "[@click=quit]x" in shown
        assert "stopped as you asked after 3 steps" in shown
        assert "not measured" in shown
        assert "--model BASE.pth" in shown
        assert "settings.yaml" in shown


@pytest.mark.parametrize("version", ["x060", "x070"])  # x052 has the text of x060
def test_the_program_for_the_rwkv_package_sees_the_model_the_engine_tuned(
    version: str, tmp_path: Path
) -> None:
    import torch

    from engine.checkpoints.save import save_tensors
    from engine.models import load_model
    from tests.fakes.weights import random_state, random_weights

    tiny_model, state = tmp_path / "tiny.pth", tmp_path / "it's a state.pth"
    save_tensors(random_weights(2, 64, 32, 65536, version), tiny_model)
    save_tensors(random_state(2, 2, 32), state)
    look = "torch.manual_seed(0); print(*model.forward([5, 6], [s.clone() for s in state])[0][:9].tolist())"
    program = rwkv_snippet(tiny_model, state, version).replace("token_count=100", "token_count=3")
    answer = subprocess.run(
        [sys.executable, "-c", program.replace("\npipeline =", f"\n{look}\npipeline =", 1)],
        capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    seen = next(line for line in answer.stdout.splitlines() if len(line.split()) == 9)
    with torch.no_grad():
        expected = load_model(tiny_model, state=state)(torch.tensor([[5, 6]]))[0, -1, :9]
    assert [float(v) for v in seen.split()] == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_command_can_be_pasted() -> None:
    command = eval_command(Path("/a b/m.pth"), ("--state", "/s.pth"), None, 512)
    assert command == "rwkv-tune eval --model '/a b/m.pth' --state /s.pth --data PREFIX --ctx-len 512"


def test_each_method_has_its_own_next_steps() -> None:
    def told(method: str, result: str) -> str:
        found = steps(method, Path("/b.pth"), Path(result), "x070", Path("/d"), 64)
        return "\n".join(f"{heading}\n{body}" for heading, body in found)

    state, full, lora = (
        told("state", "/r/rwkv-0.pth"),
        told("full", "/r/rwkv-0.pth"),
        told("lora", "/r/rwkv-0"),
    )
    assert "--state /r/rwkv-0.pth" in state and "time_state" in state
    assert "--model /r/rwkv-0.pth" in full and "--state" not in full and "time_state" not in full
    assert "rwkv-tune merge --base /b.pth --adapter /r/rwkv-0 --out" in lora and "--state" not in lora
