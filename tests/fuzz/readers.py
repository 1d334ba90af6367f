"""Readers of files that others may have made: valid inputs, words of the format, and how they are called."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from engine.contract import events
from engine.contract.rundir import RunDir
from tests.fakes import stories

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Reader:
    """`open` prepares a reader of bytes in a folder of its own; what is wrong with them is a UserError."""

    valid: Callable[[], list[bytes]]
    words: list[bytes]
    open: Callable[[Path], Read]


def saved(content: object) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


# The index of a pair


def _indices() -> list[bytes]:
    sizes, doc = np.array([3, 1, 4], "<i4"), np.arange(4, dtype="<i8")
    pointers = (np.cumsum(sizes) - sizes).astype("<i8") * 2
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, 3, 4)
    return [header + sizes.tobytes() + pointers.tobytes() + doc.tobytes()]


def _open_idx(folder: Path) -> Read:
    from engine.data.binidx import BinIdx

    (folder / "pair.bin").write_bytes(np.arange(8, dtype="<u2").tobytes())

    def read(data: bytes) -> object:
        (folder / "pair.idx").write_bytes(data)
        pair = BinIdx(folder / "pair")
        return [pair.item(number) for number in range(min(len(pair), 9))]

    return read


# A file of tensors: as a whole, and the pickle in it

OPCODES = [getattr(pickle, name) for name in dir(pickle) if isinstance(getattr(pickle, name), bytes)]


def _tensors() -> list[object]:
    import torch

    state = {f"blocks.{i}.att.time_state": torch.zeros(1, 2, 2) for i in range(2)}
    return [state, torch.nn.Linear(2, 2).state_dict(), {"blocks.0.att.key.lora_A": torch.ones(2, 3)}]


def _open_pth(folder: Path) -> Read:
    from engine.checkpoints.header import read_header
    from engine.checkpoints.inspect import inspect_state
    from engine.checkpoints.save import load_tensors

    path = folder / "x.pth"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        found = read_header(path)
        load_tensors(path)
        return inspect_state(path) if all("time_state" in name for name in found) else found

    return read


def _pickles() -> list[bytes]:
    archives = (zipfile.ZipFile(io.BytesIO(saved(content))) for content in _tensors())
    return [archive.read("archive/data.pkl") for archive in archives]


def _open_pickle(folder: Path) -> Read:
    read = _open_pth(folder)

    def wrapped(data: bytes) -> object:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            for name in ("0", "1"):
                archive.writestr(f"archive/data/{name}", bytes(16))
            archive.writestr("archive/version", "3\n")
        return read(file.getvalue())

    return wrapped


# Text


def _open_rows(folder: Path) -> Read:
    from engine.data.rows import Document, open_corpus
    from engine.data.tokenizer import Tokenizer

    tokenizer = Tokenizer()
    file = (folder / "rows").open("wb", buffering=0)

    def read(data: bytes) -> object:
        file.seek(0)
        file.truncate(file.write(data))  # opening it anew for each input would take most of the time
        found = open_corpus([folder / "rows"]).documents()
        return [tokenizer.encode(one.text) for _, one in found if isinstance(one, Document)]

    return read


ROWS = [
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n{"text": "a"}',
    b'[{"instruction": "a", "input": "", "output": "b"}, {"prompt": "a", "completion": "b\\u00e9"}]',
    '{\n "conversations": [{"from": "human", "value": "é"}, {"from": "gpt", "value": "说"}]\n}\n'.encode(),
    b'question,answer\n"a\n""b""",c\nd,e\n',
    "# Title\r\n\r\nWords — é\n".encode(),
]
PACKERS = (gzip.compress, zstandard.compress)
JSONL = [
    '{"text": "User: a\\n\\nAssistant: b \\ud83d\\ude00"}\n{"text": "é🎉"}\r\n'.encode(),
    b'\xef\xbb\xbf{"n": 1e9, "text": "x", "list": [1, {"a": null}]}\n\n{"text": "y"}',
]


def _open_preset(_: Path) -> Read:
    from engine.contract.presets import parse_yaml, render_yaml
    from engine.contract.settings import TrainSettings

    def read(data: bytes) -> object:
        values = parse_yaml(data.decode("utf-8", "replace"), "preset")
        return render_yaml(TrainSettings.model_validate(values), "again")

    return read


PRESETS = [
    b"# Mine.\nctx_len: 512\nlr_init: 1e-4\npeft: lora\npeft_config: {r: 8}\n",
    b'load_model: a b.pth\nmask_id: \'{"mask0":"1"}\'\nbeta1: 0.9\n',
]
YAML = (
    b"&a |*a|!!int |!!python/object:os.system |? |- |: |<<: |2001-99-99|1:99|0xffffffffffffffff|!!binary |"
    b"--- |%YAML 9.9\n|!!set |!!omap |.inf|.nan|~|1_0|!!timestamp |\t|'|>\n "
).split(b"|")  # fmt: skip


def _open_script(_: Path) -> Read:
    from engine.contract.script import read_script

    def read(data: bytes) -> object:
        return read_script(data.decode("utf-8", "replace"))

    return read


SCRIPTS = [
    b"#!/bin/sh\nM=a.pth\nexport X=1\npython train.py --load_model $M --n_layer 24 \\\n --peft lora "
    b"--lora_config '{\"lora_r\":8}' --micro_bsz 4 > log\n",
    b'a="$a$a"\nrwkv-tune train --ctx_len=${N} --proj_dir "$(pwd)/x" && torchrun train.py --lr_init 1e-4\n',
]
SHELL = b"$a ${ } $( ` ' \" \\\n <<E\n && a+= --my_testing --quant {1..9} * --a=$a # ; | & >".split(b" ")


