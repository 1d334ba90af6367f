from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from engine.contract.plain import same_length
from rwkv_tui.plain import column, duration, one_line, plain, short, size


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = plain(text)
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c != "\n"]
    assert "\u202e" not in shown
    assert "\n" not in one_line(text)


def test_escape_sequences_go_as_a_whole() -> None:
    assert plain("\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b(B\x1b7\r\n[b]é 🎉 中") == "red x\n[b]é 🎉 中"


@given(st.text())
def test_what_has_a_cursor_in_it_keeps_its_length(text: str) -> None:
    shown = same_length(text)
    assert len(shown) == len(text) and shown == plain(shown)


@given(st.text(st.characters(categories=["L", "N", "P"])), st.integers(2, 30), st.booleans(), st.booleans())
def test_a_column_is_as_wide_as_asked(text: str, width: int, ending: bool, right: bool) -> None:
    shown = column(text, width, ending=ending, right=right)
    assert cell_len(shown) == width
    assert shown.strip() == text.strip() if cell_len(text) <= width else "…" in shown


def test_a_column_counts_cells() -> None:
    assert column("数据文件", 6) == "数据… " and column("好的/对话", 6, ending=True) == "…/对话"
    assert column("尺寸", 6, right=True) == "  尺寸"


def test_quantities() -> None:
    assert [duration(s) for s in (7, 750, 11045, 183_840)] == ["0:07", "12:30", "3:04:05", "2 d 03:04"]
    assert [size(b) for b in (0, 1536, 2 * 2**20, 3 * 2**40)] == ["0 B", "1.5 KiB", "2.0 MiB", "3072.0 GiB"]
    assert [short(v) for v in (2.13416, 0.0, 3.2e-5, 1234.5, 9e9)] == [
        "2.134",
        "0",
        "3.2e-05",
        "1234",
        "9.00e+09",
    ]
