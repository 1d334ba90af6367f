from __future__ import annotations

import os
from pathlib import Path

import pytest
from textual.screen import Screen
from textual.widgets import OptionList

from engine.contract.errors import UserError
from engine.contract.events import Event, Plan, Started, Step, dump_event
from engine.contract.paths import UserPaths
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.app import TuneApp
from rwkv_tui.screens.home import HomeScreen
from rwkv_tui.screens.monitor import MonitorScreen
from rwkv_tui.screens.wizard.wizard import WizardScreen
from rwkv_tui.services import launch
from rwkv_tui.services.overview import loss_curve
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.lines import Lines
from tests.fakes import stories
from tests.tui.conftest import NOW, MakeApp, says, until, write

PLAN = Plan(
    version="x070", n_layer=12, n_embd=768, head_size=64, vocab_size=65536, parameters=191_000_000,
    trainable=589_824, method="state", documents=1200, tokens=133_410, cut_documents=0, cut_tokens=0,
    ctx_len=512, micro_bsz=1, epoch_begin=0, epoch_count=5, epoch_steps=1000, passes=4.17, device="cpu",
    precision="fp32", op="chunked",
)  # fmt: skip


def add_run(paths: UserPaths, proj_dir: Path, step: int, loss: float) -> RunDir:
    """A run that has died at some step, two minutes ago."""
    proj_dir.mkdir(parents=True)
    run = RunDir(proj_dir)
    name = RunList(paths.runs).add(proj_dir)
    run.process.write_text(f'{{"name": "{name}", "pid": 1, "started": 1, "boot": "another"}}')
    told: list[Event] = [
        Started(t=NOW - 200, name=name, pid=1, plan=PLAN),
        Step(t=NOW - 120, step=step, epoch=0, loss=loss, loss_smooth=loss, lr=1, kt_s=1, step_s=1,
             grad_norm=1, tokens=step * 100),
    ]  # fmt: skip
    run.events.write_text("".join(dump_event(event) for event in told))
    return run


def is_at(app: TuneApp, screen: type[Screen[None]]) -> bool:
    return isinstance(app.screen, screen)


def rows(app: TuneApp) -> list[str]:
    options = app.screen.query_one("#runs", OptionList)
    return [str(options.get_option_at_index(n).prompt) for n in range(options.option_count)]


