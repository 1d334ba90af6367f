"""`eval` reads whatever training reads, and packs the weights when asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.__main__ import main
from engine.data.tokenizer import Tokenizer


def loss(model: Path, data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, float]:
    code = main(
        ["evaluate", "--model", str(model), "--data", str(data), "--ctx-len", "16", "--json", *more]
    )  # fmt: skip
    told = capsys.readouterr()
    assert code == 0, told.err
    found: dict[str, float] = json.loads(told.out)
    return found


def test_the_same_documents_give_the_same_loss(
    tiny_model: Path, tiny_jsonl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.data.convert import convert

    convert(tiny_jsonl, tmp_path / "pair", repeat=1, ctx_len=16)
    texts = [json.loads(line)["text"] for line in tiny_jsonl.read_text(encoding="utf-8").splitlines()]
    ids = [token for text in texts for token in (*Tokenizer().encode(text), 0)]
    np.save(tmp_path / "ids.npy", ids)
    np.array(ids, "<u2").tofile(tmp_path / "ids.raw")
    (tmp_path / "book.txt").write_text(texts[0], encoding="utf-8")
    pair = loss(tiny_model, tmp_path / "pair.bin", capsys)
    assert pair["documents"] == 12
    for data, more in (
        (tiny_jsonl, ()),
        (tmp_path / "ids.npy", ()),
        (tmp_path / "ids.raw", ("--data-type", "uint16")),
    ):
        found = loss(tiny_model, data, capsys, *more)
        assert found["loss"] == pytest.approx(pair["loss"], abs=1e-5) and found["tokens"] == pair["tokens"]
    book = loss(tiny_model, tmp_path / "book.txt", capsys, "--data-type", "utf-8")
    assert book["tokens"] == len(Tokenizer().encode(texts[0]))  # windows: the whole text, and its end
    packed = loss(tiny_model, tiny_jsonl, capsys, "--quant", "nf4")
    assert packed["loss"] != pair["loss"] and packed["loss"] == pytest.approx(pair["loss"], rel=0.1)


def test_what_is_missing_is_said(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["evaluate", "--model", str(tiny_model), "--data", str(tmp_path / "no.jsonl"), "--ctx-len", "16"]
    )
    err = capsys.readouterr().err
    assert code == 1 and "no.jsonl" in err and err.count("\n") == 1
    code = main(["evaluate", "--model", "x", "--data", "x", "--ctx-len", "16", "--quant", "int4"])
    assert code == 1 and "use one of none, int8, nf4" in capsys.readouterr().err
