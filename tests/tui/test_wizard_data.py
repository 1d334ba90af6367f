from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, Label, OptionList, TextArea

from engine.data.binidx import BinIdx
from engine.data.convert import convert
from rwkv_tui.app import TuneApp
from rwkv_tui.screens.wizard.convert import ConvertForm
from rwkv_tui.screens.wizard.data import DataPane
from rwkv_tui.screens.wizard.tokens import TokenScreen
from rwkv_tui.screens.wizard.wizard import WizardScreen
from rwkv_tui.widgets.path_input import PathInput
from tests.tui.conftest import MakeApp, says, until, write
from tests.tui.test_jobs import big_jsonl


def draft_text(pilot: Pilot[None], name: str) -> str:
    assert isinstance(pilot.app, TuneApp)
    return pilot.app.draft.text(name)


def path(pilot: Pilot[None]) -> PathInput:
    return pilot.app.screen.query_one("#path", PathInput)


async def test_without_runs_one_lands_in_the_wizard_and_tab_completes(make_app: MakeApp, place: Path) -> None:
    (place / "pairs.old.jsonl").touch()
    async with make_app().run_test() as pilot:
        assert isinstance(pilot.app.screen, WizardScreen)
        await write(pilot, "pa")
        await pilot.press("tab")
        assert path(pilot).value == "pairs."
        await until(pilot, lambda: says(pilot, "pairs.jsonl  pairs.old.jsonl"))
        await write(pilot, "j")
        await pilot.press("tab")
        assert path(pilot).value == "pairs.jsonl"
        assert path(pilot).has_focus
        await pilot.press("tab")  # nothing left to complete: on to the next field
        assert not path(pilot).has_focus


async def test_a_file_is_picked_described_and_converted(make_app: MakeApp, place: Path) -> None:
    (place / "old-run").mkdir()
    for ours in (
        "old-run/run.json",
        "old-run/events.ndjson",
        "old-run/loss_data.jsonl",
        "old.idx.json",
        "old-run/stop.json",
    ):
        (place / ours).write_text("{}\n")
    async with make_app(start="wizard").run_test() as pilot:
        files = pilot.app.screen.query_one("#files", OptionList)
        await until(pilot, lambda: files.option_count == 1)
        await pilot.press("down", "enter")
        await until(pilot, lambda: says(pilot, "12 documents"))
        assert says(pilot, "No document is cut at ctx_len 512")
        assert says(pilot, "▶User: What colour is the sky?")
        assert draft_text(pilot, "data_file") == ""
        pilot.app.screen.query_one("#repeat").focus()
        await pilot.press("f4")
        await until(pilot, lambda: draft_text(pilot, "data_file") == "pairs")
        await until(pilot, lambda: says(pilot, "120 documents"))
        assert (place / "pairs.idx").is_file()
        assert not pilot.app.screen.query_one(ConvertForm).display
        await pilot.press("f7")  # the form has taken no focus with it
        await until(pilot, lambda: isinstance(pilot.app.screen, TokenScreen))


async def test_several_sources_are_mixed_and_documents_held_out(make_app: MakeApp, place: Path) -> None:
    rows = [json.dumps({"text": f"User: {n}\n\nAssistant: {n * n}"}) for n in range(20)]
    (place / "a, b.jsonl").write_text("\n".join(rows))
    app = make_app(start="wizard")
    async with app.run_test(notifications=True) as pilot:
        files = app.screen.query_one("#files", OptionList)
        await until(pilot, lambda: files.option_count == 2)
        await pilot.press("down", "enter")
        await until(pilot, lambda: says(pilot, "20 documents"))
        assert path(pilot).value == "a, b.jsonl"  # one file, whatever it is called
        (place / "a, b.jsonl").rename(place / "squares.jsonl")
        path(pilot).value = "pairs.jsonl, sq"
        path(pilot).focus()
        await pilot.press("end", "tab", "enter")
        assert path(pilot).value == "pairs.jsonl, squares.jsonl"
        await until(pilot, lambda: says(pilot, "32 documents"))
        form = {name: app.screen.query_one(f"#{name}", Input) for name in ("repeat", "held-out", "weights")}
        form["repeat"].value = "2"
        for name, wrong, right, told in (
            ("held-out", "2.5", "0.25", "Holds out 6 of 24 documents, copies counted once."),
            ("weights", "1", "1,3", "pairs.jsonl 25%, squares.jsonl 75%"),
        ):
            form[name].focus()
            form[name].value = wrong
            await pilot.press("f4")
            await until(pilot, lambda: says(pilot, "must be"))
            form[name].value = right
            await until(pilot, lambda told=told: says(pilot, told))  # type: ignore[misc]
        await pilot.press("f4")
        await until(pilot, lambda: draft_text(pilot, "data_file") == "pairs")
        assert "6 documents are held out as pairs-val." in next(iter(app._notifications)).message
    assert len(BinIdx(place / "pairs-val")) == 6
    made = json.loads((place / "pairs.idx.json").read_text())
    assert made["repeat"] == 2 and [source["weight"] for source in made["sources"]] == [1, 3]


