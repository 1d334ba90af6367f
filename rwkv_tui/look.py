"""How the program looks: its themes, signs that any font has, and no colours where they are not wanted."""

from __future__ import annotations

import re
import unicodedata

from rich import _wrap
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter
from textual.theme import Theme
from textual.widgets import Input

# All colours are among the 256 that every terminal of today knows, so nothing shifts over SSH.
THEMES = (
    Theme(
        name="dark", primary="#5fafd7", secondary="#87afaf", accent="#d7af5f",
        success="#87af5f", warning="#d7af5f", error="#d75f5f",
        foreground="#d0d0d0", background="#121212", surface="#1c1c1c", panel="#262626",
        variables={
            "footer-key-foreground": "#5fafd7", "footer-background": "#262626", "border": "#444444",
            "border-blurred": "#444444", "block-cursor-blurred-background": "#303030",
        },
    ),
    Theme(
        name="light", dark=False, primary="#005f87", secondary="#5f8787", accent="#875f00",
        success="#5f8700", warning="#af5f00", error="#af0000",
        foreground="#1c1c1c", background="#ffffff", surface="#eeeeee", panel="#e4e4e4",
        variables={
            "footer-key-foreground": "#005f87", "footer-background": "#e4e4e4", "border": "#b2b2b2",
            "border-blurred": "#b2b2b2", "block-cursor-blurred-background": "#dadada",
        },
    ),
    Theme(
        name="contrast", primary="#00ffff", secondary="#ffffff", accent="#ffff00",
        success="#00ff00", warning="#ffff00", error="#ff5f5f",
        foreground="#ffffff", background="#000000", surface="#1c1c1c", panel="#262626",
        luminosity_spread=0.3, text_alpha=1.0,
        variables={
            "footer-key-foreground": "#ffff00", "footer-background": "#000000", "border": "#ffffff",
            "border-blurred": "#ffffff", "block-cursor-blurred-background": "#444444",
            "text-muted": "#ffffff",
        },
    ),
)  # fmt: skip

PLAIN_SIGNS = {
    "✓": "v", "✗": "x", "✂": "%", "·": ".", "•": "*", "…": "~", "–": "-", "—": "-", "‹": "<", "›": ">",
    "←": "<", "→": ">", "↑": "^", "↓": "v", "▲": "^", "▼": "v", "▶": ">", "◀": "<", "■": "#", "◆": "@",
    "●": "O", "○": "o", "◐": "%", "◷": "@", "▦": "#", "⏎": "$", "≤": "<", "≥": ">", "×": "x", "°": "'",
    "±": "~", "²": "2", "━": "=", "“": '"', "”": '"', "’": "'",
    "\N{RIGHT-POINTING MAGNIFYING GLASS}": "/ ", "⭘": "O", "◉": "*", "↺": "@",
}  # fmt: skip
"""Signs of this program and of its toolkit; lines, blocks and braille follow from their names."""


class _Signs(dict[int, str]):
    """For `str.translate`. What a person's own text holds beside such signs stays as it is."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        if not sign.isascii():
            sign = PLAIN_SIGNS.get(sign) or _drawn(code) or sign
        self[code] = sign
        return sign


def _drawn(code: int) -> str:
    """An ASCII sign for a piece of a picture: lines, blocks, and dots."""
    if 0x2800 <= code <= 0x28FF:
        return _dots(code - 0x2800)
    name = unicodedata.name(chr(code), "")
    if name.startswith("BOX DRAWINGS"):  # unsaid
        upright, level = ("VERTICAL" in name, "HORIZONTAL" in name)
        single = upright != level and not {"LEFT", "RIGHT", "UP", "DOWN"} & set(name.split())
        return ("|" if upright else "-") if single else "+"
    if "SHADE" in name:
        return {"LIGHT": ".", "MEDIUM": "+", "DARK": "%"}[name.split()[0]]
    if "BLOCK" in name or "QUADRANT" in name:
        return _block(name)
    return ""


def _block(name: str) -> str:
    """By how much of the cell it fills, and where."""
    if name.startswith("UPPER"):
        return "'"
    if name.startswith("RIGHT"):
        return "|"
    heights = {"ONE EIGHTH": 1, "ONE QUARTER": 2, "THREE EIGHTHS": 3, "HALF": 4, "FIVE EIGHTHS": 5}  # unsaid
    part = next((n for words, n in heights.items() if words in name), 8)
    return "_.,-=+##"[part - 1] if name.startswith("LOWER") else "|" if part <= 2 else "#"


def _dots(bits: int) -> str:
    """A stroke that goes where most of the two by four dots are."""
    rows = [bool(bits & mask) for mask in (0x09, 0x12, 0x24, 0xC0)]
    top, bottom = any(rows[:2]), any(rows[2:])
    if bits.bit_count() >= 6:
        return "#"
    if top and bottom:
        return "|" if all(rows) else "+" if bits.bit_count() > 2 else ":"
    if top:
        return "'" if rows[0] else "-"
    return "." if rows[3] else "-" if bottom else " "


class PlainSigns(LineFilter):
    """Writes what is drawn in ASCII, for fonts and terminals that know no more."""

    def __init__(self, enabled: bool) -> None:
        super().__init__(enabled)
        self._signs = _Signs()

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment if segment.text.isascii()
            else Segment(segment.text.translate(self._signs), segment.style, segment.control)
            for segment in segments
        ]  # fmt: skip


class NoColours(LineFilter):
    """Keeps bold, underlined and reversed, and writes no colour at all, as NO_COLOR asks."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(text, style.without_color if style else None, control)
                for text, style, control in segments]  # fmt: skip


def still_cursors() -> None:
    """A cursor that blinks would have the line it stands in written twice a second, for ever."""
    Input.cursor_blink = False  # type: ignore[assignment]  # of all lines, the palette's too


_HAN = "\u2e80-\u2fff\u3040-\u30ff\u3100-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_OPENING = "\uff08\u300c\u300e\u3010\u3008\u300a"  # brackets
_CLOSING = "\u3001\u3002\uff0c\uff0e\uff1a\uff1b\uff1f\uff01\uff09\u300d\u300f\u3011\u3009\u300b\uff05"
_WORD = re.compile(
    rf"\s*(?:[{_OPENING}]*(?:[{_HAN}][{_CLOSING}…]*|[^\s{_HAN}{_OPENING}{_CLOSING}]+[{_CLOSING}]*)"
    rf"|[{_OPENING}{_CLOSING}]+)\s*"
)


def break_between_signs() -> None:
    """Lets lines of Chinese and Japanese end after any sign that may end one, not at spaces only.

    What the toolkit takes for a word is one pattern of a library below it, and nothing of its own.
    """
    _wrap.re_word = _WORD