# A run's own files


def _story() -> list[bytes]:
    told = [*stories.preparing(), *stories.opening(), *stories.stepping(Path("/run"), 1, 3)]
    told += [events.Resumed(step=1), *stories.ending(Path("/run"), steps=3, files=1)]
    lines = [events.dump_event(event).encode() for event in told]
    return [b"".join(lines), *lines]


def _open_events(folder: Path) -> Read:
    from rwkv_tui.commands.follow import describe
    from rwkv_tui.plain import duration
    from rwkv_tui.services.run_tail import RunModel, RunTail, RunWatch
    from rwkv_tui.services.runs import summarise

    run = RunDir(folder)

    def read(data: bytes) -> object:
        run.events.write_bytes(data)
        model = RunModel()
        for event in RunTail(run).poll():
            model.apply(event)
            describe(event)
        times = [time.localtime(line.t) for line in model.log]
        watch = RunWatch(run)
        watch.poll()
        left = watch.model.seconds_left
        return (
            summarise("run", run),
            times,
            duration(watch.model.elapsed),
            left is not None and duration(left),
        )

    return read


def _points() -> list[bytes]:
    import torch

    parts = {
        "parameters": {"a": torch.ones(2)},
        "gradients": {},
        "callbacks": {"x": (1, 2.0)},
        "seconds": 1.0,
    }
    return [
        saved({"step": 3, **parts, "optimizer": {"state": {}}, "rng": {"cpu": torch.get_rng_state()[:64]}})
    ]


def _open_point(folder: Path) -> Read:
    from engine.train.resume import newest_point

    run = RunDir(folder)

    def read(data: bytes) -> object:
        run.resume_file(3).write_bytes(data)
        run.resume_digest(3).write_text(sha256(data).hexdigest())  # the sender knows how to make one, too
        return newest_point(run, lambda _: None)

    return read


# An adapter's folder


def _configs() -> list[bytes]:
    lora = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": "x",
        "rank_pattern": {},
        "bias": "none",
    }
    return [
        json.dumps(config).encode() for config in (lora, {"peft_type": "MISS", "r": 2, "init_weights": True})
    ]


def _weights() -> dict[str, Any]:
    import torch

    return {
        f"base_model.model.a.lora_{n}.weight": torch.ones(shape)
        for n, shape in (("A", (2, 3)), ("B", (3, 2)))
    }


def _open_config(folder: Path) -> Read:
    from safetensors.torch import save_file

    from engine.checkpoints.adapter import read_adapter

    save_file(_weights(), folder / "adapter_model.safetensors")

    def read(data: bytes) -> object:
        (folder / "adapter_config.json").write_bytes(data)
        return read_adapter(folder)

    return read


def _open_weights(folder: Path) -> Read:
    from engine.checkpoints.adapter import read_adapter

    (folder / "adapter_config.json").write_bytes(_configs()[0])

    def read(data: bytes) -> object:
        (folder / "adapter_model.safetensors").write_bytes(data)
        return read_adapter(folder)

    return read


def _safetensors() -> list[bytes]:
    from safetensors.torch import save

    return [save(_weights(), {"format": "pt"})]


def _open_npy(folder: Path) -> Read:
    from engine.data.sources import read_tokens

    path = folder / "x.npy"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        found = read_tokens(path, "numpy")
        return [found.item(number) for number in range(min(len(found), 9))]

    return read


def _arrays() -> list[bytes]:
    found = []
    for array in (np.arange(9, dtype=np.uint16), np.zeros((2, 2)), np.array([{}], dtype=object)):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        found.append(file.getvalue())
    return found


JSON = [
    b"1e999",
    b"NaN",
    b"-1",
    b"9" * 400,
    b"null",
    b"[",
    b"[]",
    b"{}",
    b'"\\u001b[31m"',
    b"1e300",
    b"true",
    b"0",
]
BINARY = {
    "idx": Reader(_indices, [b"MMIDIDX", bytes(8)], _open_idx),
    "pth": Reader(lambda: [*map(saved, _tensors())], [b"PK\1\2", b"PK\3\4", b"PK\5\6", *OPCODES], _open_pth),
    "pickle": Reader(_pickles, [*OPCODES, b"cposix\nsystem\n"], _open_pickle),
    "resume": Reader(_points, OPCODES, _open_point),
    "npy": Reader(_arrays, [b"'<u2'", b"'|O'", b"'V9'", b"(9,)", b"()", *JSON], _open_npy),
}
TEXT = {
    "rows": Reader(
        lambda: [*JSONL, *ROWS, *(pack(ROWS[0]) for pack in PACKERS)],
        [*JSON, b"\\ud800", b"\n", b'"text"', b"\xff", b'"', b","],
        _open_rows,
    ),
    "preset": Reader(lambda: PRESETS, YAML, _open_preset),
    "script": Reader(lambda: SCRIPTS, SHELL, _open_script),
    "events": Reader(_story, [*JSON, b"\n", b'"step"', b'"resumed"', b'"finished"'], _open_events),
}
ADAPTER = {
    "config": Reader(_configs, [*JSON, b'"megatron_config"', b'"LOHA"', b'"(a+)+"'], _open_config),
    "safetensors": Reader(_safetensors, [*JSON, b'"F64"', b'"U8"'], _open_weights),
}
