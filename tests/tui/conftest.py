"""A working folder with a model and data in it, and the application in that folder."""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static, TextArea

from engine.contract.paths import UserPaths
from rwkv_tui.app import TuneApp
from rwkv_tui.services.gpu import GpuInfo, GpuReading

NO_GPU = GpuReading((), "No NVIDIA driver is installed here; runs use the CPU.")
GPUS = GpuReading(
    (GpuInfo("NVIDIA GeForce RTX 3060", 12 * 2**30, 3 * 2**30), GpuInfo("NVIDIA T1000", 4 * 2**30))
)
NOW = 1_760_000_000.0
MakeApp = Callable[..., TuneApp]
Press = Callable[[Pilot[None], str], Awaitable[None]]


@pytest.fixture(autouse=True)
def seldom_collected() -> Iterator[None]:
    """Each test leaves an application behind as garbage: looking for it less often saves a seventh of the
    time."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, 10, 10)
    yield
    gc.set_threshold(*before)


@pytest.fixture
def place(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tiny_jsonl: Path
) -> Path:
    """The current folder: models/tiny.pth and pairs.jsonl."""
    folder = tmp_path / "work"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "tiny.pth").hardlink_to(tiny_model)
    shutil.copy(tiny_jsonl, folder / "pairs.jsonl")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setattr(TextArea, "cursor_blink", False)
    return folder


@pytest.fixture
def pair(place: Path, tiny_data: Path) -> Path:
    """pairs.bin and pairs.idx in the current folder."""
    for half in (".bin", ".idx"):
        shutil.copy(f"{tiny_data}{half}", place / f"pairs{half}")
    return place / "pairs"


@pytest.fixture
def make_app(place: Path) -> MakeApp:
    """The application with a user's folders of its own; there is no GPU unless `gpus` says so."""

    def make(**given: object) -> TuneApp:
        options: dict[str, object] = {"gpus": lambda: NO_GPU, "clock": lambda: NOW, **given}
        return TuneApp(UserPaths.under(place.parent / "user"), **options)  # type: ignore[arg-type]

    return make


async def until(pilot: Pilot[None], true: Callable[[], object], seconds: float = 30) -> None:
    """Waits for something that other processes and threads bring about."""
    for _ in range(int(seconds / 0.05)):
        await pilot.pause()
        if true():
            await pilot.pause()
            return
        await asyncio.sleep(0.05)
    pytest.fail("it did not happen:\n" + "\n".join(texts(pilot)))


async def write(pilot: Pilot[None], text: str) -> None:
    """Types a text into whatever has the focus."""
    names = {
        " ": "space",
        "/": "slash",
        ".": "full_stop",
        "-": "minus",
        "_": "underscore",
        "~": "tilde",
        "=": "equals_sign",
        ",": "comma",
    }
    await pilot.press(*(names.get(character, character) for character in text))


def texts(pilot: Pilot[None]) -> Iterable[str]:
    """What the screen in front says, widget by widget, displayed ones only."""
    for widget in pilot.app.screen.query(Static):
        if all(node.display for node in widget.ancestors_with_self if hasattr(node, "display")):
            yield str(widget.render())


def says(pilot: Pilot[None], text: str) -> bool:
    """Whether the screen in front shows `text`."""
    return any(text in shown for shown in texts(pilot))
