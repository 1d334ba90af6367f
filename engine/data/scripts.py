"""Which scripts documents are written in: counted letter by letter, of many documents at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.contract.i18n import N_

SCRIPTS = {
    N_("Latin"): "AZazÀɏ", N_("Han"): "㐀䶿一鿿", N_("Kana"): "ぁヿ",
    N_("Hangul"): "가힣", N_("Cyrillic"): "ЀӿԀԯ", N_("Greek"): "ͰϿ", N_("Arabic"): "؀ۿ",
    N_("Hebrew"): "א״", N_("Thai"): "ก๛", N_("Indic"): "ऀ෿",
}  # fmt: skip
"""Their names, and the first and last letters of their ranges."""

PART = 1 << 18
"""Characters that are looked at together; what is counted at once takes some 30 bytes for each."""


@functools.cache
def _table() -> NDArray[np.uint8]:
    """The script of each character, 0 for what is no letter of these; the last for all above."""
    table = np.zeros(1 << 16, np.uint8)
    for number, ranges in enumerate(SCRIPTS.values(), 1):
        for first, last in zip(ranges[::2], ranges[1::2], strict=True):
            table[ord(first) : ord(last) + 1] = number
    return table


def letters(texts: Sequence[str]) -> NDArray[np.int64]:
    """Of each text the letters of each script [n, len(SCRIPTS)]."""
    joined, width = "".join(texts), len(SCRIPTS) + 1
    ends = np.cumsum([len(text) for text in texts])
    counts = np.zeros(len(texts) * width, np.int64)
    for start in range(0, len(joined), PART):
        part = np.frombuffer(joined[start : start + PART].encode("utf-32-le"), "<u4")
        lengths = np.diff(np.clip(ends, start, start + len(part)), prepend=start)
        script = _table()[np.minimum(part, len(_table()) - 1)]
        owner = np.repeat(np.arange(0, len(counts), width), lengths)
        counts += np.bincount(owner + script, minlength=len(counts))
    return counts.reshape(-1, width)[:, 1:]