async def test_a_key_reads_another_file_beside(make_app: MakeApp, place: Path) -> None:
    (place / "more.jsonl").write_text(json.dumps({"text": "User: a\n\nAssistant: b"}))
    async with make_app(start="wizard").run_test() as pilot:
        files = pilot.app.screen.query_one("#files", OptionList)
        await until(pilot, lambda: files.option_count == 2)
        await pilot.press("down", "enter")
        await until(pilot, lambda: says(pilot, "1 document, "))
        await pilot.press("j", "a", "a")
        await until(pilot, lambda: says(pilot, "13 documents"))
        assert path(pilot).value == "more.jsonl, pairs.jsonl"


async def test_only_answers_are_marked_when_only_they_are_learned(make_app: MakeApp) -> None:
    app = make_app(source=Path("pairs.jsonl"), draft={"loss_mask": "qa", "ctx_len": 6})
    async with app.run_test() as pilot:
        await until(pilot, lambda: says(pilot, "cuts 12 documents (100%)"))
        assert says(pilot, "✂")
        assert not says(pilot, "▶User")


async def test_with_dataload_get_it_is_windows_that_are_shown(make_app: MakeApp, place: Path) -> None:
    convert(place / "pairs.jsonl", place / "pairs", repeat=1)
    app = make_app(source=Path("pairs"), draft={"loss_mask": "qa", "ctx_len": 15, "dataload": "get"})
    async with app.run_test() as pilot:
        await until(pilot, lambda: says(pilot, "windows of ctx_len 15 from the documents laid end to end"))
        assert not says(pilot, "✂ ctx_len") and "✂" not in str(app.screen.query_one("#lengths").render())
        await pilot.press("f7")
        await until(pilot, lambda: says(pilot, "Window 1 of"))
        await pilot.press("right")
        await until(pilot, lambda: says(pilot, "Window 2 of"))
        assert says(pilot, "Its first token is the last one of the window before")
        await pilot.press("escape")
        app.draft.put("dataload", "pad")
        await app.screen.query_one(DataPane).entered()
        await until(pilot, lambda: says(pilot, "ctx_len 15 cuts 9 documents"))


async def test_bad_lines_are_listed_and_can_be_skipped(make_app: MakeApp, place: Path) -> None:
    lines = [json.dumps({"text": "User: a\n\nAssistant: b"}), "no json", '{"text": 3}']
    (place / "bad.jsonl").write_text("\n".join(lines))
    async with make_app(source=place / "bad.jsonl").run_test() as pilot:
        await until(pilot, lambda: says(pilot, "1 row cannot be read"))
        assert says(pilot, "line 2: not JSON")
        assert says(pilot, 'line 3: "text" is a number')
        assert says(pilot, 'leave them out with "Bad lines: skip them"')
        assert says(pilot, 'such as "Fields" prompt=q,answer=a')
        assert str(pilot.app.screen.query_one("#skip-line Label", Label).content) == "Bad lines"
        assert not says(pilot, "--")
        await pilot.press("f4")
        assert says(pilot, "choose to skip them")
        assert not (place / "bad.idx").exists()
        await pilot.press("right", "f4")  # the focus is on that choice
        await until(pilot, lambda: draft_text(pilot, "data_file") == "bad")
        assert "2 rows could not be read and were left out." in [n.message for n in pilot.app._notifications]


async def test_a_conversion_is_cancelled_by_escape_and_leaves_nothing(make_app: MakeApp, place: Path) -> None:
    source = big_jsonl(place)
    before = sorted(p.name for p in place.iterdir())
    async with make_app(source=source).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "convert this once"))
        await pilot.press("f4")
        await until(pilot, lambda: says(pilot, "1 of 2: reading") and says(pilot, " left"))
        assert str(pilot.app.screen.query_one("#go", Button).label) == "Cancel (Esc)"
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, WizardScreen)
        assert says(pilot, "Cancelled; nothing was written.")
        await until(pilot, lambda: sorted(p.name for p in place.iterdir()) == before)
        assert draft_text(pilot, "data_file") == ""


async def test_the_form_refuses_what_cannot_be_meant(make_app: MakeApp, place: Path) -> None:
    async with make_app(source=Path("pairs.jsonl")).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "convert this once"))
        pilot.app.screen.query_one("#repeat", Input).value = "0"
        await pilot.press("f4")
        assert says(pilot, "Repeat must be a whole number from 1.")
        assert not (place / "pairs.idx").exists()


async def test_the_form_asks_for_another_name_where_a_pair_is(make_app: MakeApp, place: Path) -> None:
    async with make_app(source=Path("pairs.jsonl")).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "convert this once"))
        (place / "mine.v1.idx").write_bytes(b"kept")
        pilot.app.screen.query_one("#out", Input).value = "mine.v1"
        await pilot.press("f4")
        assert says(pilot, "There is a pair mine.v1 already: give Output another name.")
        assert (place / "mine.v1.idx").read_bytes() == b"kept"


async def test_a_file_that_cannot_be_read_says_why(make_app: MakeApp, place: Path) -> None:
    async with make_app(start="wizard").run_test() as pilot:
        await write(pilot, "nowhere.jsonl")
        await pilot.press("enter")
        await until(pilot, lambda: says(pilot, "! "))
        assert says(pilot, "nowhere.jsonl")
        assert draft_text(pilot, "data_file") == ""