async def test_runs_are_listed_as_they_stand_and_one_goes_in(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    add_run(app.paths, place / "runs" / "emoji", 137, 2.5)
    async with app.run_test() as pilot:
        assert is_at(app, HomeScreen)
        await until(pilot, lambda: rows(app))
        assert [w in rows(app)[0] for w in ("emoji", "died", "state", "137/5,000", "2.500")] == [True] * 5
        await pilot.press("enter")
        assert is_at(app, MonitorScreen)
        await pilot.press("escape")
        await until(pilot, lambda: is_at(app, HomeScreen))
        await pilot.press("n")
        assert isinstance(app.screen, WizardScreen)


async def test_the_list_follows_and_keeps_its_place(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    for number in (1, 2):
        add_run(app.paths, place / f"run{number}", number, 1.0)
    async with app.run_test() as pilot:
        await until(pilot, lambda: len(rows(app)) == 2)
        await pilot.press("end")
        options = app.screen.query_one("#runs", OptionList)
        name = rows(app)[1].split()[1]
        add_run(app.paths, place / "run3", 3, 1.0)
        await until(pilot, lambda: len(rows(app)) == 3)
        assert options.highlighted is not None
        assert rows(app)[options.highlighted].split()[1] == name


async def test_a_run_can_be_opened_at_once(make_app: MakeApp, place: Path) -> None:
    app = make_app(run=("emoji", RunDir(place / "emoji")))
    add_run(app.paths, place / "emoji", 5, 2.0)
    async with app.run_test():
        assert isinstance(app.screen, MonitorScreen)


async def test_a_preset_begins_a_run(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    add_run(app.paths, place / "emoji", 5, 2.0)
    async with app.run_test() as pilot:
        await pilot.press("p")
        await until(pilot, lambda: says(pilot, "micro_bsz"))
        await pilot.press("end", "enter")
        await until(pilot, lambda: isinstance(app.screen, WizardScreen))
        assert app.draft.text("accelerator") == "cpu"  # state-cpu is the last one


async def test_the_footer_says_what_enter_does_with_a_run(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        app.open_home()
        await until(pilot, lambda: says(pilot, "No runs yet."))
        assert "enter" not in app.screen.active_bindings
        add_run(app.paths, place / "emoji", 5, 2.0)
        await until(pilot, lambda: "enter" in app.screen.active_bindings)
        assert app.screen.active_bindings["enter"].binding.description == "Open"


async def test_ctrl_c_says_in_our_words_how_to_quit(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("ctrl+c")
        assert [note.message for note in app._notifications] == [
            "Ctrl+Q quits; runs go on without the screen."
        ]


async def test_quitting_needs_one_key(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    add_run(app.paths, place / "emoji", 5, 2.0)
    async with app.run_test() as pilot:
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)


async def test_a_run_that_cannot_be_resumed_says_why(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    add_run(app.paths, place / "runs" / "emoji", 137, 2.5)  # it has no settings.yaml
    async with app.run_test() as pilot:
        await until(pilot, lambda: rows(app))
        await pilot.press("r")
        await until(pilot, lambda: any("settings.yaml" in note.message for note in app._notifications))
        assert is_at(app, HomeScreen)


async def test_a_run_that_saved_nothing_begins_anew_only_when_that_is_wanted(
    make_app: MakeApp, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = list[str]()
    monkeypatch.setattr(launch, "resume", lambda name, run, runs: begun.append(name))
    app = make_app()
    run = add_run(app.paths, place / "runs" / "emoji", 137, 2.5)
    run.settings.write_text("ctx_len: 64\n")
    async with app.run_test() as pilot:
        await until(pilot, lambda: rows(app))
        await pilot.press("r")
        assert says(pilot, "Nothing of emoji was saved")
        await pilot.press("n")
        assert is_at(app, HomeScreen) and not begun
        await pilot.press("r", "y")
        await until(pilot, lambda: is_at(app, MonitorScreen))
        assert begun == ["emoji"]
        await until(pilot, lambda: says(pilot, "r begins it anew: nothing was saved"))
        (run.path / "resume-100.sha256").touch()
        await pilot.press("r")
        assert begun == ["emoji"] * 2  # there is something to go on from: no question


async def test_runs_are_found_tagged_renamed_and_deleted(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    for name, loss in (("emoji", 2.5), ("poems", 1.5)):
        add_run(app.paths, place / "runs" / name, 137, loss)
    (place / "runs" / "poems" / "rwkv-0.pth").write_bytes(b"state")
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(rows(app)) == 2)
        app.screen.query_one("#runs", OptionList).highlighted = next(
            n for n, row in enumerate(rows(app)) if "poems" in row
        )
        await pilot.press("t")
        await write(pilot, "#good night")
        await pilot.press("enter")
        await until(pilot, lambda: any("poems #good #night" in row for row in rows(app)))
        await pilot.press("e", "home", "ctrl+k")
        await write(pilot, "emoji")
        await pilot.press("enter")
        await until(pilot, lambda: any("already" in n.message for n in app._notifications))
        await pilot.press("e", "home", "ctrl+k")
        await write(pilot, "odes")
        await pilot.press("enter")
        await until(pilot, lambda: any("odes #good" in row for row in rows(app)))
        assert RunDir(place / "runs" / "poems").name() == "odes"
        await pilot.press("slash")
        await write(pilot, "night state")
        await until(pilot, lambda: len(rows(app)) == 1)
        await pilot.press("enter", "d", "n")
        assert len(RunList(app.paths.runs).all()) == 2
        await pilot.press("d", "y")
        await until(pilot, lambda: says(pilot, "No run has these words"))
        assert (place / "runs" / "poems" / "rwkv-0.pth").exists()
        assert not (place / "runs" / "poems" / "events.ndjson").exists()
        await pilot.press("escape")
        await until(pilot, lambda: len(rows(app)) == 1 and "emoji" in rows(app)[0])


async def test_marked_runs_are_compared(make_app: MakeApp, place: Path) -> None:
    app = make_app()
    for name, rate in (("emoji", 1.0), ("poems", 0.5), ("odes", 0.5)):
        run = add_run(app.paths, place / "runs" / name, 137, 2.0 + rate)
        run.settings.write_text(
            f"proj_dir: {run.path}\nlr_init: {rate}\nmicro_bsz: 2\nload_model: /{'m' * 80}/{name}.pth\n"
        )
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(rows(app)) == 3)
        await pilot.press("space", "c")
        await until(pilot, lambda: any("two to six" in n.message for n in app._notifications))
        await pilot.press("space", "space", "c")
        table = app.screen.query_one(Lines)
        await until(pilot, lambda: any("137" in line for line in table.lines))
        by_name = {line.split()[0]: line.split()[1:] for line in table.lines[1:]}
        assert sorted(by_name["lr_init"]) == ["0.5", "0.5", "1"]
        assert {value[-7:] for value in by_name["load_model"]} == {"oji.pth", "ems.pth", "des.pth"}
        assert "micro_bsz" not in by_name
        assert "proj_dir" not in by_name
        head = app.screen.query_one(LineChart).render_line(0).text.split()
        names = table.lines[0].split()
        assert [word for word in head if word in names] == names
        await pilot.resize_terminal(100, 7)
        await pilot.pause()
        assert table.max_scroll_y and table.scroll_offset.y == 0
        await pilot.resize_terminal(100, 30)
        await pilot.press("x", "m", "y", "escape")
        assert is_at(app, HomeScreen)


async def test_the_curves_of_a_comparison_are_looked_at_as_those_of_one_run(
    make_app: MakeApp, place: Path
) -> None:
    app = make_app()
    for name, steps in (("emoji", 137), ("poems", 900)):
        run = stories.new_run(place / "runs" / name, name, stories.GONE)
        stories.tell(run, stories.opening() + stories.stepping(run.path, 1, steps))
        RunList(app.paths.runs).add(run.path)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(rows(app)) == 2)
        await pilot.press("space", "space", "c")
        await until(pilot, lambda: app.screen.query_one(Lines).lines)
        chart = app.screen.query_one(LineChart)
        await until(pilot, lambda: chart.xs is not None)

        def shown() -> tuple[float, float]:
            assert chart.xs is not None
            return chart.xs.low, chart.xs.high

        whole = shown()
        assert whole[0] == 0
        assert whole[1] >= 900  # as long as the longest
        await pilot.press("plus", "plus")
        assert shown()[1] - shown()[0] < whole[1] / 3  # the newest
        await pilot.press("comma", "comma")
        assert shown()[1] < 900
        await pilot.press("f")
        assert shown()[1] >= 900
        await pilot.press("0", "left", "left")
        assert shown() == whole
        title = chart.render_line(0).text
        assert "step" in title
        await pilot.press("escape")  # the cursor is put away first
        assert "step" not in chart.render_line(0).text
        await pilot.press("escape")
        assert is_at(app, HomeScreen)


def test_the_curve_of_a_list_is_that_of_the_run(tmp_path: Path) -> None:
    run = stories.new_run(tmp_path / "run", "emoji", stories.GONE)
    stories.tell(run, stories.opening() + stories.stepping(run.path, 1, 900))
    curve = [v for v in loss_curve(run) if v is not None]
    assert len(curve) > 20
    assert curve[0] > 3
    assert curve[-1] < 2.1
    assert loss_curve(RunDir(tmp_path / "none")) == ()


def test_a_renamed_run_keeps_its_place(tmp_path: Path) -> None:
    runs = RunList(tmp_path / "runs")
    for name in ("a", "b", "c"):
        stories.new_run(tmp_path / name, name, stories.GONE)
        runs.add(tmp_path / name)
        os.utime(runs.folder / f"{name}.json", (ord(name[0]), ord(name[0])))
    runs.tag("a", ["x", "y", "x"])
    assert runs.rename("b", "my run/2") == "my-run-2"
    assert [name for name, _ in runs.all()] == ["c", "my-run-2", "a"]
    assert runs.tags("a") == ("x", "y")
    with pytest.raises(UserError, match="already"):
        runs.rename("a", "c")
    with pytest.raises(UserError, match="no name"):
        runs.rename("a", "..")
    assert runs.tags("c") == ()
