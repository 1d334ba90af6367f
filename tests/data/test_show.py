"""A document as tokens, exactly as training cuts and masks it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.data.binidx import BinIdx, write_pair
from engine.data.convert import convert
from engine.data.dataset import IGNORED, PadDataset, WindowDataset
from engine.data.plan import DataPlan
from engine.data.show import show_document

TEXTS = ["User: 问 🙂\n\nAssistant: 👩‍👩‍👧‍👦 yes", "User: a\nUser: b\n\nAssistant: c\n\nUser: d", "x"]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    convert(folder / "a.jsonl", folder / "a", repeat=2)
    return folder / "a"


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 40), st.sampled_from(["pad", "qa", "none"]))
def test_it_is_what_a_run_learns(prefix: Path, number: int, ctx_len: int, loss_mask: str) -> None:
    shown = show_document([prefix], number, DataPlan(ctx_len, loss_mask))
    data = BinIdx(prefix)
    _, targets = PadDataset(data, ctx_len, loss_mask)[number - 1]
    assert [token.id for token in shown.tokens] == data.item(number - 1).tolist()
    seen = [token for token in shown.tokens if token.kind != "cut"]
    learned = [place for place, target in enumerate(targets.tolist(), 1) if target != IGNORED]
    assert [i for i, token in enumerate(seen) if token.kind == "trained"] == [
        i for i in learned if seen[i].kind != "end"
    ]
    assert len(seen) == len(targets) + 1 and shown.padding == ctx_len + 1 - len(seen)
    assert (shown.tokens[-1].kind == "end") == (shown.size <= ctx_len + 1)
    assert (shown.documents, shown.where) == (6, f"document {number}")


@settings(max_examples=60)
@given(st.data(), st.integers(1, 40), st.sampled_from(["pad", "qa", "none"]))
def test_a_window_is_what_a_run_learns(prefix: Path, draw: st.DataObject, ctx_len: int, mask: str) -> None:
    data = BinIdx(prefix)
    windows = WindowDataset(data, ctx_len, mask)
    number = draw.draw(st.integers(1, len(windows)))
    shown = show_document([prefix], number, DataPlan(ctx_len, mask, windows=True))
    inputs, targets = windows[number - 1]
    ids, kinds = [token.id for token in shown.tokens], [token.kind for token in shown.tokens]
    assert ids == [*inputs.tolist(), data.stream[(number - 1) * ctx_len + len(targets)]]
    learned = [False, *(target != IGNORED for target in targets.tolist())]
    expected = [
        "end" if not t else "trained" if one else "masked" for t, one in zip(ids, learned, strict=True)
    ]
    assert kinds == expected
    assert (shown.documents, shown.size, shown.window) == (len(windows), len(ids), True)
    assert shown.padding == ctx_len + 1 - len(ids)
    assert bool(shown.notice) == (number > 1)


def test_a_window_says_where_ctx_len_cuts_and_which_documents_join_in_it(tmp_path: Path) -> None:
    with write_pair(tmp_path / "d") as writer:
        for size in (5, 3, 30):
            writer.add(np.arange(1, size + 1, dtype="<u2").tobytes())
    plan = DataPlan(10, "none", windows=True)
    where = [show_document([tmp_path / "d"], number, plan).where for number in (1, 2, 3, 4)]
    assert where == [
        "from token 1 of document 1 to token 3 of document 3", "tokens 3 to 13 of document 3",
        "tokens 13 to 23 of document 3", "tokens 23 to 30 of document 3",
    ]  # fmt: skip
    assert not show_document([tmp_path / "d"], 1, plan).notice
    assert "val_split" in show_document([tmp_path / "d"], 1, plan._replace(held_out=True)).notice
    for number in (0, 5):
        with pytest.raises(UserError, match=f"no window {number}. It has 4: give a number from 1 to 4"):
            show_document([tmp_path / "d"], number, plan)


def test_of_what_is_not_converted_windows_are_not_known_yet(prefix: Path) -> None:
    shown = show_document([prefix.with_suffix(".jsonl")], 2, DataPlan(2, "pad", windows=True))
    assert "".join(token.text for token in shown.tokens[:-1]) == TEXTS[1]
    assert {token.kind for token in shown.tokens} == {"trained", "end"}  # the first one, too
    assert (shown.window, shown.padding) == (False, 0) and "windows of 2 tokens" in shown.notice


def test_bytes_that_are_no_character_are_shown_in_hex(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "\U0001f9ff\U00013000"}), "utf-8")
    shown = show_document([tmp_path / "a.jsonl"], 1, DataPlan())
    raw = b"".join(
        bytes.fromhex(t.text) if not t.text.isprintable() or t.text.isascii() else t.text.encode()
        for t in shown.tokens
    )
    assert raw.decode() == "\U0001f9ff\U00013000"


def test_rows_are_shown_before_they_are_converted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\nbad\nc,d\n")
    shown = show_document([tmp_path / "a.csv"], 2, DataPlan())
    assert "".join(token.text for token in shown.tokens) == "User: c\n\nAssistant: d"
    assert (shown.where, shown.documents) == ("line 4", None)
    for number in (0, 3):
        with pytest.raises(UserError, match=f"no document {number}. It has 2: give a number from 1 to 2"):
            show_document([tmp_path / "a.csv"], number, DataPlan())


def test_a_pair_without_that_document(prefix: Path) -> None:
    for number in (0, 7, -1):
        with pytest.raises(UserError, match=f"no document {number}. It has 6: give a number from 1 to 6"):
            show_document([prefix], number, DataPlan())