async def test_a_changed_ctx_len_is_counted_anew(make_app: MakeApp, pair: Path) -> None:
    app = make_app(start="wizard", draft={"data_file": "pairs"})
    async with app.run_test() as pilot:
        await until(pilot, lambda: says(pilot, "No document is cut"))
        app.draft.put("ctx_len", "5")
        await pilot.press("ctrl+n", "ctrl+p")
        await until(pilot, lambda: says(pilot, "ctx_len 5 cuts 24 documents"))


async def test_quitting_ends_a_conversion_and_leaves_nothing(make_app: MakeApp, place: Path) -> None:
    source = big_jsonl(place)
    before = sorted(p.name for p in place.iterdir())
    async with make_app(source=source).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "convert this once"))
        await pilot.press("f4")
        await until(pilot, lambda: says(pilot, "1 of 2: reading"))
        await until(pilot, lambda: sorted(p.name for p in place.iterdir()) != before)  # it writes
    for _ in range(100):
        if sorted(p.name for p in place.iterdir()) == before:
            return
        await asyncio.sleep(0.1)
    pytest.fail(str(sorted(place.iterdir())))


CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": "A\n\nnumber"},
        ]
    }
    for n in range(9)
]


@pytest.fixture
def chat(place: Path) -> Path:
    """Nine conversations and one that lacks its answer."""
    rows = [*CHAT, {"messages": [{"role": "user", "content": "?"}]}]
    (place / "chat.json").write_text(json.dumps(rows))
    return place / "chat.json"


async def test_kind_findings_and_template_are_shown(make_app: MakeApp, chat: Path) -> None:
    async with make_app(source=chat).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "JSON: chat"))
        assert says(pilot, "1 error, ! 1 warning below")
        assert says(pilot, "row 10: its last message has no answer")
        assert says(pilot, "Assistant: {assistant}")


async def test_documents_are_seen_token_by_token(make_app: MakeApp, chat: Path) -> None:
    async with make_app(source=chat, draft={"loss_mask": "qa"}).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "JSON: chat"))
        await pilot.press("f7")
        await until(pilot, lambda: says(pilot, "Document 1 (row 1): "))
        assert says(pilot, "▶ A⏎\nnumber■[0]")
        await pilot.press("right")
        await until(pilot, lambda: says(pilot, "Document 2 (row 2): "))
        await pilot.press("g", "9", "9", "enter")
        await until(pilot, lambda: says(pilot, "has no document 99. It has 9"))
        await pilot.press("left")
        await until(pilot, lambda: says(pilot, "Document 1 (row 1): "))
        await pilot.press("escape")
        assert says(pilot, "JSON: chat")


async def test_a_template_is_edited_kept_and_used(make_app: MakeApp, chat: Path, place: Path) -> None:
    (place / "template.txt").write_text("somebody's")
    async with make_app(source=chat).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "JSON: chat"))
        await pilot.press("f6")
        area = pilot.app.screen.query_one(TextArea)
        assert "Instruction: {instruction}" in area.text
        area.text = "Human: {user}\n\nAssistant: {assistant}"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: says(pilot, "Human: What is 0?"))
        assert (place / "template.txt").read_text() == "somebody's"
        assert (place / "template-2.txt").read_text().startswith("Human: {user}")
        pilot.app.screen.query_one("#fields", Input).focus()
        await write(pilot, "text=nothing")
        await pilot.press("enter")
        await until(pilot, lambda: says(pilot, 'row 1: no "nothing" in it') and says(pilot, "0 documents"))
        assert not pilot.app.screen.query_one("#convert").display


async def test_a_table_is_converted_with_fields_said_by_hand(make_app: MakeApp, place: Path) -> None:
    (place / "t.csv").write_text("frage,antwort\na,b\nc,d\n")
    async with make_app(source=place / "t.csv").run_test() as pilot:
        await until(pilot, lambda: says(pilot, 'it has "frage", "antwort"'))
        pilot.app.screen.query_one("#fields", Input).focus()
        await write(pilot, "prompt=frage,answer=antwort")
        await pilot.press("enter")
        await until(pilot, lambda: says(pilot, "convert this once"))
        await pilot.press("f4")
        await until(pilot, lambda: draft_text(pilot, "data_file") == "t")
        assert "frage" in (place / "t.idx.json").read_text()


async def test_all_of_a_big_file_is_checked_when_asked_and_can_be_stopped(
    make_app: MakeApp, place: Path
) -> None:
    async with make_app(source=big_jsonl(place)).run_test() as pilot:
        await until(pilot, lambda: says(pilot, "F8 reads all of it"))
        await pilot.press("f8")
        await until(pilot, lambda: says(pilot, "Checking all of it: "))
        await pilot.press("escape")
        await until(pilot, lambda: says(pilot, "convert this once"))
        await pilot.press("f8")
        await until(pilot, lambda: not says(pilot, "F8 reads all of it") and says(pilot, "convert this once"))
