"""How a pair was made, and whether it still is that pair."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.data.binidx import write_pair
from engine.data.convert import convert
from engine.data.origin import inspect_pair, read_origin
from tests.conftest import Command


def test_the_description_says_what_a_person_needs_to_make_it_again(
    rwkv_tune: Command, tiny_jsonl: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_jsonl, tmp_path / "b.jsonl")
    done = rwkv_tune("data", "convert", tiny_jsonl, "b.jsonl", "--out", "x", "--weights", "1,2", "--seed", 3,
                     "--held-out", 1, "--repeat", 2, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(rwkv_tune("data", "inspect", "x", "--json").stdout)
    origin, made = report["origin"], json.loads(done.stdout)
    assert (report["items"], report["tokens"], report["differs"]) == (made["items"], made["tokens"], [])
    assert (origin["seed"], origin["repeat"], origin["held_out"], origin["part"]) == (3, 2, 1, "train")
    assert origin["tokenizer"] == "rwkv_vocab_v20230424" and origin["made_by"].startswith("rwkv-tune ")
    assert [(s["path"], s["weight"]) for s in origin["sources"]] == [
        (str(tiny_jsonl), 1.0),
        (str(tmp_path / "b.jsonl"), 2.0),
    ]
    digest = hashlib.sha256(tiny_jsonl.read_bytes()).hexdigest()
    assert {s["sha256"] for s in origin["sources"]} == {digest}
    assert {s["documents"] for s in origin["sources"]} == {12}

    said = rwkv_tune("data", "inspect", "x-val").stdout
    assert "1 items" in said and "the documents held out by --held-out 1" in said and digest in said


def test_a_foreign_pair_is_inspected_as_well(rwkv_tune: Command, tmp_path: Path) -> None:
    with write_pair(tmp_path / "x") as writer:
        writer.add(b"\x05\x00\x00\x00")
        writer.add(b"\xff\xff\x01\x00")
    done = rwkv_tune("data", "inspect", "x")
    assert done.returncode == 0, done.stderr
    assert rwkv_tune("data", "inspect", "x.bin").stdout == done.stdout  # as train takes it
    assert "2 items of 2 to 2 tokens" in done.stdout and "largest id 65,535" in done.stdout
    assert "! 1 item does not end with token 0" in done.stdout and "not known" in done.stdout


def test_a_description_of_another_pair_is_told(rwkv_tune: Command, tiny_jsonl: Path, tmp_path: Path) -> None:
    convert(tiny_jsonl, tmp_path / "x", repeat=1)
    convert(tiny_jsonl, tmp_path / "y", repeat=2)
    (tmp_path / "y.idx.json").replace(tmp_path / "x.idx.json")
    assert "items 24 there, 12 in the pair" in inspect_pair(tmp_path / "x", 512).differs
    done = rwkv_tune("data", "inspect", "x")
    assert done.returncode == 1 and "of another pair: items 24" in done.stdout


def test_what_is_damaged_is_named(tiny_jsonl: Path, tmp_path: Path) -> None:
    convert(tiny_jsonl, tmp_path / "x", repeat=1)
    (tmp_path / "x.idx.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"x\.idx\.json, .* none of rwkv-tune's"):
        read_origin(tmp_path / "x")
    with (tmp_path / "x.bin").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(UserError, match="truncated or belongs to other data"):
        inspect_pair(tmp_path / "x", 512)
