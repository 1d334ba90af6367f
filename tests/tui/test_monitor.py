from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from textual.content import Content
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Input, Static

from engine.contract import events as ev
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from rwkv_tui.panels.devices import GpuPanel, has_moved
from rwkv_tui.panels.panel import Panel
from rwkv_tui.screens.done import DoneScreen
from rwkv_tui.screens.home import HomeScreen
from rwkv_tui.screens.monitor import MonitorScreen
from rwkv_tui.services.gpu import HostInfo
from rwkv_tui.services.runs import stop_asked
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.lines import Lines, _wrap
from tests.fakes import fake_engine, screens, stories

ALIVE = Process.current()


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def text(widget: Panel | Static) -> str:
    shown = widget.render()
    assert isinstance(shown, Content)
    return shown.plain


def drawn(chart: LineChart) -> str:
    return "\n".join(chart.render_line(y).text for y in range(chart.size.height))


def panel(screen: MonitorScreen, name: str) -> str:
    found = screen.query_one(f"#{name}")
    assert isinstance(found, Panel | Static)
    return text(found)


async def until(pilot: Pilot[None], true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        await pilot.pause(0.05)


def monitor(run: RunDir, gpus: screens.StillGpus | None = None) -> MonitorScreen:
    return MonitorScreen("emoji", run, gpus=gpus or screens.StillGpus(), clock=screens.clock)


async def test_what_happens_is_shown_as_it_happens(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", ALIVE)
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        assert "engine is starting" in panel(screen, "phases")
        stories.tell(run, stories.preparing())
        await until(pilot, lambda: "12 of 32 documents" in panel(screen, "phases"))
        stories.tell(run, stories.opening()[3:])
        await until(pilot, lambda: screen.status == "running")
        stories.tell(run, stories.stepping(run.path, 1, 210))
        await until(pilot, lambda: "210/1,000" in panel(screen, "bars"))
        loss = screen.query_one("#loss", LineChart)
        await until(pilot, lambda: "raw" in drawn(loss))
        assert "◆" in drawn(loss)
        assert "2/5" in panel(screen, "bars")
        assert "8:00 left, ends 09:03" in panel(screen, "bars")
        assert "saved rwkv-0.pth at step 200" in panel(screen, "log")
        assert "No NVIDIA driver" in panel(screen, "host")
        for key, large in (("2", "lr"), ("4", "grad_norm"), ("4", None)):
            await pilot.press(key)
            visible = {c.id for c in screen.query(LineChart) if c.display}
            assert visible == ({large} if large else {"loss", "lr"})


async def test_each_phase_of_the_beginning_says_how_far_it_is(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", ALIVE)
    told = [("holding out documents", 1, 0, 5), *(("loss before tuning", t, t, 32) for t in (2, 12, 22))]
    stories.tell(
        run,
        [
            ev.Progress(t=stories.T0 + t, phase=phase, done=done, total=total, unit="documents")
            for phase, t, done, total in told
        ],
    )
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        await until(pilot, lambda: "22 of 32 documents, 0:10 left" in panel(screen, "phases"))
        assert "5 of 5 documents" in panel(screen, "phases")  # it is over, whatever it told last
        assert "kt/s" not in panel(screen, "bars")


async def test_the_charts_are_looked_at_by_keys(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", ALIVE)
    stories.tell(run, stories.opening() + stories.stepping(run.path, 1, 430))
    app = screens.app(tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        loss = screen.query_one("#loss", LineChart)
        await until(pilot, lambda: "raw" in drawn(loss))

        async def shows(keys: str, *parts: str) -> str:
            await pilot.press(*keys.split())
            await until(pilot, lambda: all(part in drawn(loss) for part in parts))
            return drawn(loss)

        await shows("1", "steps")
        await until(pilot, lambda: loss.size.height > 20)
        assert loss.size.height > 25  # the whole screen but for two lines
        await shows("left", "step 4")
        before = await shows("shift+left shift+left", "step 3")
        await shows("plus plus plus", "│")
        assert "step 3" in before
        await shows("f", "steps")
        await shows("escape minus minus minus minus", "smooth 0.95")
        await shows("x", "tokens")
        await shows("x", "h:mm:ss")
        await shows("x m", "smooth 0.98")
        await shows("M M", "smooth 0.9 ")
        linear = drawn(loss)
        await pilot.press("y")
        await until(pilot, lambda: drawn(loss) != linear)
        await shows("y", *linear.splitlines()[3:6])
        await shows("plus plus comma", "steps")
        assert loss.xs is not None
        earlier = loss.xs.high
        await shows("comma", "steps")
        await until(pilot, lambda: loss.xs is not None and loss.xs.high < earlier)
        await shows("0 left plus plus plus plus plus plus", "step 4", "raw")
        read = [int(found) for found in re.findall(r"step (\d+):  smooth \S+ \S+  raw", drawn(loss))]
        for back in (1, 2, 3):  # a step lies some columns from the next: each key goes to one
            await shows("left", f"step {read[0] - back}:", "raw")
        await shows("escape 0", "smooth")
        await pilot.press("escape")
        await until(pilot, lambda: loss.size.height < 20)
        assert app.screen is screen


async def test_nothing_is_painted_while_nothing_changes(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", ALIVE)
    stories.tell(run, stories.opening() + stories.stepping(run.path, 1, 100))
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        await pilot.pause(0.7)
        painted: list[str] = []

        def note(*_: object, **__: object) -> Widget:
            painted.append("painted")
            return screen

        for widget in screen.query("*"):
            widget.refresh = note  # type: ignore[method-assign]
        await pilot.pause(1.2)
        assert painted == []
        stories.tell(run, stories.stepping(run.path, 101, 101))
        await until(pilot, lambda: bool(painted))


async def test_stop_asks_once_then_the_run_saves_and_ends(tmp_path: Path) -> None:
    child = fake_engine.start(tmp_path / "run", "emoji", 1000, 0.05)
    run = RunDir(tmp_path / "run")
    app = screens.app(tmp_path)
    try:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, run.events.exists)
            screen = monitor(run)
            await app.push_screen(screen)
            await until(pilot, lambda: len(screen._model.loss) > 3)
            await pilot.press("s")
            question = app.screen.query("AskScreen Label").first(Static)
            assert "saves as rwkv-0.pth" in str(question.render())
            await pilot.press("n")
            await until(pilot, lambda: app.screen is screen)
            assert not stop_asked(run)
            assert child.poll() is None
            await pilot.press("s", "y")
            await until(pilot, lambda: screen.status == "stopped")
            assert child.wait(10) == 130
            assert (run.path / "rwkv-0.pth").exists()
            assert "stopped as you asked" in panel(screen, "ending")
            await pilot.press("s", "enter")
            assert isinstance(app.screen, DoneScreen)
    finally:
        child.kill()


async def test_leaving_keeps_the_run_and_going_back_in_finds_it(tmp_path: Path) -> None:
    child = fake_engine.start(tmp_path / "run", "emoji", 1000, 0.05)
    run = RunDir(tmp_path / "run")
    app = screens.app(tmp_path)
    try:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, run.events.exists)
            screen = monitor(run)
            await app.push_screen(screen)
            await until(pilot, lambda: len(screen._model.loss) > 1)
            await pilot.press("escape")
            assert isinstance(app.screen, HomeScreen)
            assert any("goes on" in n.message for n in app._notifications)
            seen = screen._model.step
            again = monitor(run)
            await app.push_screen(again)
            await until(pilot, lambda: again._model.step > seen + 2)
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)


async def test_a_run_that_ends_while_watched(tmp_path: Path) -> None:
    child = fake_engine.start(tmp_path / "run", "emoji", 30, 0.02)
    run = RunDir(tmp_path / "run")
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, run.events.exists)
        screen = monitor(run)
        await app.push_screen(screen)
        await until(pilot, lambda: screen.status == "finished")
        assert child.wait(10) == 0
        await until(pilot, lambda: "3.2141 -> 1.8764 (-42%)" in panel(screen, "ending"))
        await pilot.press("enter")
        assert isinstance(app.screen, DoneScreen)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, HomeScreen)


FAILED = ev.Failed(
    t=stories.T0 + 300, reason="The GPU has no memory left: 2 GiB were asked for [bold]now[/bold].",
    remedy="Lower micro_bsz or ctx_len.",
)  # fmt: skip


async def test_a_failed_run_says_why_and_what_to_do(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", stories.GONE)
    stories.tell(run, [*stories.opening(), *stories.stepping(run.path, 1, 230), FAILED])
    run.log.write_text("Traceback:\n\x1b]0;evil\x07\x1b[31mOutOfMemoryError\x1b[0m: [red]2 GiB\n")
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        await until(pilot, lambda: screen.status == "failed")
        card = panel(screen, "ending")
        assert "failed at step 230 of 1,000" in card
        assert "asked for [bold]now[/bold]." in card
        assert "What to do: Lower micro_bsz" in card
        assert "Kept: rwkv-0.pth" in card
        assert str(run.log) in card
        assert "  OutOfMemoryError: [red]2 GiB" in card
        assert "\x1b" not in card
        await pilot.press("o")
        whole = "\n".join(app.screen.query_one(Lines).lines)
        assert "OutOfMemoryError: [red]2 GiB" in whole
        assert "2025-10-09 08:58:20  The GPU has no memory" in whole
        await pilot.press("escape")
        assert app.screen is screen
        await pilot.press("enter")
        assert app.screen is screen


async def test_the_log_is_searched_filtered_and_followed(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", ALIVE)
    stories.tell(run, stories.opening() + stories.stepping(run.path, 1, 430))
    for n in range(40):
        stories.tell(run, [ev.Log(t=stories.T0 + n, text=f"remark {n} " + "so " * 60)])
    stories.tell(run, [ev.Warned(t=stories.T0 + 280, text="the disk is nearly full")])
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(monitor(run))
        await pilot.press("o")
        lines = app.screen.query_one(Lines)
        await until(pilot, lambda: len(lines.lines) == 47)
        assert lines.is_at_end()
        stories.tell(run, [ev.Log(t=stories.T0 + 281, text="one more")])
        await until(pilot, lambda: len(lines.lines) == 48)
        await until(
            pilot, lambda: lines.is_at_end() and "one more" in lines.render_line(lines.size.height - 1).text
        )
        await pilot.press("pageup")
        stories.tell(run, [ev.Log(t=stories.T0 + 282, text="yet another")])
        await until(pilot, lambda: len(lines.lines) == 49)
        assert not lines.is_at_end()  # one reads there: nothing moves
        await pilot.press("f")
        await until(pilot, lines.is_at_end)
        await pilot.press("v")
        assert [line[21:] for line in lines.lines] == ["the disk is nearly full"]
        await pilot.press("v", "v", "slash", *"MARK", "space", "7")
        await until(pilot, lambda: len(lines.lines) == 1)
        assert "remark 7" in lines.lines[0]
        await pilot.press("enter", "escape")
        assert app.screen.query_one(Input).value == ""
        await pilot.press("t")
        await until(pilot, lambda: any("◆ saved rwkv-1.pth" in line for line in lines.lines))
        assert not any("remark" in line for line in lines.lines)
        assert "2:12  ◆ saved rwkv-0.pth" in "\n".join(lines.lines)
        await pilot.press("escape")
        assert isinstance(app.screen, MonitorScreen)


async def test_a_key_goes_back_to_the_parameters_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = stories.new_run(tmp_path / "run", "emoji", stories.GONE)
    run.settings.write_text(
        f"load_model: {tmp_path / 'x.pth'}\nproj_dir: {run.path}\ndata_file: y\nmicro_bsz: 8\nlr_init: 0.5\n"
    )
    failed = ev.Failed(
        t=stories.T0 + 99, reason="Out of memory: CUDA out of memory.", fix={"micro_bsz": "4", "grad_cp": "1"}
    )
    stories.tell(run, [*stories.opening(), *stories.stepping(run.path, 1, 30), failed])
    app = screens.app(tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        await until(pilot, lambda: "micro_bsz 4" in panel(screen, "ending"))
        await pilot.press("b")
        await until(pilot, lambda: isinstance(app.focused, Input) and app.focused.value == "4")
        draft = app.draft
        assert (draft.text("lr_init"), draft.text("load_model")) == ("0.5", "x.pth")
        assert draft.usual("micro_bsz") == "8" and draft.is_changed("micro_bsz")
        assert not draft.is_changed("lr_init")
        assert draft.text("proj_dir") not in ("", str(run.path))


async def test_a_run_that_vanished_is_said_to_have_died(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", stories.GONE)
    again = ev.Checkpoint(t=stories.T0 + 9, path=str(run.path / "rwkv-1.pth"), step=400, epoch=1)
    stories.tell(run, [*stories.opening(), *stories.stepping(run.path, 1, 400), again])  # as one resumed does
    stories.tell(run, stories.stepping(run.path, 401, 430))
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        await until(pilot, lambda: screen.status == "died")
        card = panel(screen, "ending")
        assert "died at step 430 of 1,000 (last seen 2025-10-09 08:57:50)" in card
        assert "Kept: rwkv-0.pth, rwkv-1.pth" in card


def dimmed(gpu: GpuPanel) -> bool:
    """Whether all of it is."""
    drawn = gpu.draw()
    return any(span.style == "dim" and span.end - span.start == len(drawn.plain) for span in drawn.spans)


async def test_a_panel_for_each_gpu(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", ALIVE)
    gpus = screens.StillGpus(screens.TWO_GPUS)
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(run, gpus)
        await app.push_screen(screen)
        await until(pilot, lambda: [p.size.height for p in screen.query(GpuPanel)] == [1, 1])
        lines = [text(p) for p in screen.query(GpuPanel)]
        assert all(part in lines[0] for part in ("H200", "97 %", "122.0/139.7 GiB", "64 °C", "612/700 W"))
        assert lines[1].count("N/A") == 2  # neither its use nor its power
        mine, other = screens.TWO_GPUS.gpus
        gpus.reading = replace(screens.TWO_GPUS, gpus=(mine, replace(other, foreign=True)))
        await until(pilot, lambda: [dimmed(p) for p in screen.query(GpuPanel)] == [False, True])
        gpus.reading = screens.NO_GPU
        await until(pilot, lambda: not screen.query(GpuPanel))
        await until(pilot, lambda: "No NVIDIA driver" in panel(screen, "host"))


async def test_a_long_history_leaves_the_keys_alive(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", ALIVE)
    lines = "".join(map(ev.dump_event, stories.stepping(run.path, 1, 2000, epoch_steps=4000)))
    stories.tell(run, stories.opening(epoch_steps=4000))
    with run.events.open("a") as file:
        file.write(lines)
    app = screens.app(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(run)
        await app.push_screen(screen)
        await until(pilot, lambda: "2,000/20,000" in panel(screen, "bars"))


@pytest.mark.parametrize("keys", ["", "1 left plus", "5", "6", "7", "o", "t"])
async def test_a_tiny_terminal_breaks_nothing(keys: str, tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "emoji", "emoji", ALIVE)
    stories.tell(run, stories.opening() + stories.lively(Path("emoji"), 60))
    app = screens.app(tmp_path)
    async with app.run_test(size=(20, 5)) as pilot:
        await app.push_screen(monitor(run, screens.StillGpus(screens.TWO_GPUS)))
        await pilot.press(*keys.split())
        await pilot.pause(0.2)


def test_the_line_of_the_machine_moves_only_when_it_tells_something() -> None:
    was = HostInfo(40.0, 4 * 2**30, 16 * 2**30, 90 * 2**30, 100 * 2**30)
    assert not has_moved(was, replace(was, cpu=49.0, used_bytes=4 * 2**30 + 2**28, disk_free=89 * 2**30))
    assert has_moved(was, replace(was, cpu=51.0))
    assert has_moved(was, replace(was, used_bytes=5 * 2**30))
    assert has_moved(was, replace(was, disk_free=80 * 2**30))
    assert has_moved(replace(was, cpu=None), was)


def test_lines_are_wrapped_between_words() -> None:
    said = "2026-11-25 13:00:31  training starts: 240 steps on CPU, 1 thread, bf16, op chunked"
    assert [part.plain for part in _wrap(Content(said), 40)] == [
        "2026-11-25 13:00:31  training starts:",
        "240 steps on CPU, 1 thread, bf16, op",
        "chunked",
    ]
    assert len(_wrap(Content("x" * 100 + "\n\n" + "句" * 30), 40)) == 3 + 1 + 2
