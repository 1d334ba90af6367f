from __future__ import annotations

from pathlib import Path

import torch
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from rwkv_tui.screens.wizard.new_model import NUMBERS, NewModelScreen
from rwkv_tui.services.gpu import GpuInfo, GpuReading
from rwkv_tui.widgets.path_input import PathInput
from tests.tui.conftest import GPUS, MakeApp, says, until, write


async def to_model(pilot: Pilot[None]) -> OptionList:
    await pilot.press("ctrl+n")
    await until(pilot, lambda: pilot.app.screen.query("#models"))
    return pilot.app.screen.query_one("#models", OptionList)


async def test_picking_a_model_fills_in_its_version_and_size(make_app: MakeApp, place: Path) -> None:
    torch.save({"a": torch.zeros(2)}, place / "other.pth")
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        models = await to_model(pilot)
        await until(pilot, lambda: models.option_count == 2)
        row = str(models.get_option_at_index(0).prompt)
        assert [word in row for word in ("models/tiny.pth", "RWKV-7", "2 x 64")] == [True] * 3
        assert models.get_option_at_index(1).disabled
        assert "not an RWKV model" in str(models.get_option_at_index(1).prompt)
        await pilot.press("enter")
        assert says(pilot, "2 layers x 64, heads of 64, vocabulary 65,536")
        assert [app.draft.text(n) for n in ("load_model", "my_testing", "n_layer", "n_embd")] == [
            "models/tiny.pth", "x070", "2", "64",
        ]  # fmt: skip


async def test_a_typed_path_counts_at_once_and_its_numbers_follow(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        await to_model(pilot)
        pilot.app.screen.query_one("#Model #path", PathInput).focus()
        await write(pilot, "models/t")
        assert app.draft.text("load_model") == "models/t"
        await until(pilot, lambda: says(pilot, "no file models/t"))
        await pilot.press("tab")
        await until(pilot, lambda: app.draft.text("n_layer") == "2")
        await pilot.press("backspace")
        await until(pilot, lambda: app.draft.text("n_layer") == "0")


async def test_what_is_said_to_do_does_it_from_the_list_and_from_the_path(make_app: MakeApp) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        models = await to_model(pilot)
        path = app.screen.query_one("#Model #path", PathInput)
        await until(pilot, lambda: says(pilot, "Pick one with ↑ ↓ and Enter, or press / to type its path."))
        assert models.has_focus
        await pilot.press("slash")
        assert path.has_focus and not path.value
        assert says(pilot, "Press ↓ to pick a model, or type its path (Tab completes).")
        await pilot.press("down")
        await until(pilot, lambda: says(pilot, "Pick one with ↑ ↓ and Enter"))
        await pilot.press("enter")
        assert app.draft.text("load_model") == "models/tiny.pth"


async def test_without_a_gpu_a_sentence_says_so(make_app: MakeApp) -> None:
    async with make_app(start="wizard").run_test() as pilot:
        await to_model(pilot)
        await until(pilot, lambda: says(pilot, "No GPU found."))
        assert says(pilot, "runs use the CPU")
        assert not says(pilot, "fits")


async def test_cells_are_held_against_each_gpu(make_app: MakeApp) -> None:
    async with make_app(start="wizard", gpus=lambda: GPUS).run_test() as pilot:
        await to_model(pilot)
        await until(
            pilot, lambda: says(pilot, "GPU 0 NVIDIA GeForce RTX 3060: 12.0 GiB in all, 3.0 GiB in use")
        )
        assert [says(pilot, cell) for cell in ("17.8 over", "11.9 tight", " 8.5 fits")] == [True] * 3
        pilot.app.screen.query_one("#models").focus()
        await pilot.press("g")
        assert says(pilot, "GPU 1 NVIDIA T1000: 4.0 GiB in all")
        assert says(pilot, " 8.5 over")


async def test_a_gpu_that_tells_nothing_is_not_judged(make_app: MakeApp) -> None:
    silent = GpuReading((GpuInfo("Odd device"),))
    async with make_app(start="wizard", gpus=lambda: silent).run_test() as pilot:
        await to_model(pilot)
        await until(pilot, lambda: says(pilot, "GPU 0 Odd device: memory N/A"))
        assert not says(pilot, "fits")


async def test_a_model_of_random_weights_is_made_and_chosen(make_app: MakeApp, place: Path) -> None:
    app = make_app(start="wizard")
    async with app.run_test() as pilot:
        await to_model(pilot)
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(app.screen, NewModelScreen))
        given = {name: app.screen.query_one(f"#{name}", Input) for name in (*NUMBERS, "new-file")}
        given["n-layer"].value, given["n-embd"].value, given["vocab-size"].value = "2", "100", "77"
        await pilot.press("f4")
        await until(pilot, lambda: says(pilot, "100"))  # no multiple of 64: the job says it
        assert not list((place / "models").glob("*new*"))
        given["n-embd"].value = "4096"
        await pilot.press("f4", "escape")
        assert says(pilot, "Cancelled; nothing was written.")
        given["n-embd"].value, given["new-file"].value = "64", "models/tiny.pth"
        await pilot.press("f4")
        await until(pilot, lambda: says(pilot, "exists already and was not touched"))
        given["new-file"].value = "models/new.pth"
        await pilot.press("f4")
        await until(pilot, lambda: app.draft.model is not None)
        assert app.draft.text("load_model") == "models/new.pth" and app.draft.text("n_layer") == "2"
    assert [p.name for p in sorted((place / "models").iterdir())] == ["new.pth", "tiny.pth"]
