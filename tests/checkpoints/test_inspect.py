"""What a .pth file is, read from its header; every wrong file is called what it is."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.checkpoints.header import TensorInfo, read_header
from engine.checkpoints.inspect import LAYER_SHAPES, Version, inspect_model, inspect_state
from engine.checkpoints.save import save_tensors
from engine.contract.errors import UserError
from engine.models import load_model
from engine.models.init import init_model

SIZES = {
    "V": 80,
    "D": 96,
    "H": 3,
    "N": 32,
    "F": 336,
    "M": 16,
    "Q": 24,
    "w": 8,
    "a": 8,
    "v": 8,
    "g": 8,
    "5M": 80,
    "1": 1,
    "5": 5,
}


def checkpoint(version: Version, n_layer: int = 2) -> dict[str, Tensor]:
    """All tensors of a version, zeros."""

    def zeros(spec: str) -> Tensor:
        return torch.zeros([SIZES[word] for word in spec.split()], dtype=torch.bfloat16)

    tensors = {"emb.weight": zeros("V D"), "head.weight": zeros("V D")}
    for norm in ("blocks.0.ln0", "ln_out"):
        tensors |= {f"{norm}.weight": zeros("D"), f"{norm}.bias": zeros("D")}
    for layer in range(n_layer):
        tensors |= {f"blocks.{layer}.{name}": zeros(spec) for name, spec in LAYER_SHAPES[version].items()}
    return tensors


def saved(tensors: object, path: Path, **options: bool) -> Path:
    torch.save(tensors, path, **options)
    return path


@pytest.mark.parametrize("version", ["x052", "x060", "x070"])
def test_a_model_is_recognised_with_its_dimensions(version: Version, tmp_path: Path) -> None:
    tensors = checkpoint(version)
    info = inspect_model(saved(tensors, tmp_path / "m.pth"))
    assert (info.version, info.n_layer, info.n_embd, info.head_size, info.vocab_size) == (
        version,
        2,
        96,
        32,
        80,
    )
    assert (info.dtype, info.parameters) == ("bfloat16", sum(t.numel() for t in tensors.values()))
    assert load_model(tmp_path / "m.pth").n_layer == 2
    assert info.file_bytes == (tmp_path / "m.pth").stat().st_size


def test_an_initialised_model_is_recognised_and_may_lack_what_block_0_does_not_use(tmp_path: Path) -> None:
    tensors = init_model("x070", 2, 64, vocab_size=70)
    for name in ("v0", "v1", "v2"):
        del tensors[f"blocks.0.att.{name}"]
    tensors["blocks.1.att.time_state"] = torch.zeros(1, 64, 64)  # a merged state
    save_tensors(tensors, tmp_path / "m.pth")
    info = inspect_model(tmp_path / "m.pth")
    assert (info.version, info.n_embd, info.head_size, info.dtype) == ("x070", 64, 64, "float32")


def test_a_parameter_and_an_old_ordered_dict_are_read(tmp_path: Path) -> None:
    path = saved(torch.nn.Linear(3, 2).state_dict(), tmp_path / "a.pth")
    assert read_header(path) == {"weight": TensorInfo((2, 3), "float32"), "bias": TensorInfo((2,), "float32")}
    path = saved({"p": torch.nn.Parameter(torch.zeros(4, 5).half())}, tmp_path / "b.pth")
    assert read_header(path) == {"p": TensorInfo((4, 5), "float16")}


LARGEST = {"V": 65536, "D": 4096, "H": 64, "N": 64, "F": 14336, "M": 64, "5M": 320, "Q": 128, "5": 5, "1": 1}


def test_the_largest_released_model_takes_milliseconds(tmp_path: Path) -> None:
    """All tensors of the 14B model, each a view of one number: the description is that of the real file."""

    def shaped(spec: str) -> Tensor:
        return torch.zeros((), dtype=torch.bfloat16).expand([LARGEST[word] for word in spec.split()])

    tensors = {"emb.weight": shaped("V D"), "head.weight": shaped("V D")}
    for norm in ("blocks.0.ln0", "ln_out"):
        tensors |= {f"{norm}.weight": shaped("D"), f"{norm}.bias": shaped("D")}
    for layer in range(61):
        tensors |= {f"blocks.{layer}.{name}": shaped(spec) for name, spec in LAYER_SHAPES["x060"].items()}
    path = saved(tensors, tmp_path / "14B.pth")
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        info = inspect_model(path)
        taken.append(time.perf_counter() - begin)
    assert min(taken) < 0.5
    assert (info.version, info.n_layer, info.size_name) == ("x060", 61, "14B")
    assert 14e9 < info.parameters < 15e9


def test_size_does_not_matter(tmp_path: Path) -> None:
    """A sparse file of 20 GB: only its directory and its pickle are read."""
    path = tmp_path / "large.pth"
    shape = (20 << 30,)
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        small = saved({"x": torch.zeros(1, dtype=torch.uint8)}, tmp_path / "small.pth")
        described = zipfile.ZipFile(small).read("small/data.pkl")
        one, many = b"K\x01", b"\x8a\x05" + shape[0].to_bytes(5, "little")
        archive.writestr(
            "large/data.pkl",
            described.replace(one + b"t", many + b"t").replace(one + b"\x85", many + b"\x85", 1),
        )
        archive.writestr("large/data/0", b"")
    content = path.read_bytes()
    start = content.rindex(b"PK\x01\x02")
    entry = bytearray(content[start:])
    entry[20:28] = struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF)
    name_length = struct.unpack("<H", entry[28:30])[0]
    entry[30:32] = struct.pack("<H", 20)
    extra = struct.pack("<HHQQ", 1, 16, *shape, *shape)
    entry[46 + name_length : 46 + name_length] = extra
    end = entry.rindex(b"PK\x05\x06")
    length = struct.unpack("<I", entry[end + 12 : end + 16])[0] + 20
    entry[end + 12 : end + 16] = struct.pack("<I", length)
    path.write_bytes(content[:start] + bytes(entry))
    begin = time.perf_counter()
    assert read_header(path) == {"x": TensorInfo(shape, "uint8")}
    assert time.perf_counter() - begin < 0.5


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def _not_zips(tmp: Path) -> dict[str, tuple[bytes, str]]:
    legacy = saved({"a": torch.zeros(3)}, tmp / "legacy", _use_new_zipfile_serialization=False).read_bytes()
    whole = saved(checkpoint("x070"), tmp / "whole").read_bytes()
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return {
        "empty": (b"", "is empty"),
        "noise": (os.urandom(64) + b"x", "is not a .pth file"),
        "one byte": (b"\x80", "is not a .pth file"),
        "web": (b"<!DOCTYPE html><html>", "is a web page"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        "gguf": (b"GGUF\x03\0\0\0", "GGUF"),
        "legacy": (legacy, "before 1.6"),
        "pickle": (pickle.dumps(RunsCode(tmp / "ran")), "bare pickle"),
        "safetensors": (len(header).to_bytes(8, "little") + header + bytes(4), "safetensors"),
        "truncated": (whole[: len(whole) // 2], "incomplete"),
        "one byte short": (whole[:-30], "incomplete"),
    }


def test_files_that_are_no_torch_zip_are_called_what_they_are(tmp_path: Path) -> None:
    for name, (content, said) in _not_zips(tmp_path).items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        begin = time.perf_counter()
        with pytest.raises(UserError, match=said) as error:
            inspect_model(path)
        assert time.perf_counter() - begin < 1
        assert str(path) in str(error.value)
        assert error.value.remedy
    assert not (tmp_path / "ran").exists()


def _zips(tmp: Path) -> dict[str, tuple[object, str]]:
    x070, x060 = checkpoint("x070"), checkpoint("x060")
    v4 = {
        "emb.weight": torch.zeros(9, 8),
        "blocks.0.att.time_decay": torch.zeros(8),
        "blocks.0.att.time_first": torch.zeros(8),
    }
    v5 = {"blocks.0.att.time_decay": torch.zeros(3), "blocks.0.att.ln_x.weight": torch.zeros(8)}
    return {
        "code": ({"a": RunsCode(tmp / "ran")}, "mkdir"),
        "class": ({"a": Path("x")}, "pathlib"),
        "list": ([torch.zeros(2)], "no dictionary"),
        "nothing": ({}, "no dictionary"),
        "training state": ({"model": x070, "step": 3}, "more than tensors"),
        "state": ({"blocks.0.att.time_state": torch.zeros(3, 32, 32)}, "is a state file"),
        "lora": ({"blocks.0.att.key.lora_A": torch.zeros(4, 96)}, "adapter"),
        "peft": ({"base_model.model.blocks.0.att.key.lora_A.weight": torch.zeros(4, 96)}, "adapter"),
        "bone": ({"blocks.0.att.key.bone": torch.zeros(4, 96)}, "adapter"),
        "v4": (v4, "RWKV-4"),
        "v5.0": (v5, "5.0 or 5.1"),
        "v5.1": (v5 | {"blocks.0.att.time_decay": torch.zeros(3, 1)}, "5.0 or 5.1"),
        "shard": ({"model.layers.0.mlp.weight": torch.zeros(2, 2)}, "Hugging Face"),
        "hf shard": ({"rwkv.blocks.0.attention.key.weight": torch.zeros(2, 2)}, "Hugging Face"),
        "something": ({"conv1.weight": torch.zeros(2, 2)}, "not an RWKV model.*conv1"),
        "no embedding": ({k: t for k, t in x070.items() if k != "emb.weight"}, "lacks emb.weight"),
        "no layer": ({k: t for k, t in x070.items() if "s.0." not in k}, r"lacks blocks\.0\."),
        "no tensor": ({k: t for k, t in x060.items() if "1.att.gate" not in k}, "blocks.1.att.gate"),
        "one layer with a hole": (x070 | {"blocks.9.att.k_k": torch.zeros(1, 1, 96)}, r"lacks blocks\.2\."),
        "wide": (x070 | {"blocks.1.att.key.weight": torch.zeros(96, 97)}, r"key.weight is \[96, 97\]"),
        "flat": (x070 | {"blocks.1.att.w0": torch.zeros(96)}, r"blocks.1.att.w0 is \[96\]"),
        "odd": (x060 | {"blocks.1.att.time_maa_w1": torch.zeros(96, 81)}, "time_maa_w1"),
        "heads": (x070 | {f"blocks.{i}.att.r_k": torch.zeros(2, 32) for i in range(2)}, "2 heads of 32"),
        "more": (x070 | {"blocks.0.ffn.s_emb.weight": torch.zeros(4)}, "s_emb.weight, which no x070"),
    }  # fmt: skip


def test_torch_files_that_are_no_model_are_called_what_they_are(tmp_path: Path) -> None:
    for name, (content, said) in _zips(tmp_path).items():
        path = saved(content, tmp_path / f"{name}.pth")
        begin = time.perf_counter()
        with pytest.raises(UserError, match=said):
            inspect_model(path)
        assert time.perf_counter() - begin < 1
    assert not (tmp_path / "ran").exists()


def test_other_zips_and_paths(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("word/document.xml", "x")
    os.mkfifo(tmp_path / "pipe.pth")
    for path, said in (
        (tmp_path / "zip.pth", "zip archive, but not torch's"),
        (tmp_path / "pipe.pth", "is not a file"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.pth", "no file"),
        (tmp_path / "zip.pth" / "x", "Cannot read|no file"),
    ):
        with pytest.raises(UserError, match=said):
            inspect_model(path)


def test_missing_data_and_damaged_descriptions(tmp_path: Path) -> None:
    source = saved({"a": torch.zeros(300)}, tmp_path / "good.pth")
    for name, drop, change in (
        ("data", "good/data/0", b""),
        ("pickle", "", b"\x80\x02}q\x00X"),
        ("dots", "", b"\x80\x02."),
    ):
        path = tmp_path / f"{name}.pth"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.namelist():
                content = old.read(entry)
                if entry.endswith(".pkl") and change:
                    content = change
                if entry != drop:
                    new.writestr(entry, content)
        with pytest.raises(UserError, match="damaged"):
            inspect_model(path)


def test_a_state_is_read(tmp_path: Path) -> None:
    state = {f"blocks.{i}.att.time_state": torch.zeros(3, 16, 16) for i in range(4)}
    info = inspect_state(saved(state, tmp_path / "s.pth"))
    assert (info.n_layer, info.n_head, info.head_size, info.dtype) == (4, 3, 16, "float32")
    hole = {k: t for k, t in state.items() if ".2." not in k}
    other = state | {"blocks.3.att.time_state": torch.zeros(3, 16, 8)}
    for content, said in (
        (hole, r"lacks blocks\.2\."),
        (other, r"is \[3, 16, 8\] instead of \[3, 16, 16\]"),
        (checkpoint("x070"), "is not a state file"),
        (state | {"emb.weight": torch.zeros(2)}, "more than a state"),
    ):
        with pytest.raises(UserError, match=said):
            inspect_state(saved(content, tmp_path / "w.pth"))


def test_torch_is_never_imported(tmp_path: Path) -> None:
    model, state = saved(checkpoint("x060"), tmp_path / "m.pth"), tmp_path / "s.pth"
    saved({"blocks.0.att.time_state": torch.zeros(3, 32, 32)}, state)
    code = (
        "import sys; from engine.checkpoints.inspect import inspect_model, inspect_state\n"
        f"inspect_model({str(model)!r}); inspect_state({str(state)!r})\n"
        "assert not any(name.split('.')[0] in ('torch', 'numpy') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
