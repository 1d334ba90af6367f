"""A walk past every screen of the program, in any language: it waits for what is drawn, never for words."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual._context import visible_screen_stack
from textual.app import App
from textual.events import ScreenResume
from textual.pilot import Pilot
from textual.screen import Screen
from textual.strip import Strip
from textual.worker import WorkerState

from engine.contract import events as ev
from engine.contract.paths import UserPaths
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from rwkv_tui.app import TuneApp
from rwkv_tui.screens.chat import ChatScreen
from rwkv_tui.screens.compare import CompareScreen
from rwkv_tui.screens.done import DoneScreen
from rwkv_tui.screens.monitor import MonitorScreen
from tests.fakes import screens, stories
from tests.tui.conftest import GPUS

READY = {"load_model": "models/tiny.pth", "data_file": "pairs", "ctx_len": 16, "precision": "fp32"}
SCRIPT = "python train.py --load_model /m/rwkv.pth --proj_dir out --data_file d --n_layer 12 --micro_bsz 4\n"
FAILED = ev.Failed(t=stories.T0 + 300, reason="2 GiB", remedy="micro_bsz 1", fix={"micro_bsz": "1"})
DATA = (("data-rows", ""), ("template", "f6"), ("tokens", "escape f7"))
WIZARD = (
    ("data", ""), ("model", "escape 2"), ("parameters", "escape 3"), ("wrong", "end x"),
    ("unready", "escape 4"), ("all", "3 end backspace f3"), ("search", "f4"),
    ("presets", "escape f2"), ("import", "i"), ("review", "escape escape ctrl+n"), ("help", "f1"),
    ("palette", "escape f9"),
)  # fmt: skip
MONITOR = (
    ("monitor", ""), ("chart", "1 left left"), ("devices", "escape 5"), ("state", "6"), ("samples", "7"),
    ("log", "o"), ("stop", "escape escape s"),
)  # fmt: skip
CHAT = (("chat-refused", ""), ("sampling", "f3"))
"""Names of what is shown, each with the keys that lead there from the one before."""


def drawn(app: App[None]) -> list[Strip]:
    """The screen with what it covers, line by line."""
    visible_screen_stack.set(app._background_screens)
    return app.screen._compositor.render_strips()


def lines(pilot: Pilot[None]) -> list[str]:
    return [strip.text.rstrip() for strip in drawn(pilot.app)]


async def settle(pilot: Pilot[None], least: float = 0.0) -> None:
    """Waits until nobody has anything to do and nothing moves any more; `least` seconds at least."""
    end, before = time.monotonic() + least, [""]
    for _ in range(3000):
        await pilot._wait_for_screen()
        pilot.app.screen._on_timer_update()  # draws at once what waits for the next frame
        if _at_rest(pilot.app) and time.monotonic() >= end:
            if (now := lines(pilot)) == before:
                return
            before = now
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to rest:\n" + "\n".join(lines(pilot)))


def _at_rest(app: App[None]) -> bool:
    """Whether no worker works, no message waits and nothing is left to draw."""
    shown, pumps = app.screen, [app, *app.screen.walk_children(with_self=True)]
    return not (
        any(worker.state in (WorkerState.PENDING, WorkerState.RUNNING) for worker in app.workers)
        or any(pump.message_queue_size or pump._next_callbacks for pump in pumps)
        or shown._layout_required or shown._repaint_required or shown._dirty_widgets or shown._callbacks
    )  # fmt: skip


async def walk(place: Path, pair: Path) -> AsyncIterator[tuple[str, Pilot[None]]]:
    """Each screen by its name. `place` is the current folder, with a model and data (see conftest)."""
    (place / "demo.sh").write_text(SCRIPT)
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
            for n in range(20)]  # fmt: skip
    (place / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    async with _app(
        place, "data", start="wizard", source=Path("chats.jsonl"), draft={"ctx_len": 16}
    ) as pilot:
        async for name in _visit(pilot, DATA):
            yield name, pilot
    async with _app(place, "wizard", start="wizard", draft=READY) as pilot:
        async for name in _visit(pilot, WIZARD):
            yield name, pilot
    async with _app(place, "runs", start="") as pilot:
        async for name in _visit(pilot, (("home-empty", ""),)):
            yield name, pilot
        runs = _runs(place, pilot.app.paths)  # type: ignore[attr-defined]
        pilot.app.screen.post_message(ScreenResume())
        async for name in _visit(pilot, (("home", ""), ("ask", "d"), ("rename", "escape e"))):
            yield name, pilot
        await pilot.press("escape")
        compared = CompareScreen([(name, runs[name]) for name in ("emoji", "odes")])
        for screen, stops in (
            (compared, (("compare", ""),)),
            (_monitor("poems", runs, screens.NO_GPU), (("opening", ""),)),
            (_monitor("emoji", runs), MONITOR),
            (_monitor("odes", runs), (("failed", ""),)),
            (DoneScreen("haiku", runs["haiku"]), (("done", ""),)),
            (ChatScreen(["--model", "models/tiny.pth", "--state", "pairs.jsonl"]), CHAT),
        ):
            await pilot.app.push_screen(screen)
            async for name in _visit(pilot, stops):
                yield name, pilot
            while len(pilot.app.screen_stack) > 2:
                pilot.app.pop_screen()
            await pilot.pause()


@asynccontextmanager
async def _app(place: Path, name: str, **given: Any) -> AsyncIterator[Pilot[None]]:
    app = TuneApp(UserPaths.under(place.parent / name), gpus=lambda: GPUS, clock=screens.clock, **given)
    async with app.run_test(size=(120, 40)) as pilot:
        yield pilot


async def _visit(pilot: Pilot[None], stops: tuple[tuple[str, str], ...]) -> AsyncIterator[str]:
    for name, keys in stops:
        await settle(pilot)
        before = lines(pilot)
        await pilot.press(*keys.split())
        await settle(pilot, 0.05)
        assert not keys or lines(pilot) != before, f"{name}: {keys} led nowhere"
        yield name


def _monitor(name: str, runs: dict[str, RunDir], reading: Any = screens.TWO_GPUS) -> Screen[None]:
    return MonitorScreen(name, runs[name], gpus=screens.StillGpus(reading), clock=screens.clock)


def _runs(place: Path, paths: UserPaths) -> dict[str, RunDir]:
    """A run that goes on, one that begins, one that failed and one that finished, in relative folders."""
    told: dict[str, tuple[Process, list[ev.Event]]] = {
        "haiku": (stories.GONE, [
            *stories.opening(), *stories.stepping(Path("runs/haiku"), 1, 1000),
            *stories.ending(Path("runs/haiku")),
        ]),
        "odes": (stories.GONE, [*stories.opening(), *stories.stepping(Path("runs/odes"), 1, 230), FAILED]),
        "poems": (Process.current(), stories.preparing()),
        "emoji": (Process.current(), [*stories.opening(), *stories.lively(Path("runs/emoji"), 430)]),
    }  # fmt: skip
    found = {}
    paths.runs.mkdir(parents=True)
    for age, (name, (owner, events)) in enumerate(told.items()):
        run = found[name] = stories.new_run(Path("runs") / name, name, owner)
        stories.tell(run, events)
        run.settings.write_text(f"load_model: tiny.pth\nproj_dir: runs/{name}\nmicro_bsz: {len(name)}\n")
        entry = paths.runs / f"{name}.json"
        entry.write_text(json.dumps({"proj_dir": f"runs/{name}"}))
        os.utime(entry, (1000 - age, 1000 - age))
    for n in range(5):
        (Path("runs/haiku") / f"rwkv-{n}.pth").write_bytes(b"state")
    return found
