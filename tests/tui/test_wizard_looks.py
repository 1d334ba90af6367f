"""Pictures of every screen of the wizard and of the list of runs, in a small and in a large terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.tui.conftest import GPUS, MakeApp, says, until
from tests.tui.test_home import add_run, rows

Compare = Callable[..., bool]
SIZES = pytest.mark.parametrize("size", [(80, 24), (140, 45)], ids=["small", "large"])
READY = {"load_model": "models/tiny.pth", "data_file": "pairs", "ctx_len": 16, "precision": "fp32"}


async def goes_to(pilot: Pilot[None], step: str, words: str) -> None:
    await pilot.press("escape", step)
    await until(pilot, lambda: says(pilot, words))


@pytest.fixture
def described(place: Path) -> Path:
    """A file with documents of many lengths and two lines that are none."""
    answers = [f"User: What is {n}?\n\nAssistant: {'It is a number. ' * n}🙂" for n in range(1, 40)]
    lines = [json.dumps({"text": text}) for text in answers]
    lines[3:3] = ["not json", '{"txt": 1}']
    path = place / "numbers.jsonl"
    path.write_text("\n".join(lines))
    return path


@SIZES
def test_data_jsonl(snap_compare: Compare, make_app: MakeApp, described: Path, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "1 row cannot be") and says(pilot, "Files here (2)"))

    app = make_app(source=described, draft={"ctx_len": 64, "loss_mask": "qa"})
    assert snap_compare(app, run_before=before, terminal_size=size)


@SIZES
def test_data_binidx(snap_compare: Compare, make_app: MakeApp, pair: Path, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "24 documents") and says(pilot, "Files here (2)"))

    app = make_app(start="wizard", draft={"data_file": "pairs", "ctx_len": 16})
    assert snap_compare(app, run_before=before, terminal_size=size)


@SIZES
@pytest.mark.parametrize("gpus", [False, True], ids=["no gpu", "gpus"])
def test_model(snap_compare: Compare, make_app: MakeApp, gpus: bool, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await goes_to(pilot, "2", "GPU 0" if gpus else "No GPU found")
        await until(pilot, lambda: says(pilot, "layers x width") and says(pilot, "heads of 64"))

    given = {"gpus": lambda: GPUS} if gpus else {}
    app = make_app(start="wizard", draft={"load_model": "models/tiny.pth"}, **given)
    assert snap_compare(app, run_before=before, terminal_size=size)


@SIZES
def test_parameters(snap_compare: Compare, make_app: MakeApp, pair: Path, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "24 documents"))
        await goes_to(pilot, "3", "208 passes")
        await pilot.press("end", "x")
        await until(pilot, lambda: says(pilot, "is not a whole number"))

    app = make_app(start="wizard", draft=READY)
    assert snap_compare(app, run_before=before, terminal_size=size)


@pytest.mark.parametrize("theme", ["light", "contrast"])
def test_parameters_in_other_themes(
    snap_compare: Compare, make_app: MakeApp, place: Path, theme: str
) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "Files here (1)"))
        await goes_to(pilot, "3", "5,000 steps")
        await pilot.press("end", "6")
        await until(pilot, lambda: says(pilot, "the default has 1"))

    assert snap_compare(make_app(start="wizard", theme=theme), run_before=before, terminal_size=(80, 24))


@SIZES
@pytest.mark.parametrize("ready", [True, False], ids=["ready", "not ready"])
def test_review(
    snap_compare: Compare, make_app: MakeApp, pair: Path, ready: bool, size: tuple[int, int]
) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "24 documents"))
        await goes_to(pilot, "4", "rwkv-tune train")

    draft = {**READY, "warmup_steps": 9000} if ready else {**READY, "load_model": "", "data_type": "wds_img"}
    app = make_app(start="wizard", draft=draft)
    assert snap_compare(app, run_before=before, terminal_size=size)


@SIZES
def test_presets(snap_compare: Compare, make_app: MakeApp, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "Files here (1)"))  # it shows beneath
        await pilot.press("f2")
        await until(pilot, lambda: says(pilot, "This preset is broken"))

    app = make_app(start="wizard")
    app.paths.presets.mkdir(parents=True)
    (app.paths.presets / "broken.yaml").write_text("# Mine.\n\nepoch_stops: 7\n")
    assert snap_compare(app, run_before=before, terminal_size=size)


@SIZES
def test_help(snap_compare: Compare, make_app: MakeApp, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "Files here (1)"))
        await pilot.press("f1")
        await until(pilot, lambda: says(pilot, "Esc closes this"))

    assert snap_compare(make_app(start="wizard"), run_before=before, terminal_size=size)


@SIZES
def test_home(snap_compare: Compare, make_app: MakeApp, place: Path, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(app)) == 2)

    app = make_app()
    for number, name in enumerate(("emoji-state", "a-run-with-a-rather-long-name")):
        add_run(app.paths, place / name, 137 * (number + 1), 2.5)
    assert snap_compare(app, run_before=before, terminal_size=size)


@SIZES
def test_home_without_runs(snap_compare: Compare, make_app: MakeApp, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "No runs yet"))

    assert snap_compare(make_app(start=""), run_before=before, terminal_size=size)


@SIZES
def test_tokens(snap_compare: Compare, make_app: MakeApp, pair: Path, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "24 documents") and says(pilot, "Files here (2)"))
        await pilot.press("f7")
        await until(pilot, lambda: says(pilot, "Document 1 of 24"))

    app = make_app(start="wizard", draft={"data_file": "pairs", "ctx_len": 16, "loss_mask": "qa"})
    assert snap_compare(app, run_before=before, terminal_size=size)


@SIZES
def test_template(snap_compare: Compare, make_app: MakeApp, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: says(pilot, "12 documents") and says(pilot, "Files here (1)"))
        await pilot.press("f6")
        await until(pilot, lambda: says(pilot, "Ctrl+S keeps it in "))

    assert snap_compare(make_app(source=Path("pairs.jsonl")), run_before=before, terminal_size=size)
