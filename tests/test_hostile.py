"""Files from others: nothing in them is run, and nothing in them or in their names steers the terminal."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
import rwkv_tui
from engine.contract.errors import UserError

SOURCES = [p for package in (engine, rwkv_tui) for p in Path(package.__path__[0]).rglob("*.py")]
LOADS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
NEVER = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "joblib.load", "shelve.open", "runpy.run_path",
}  # fmt: skip
ESCAPE = "\x1b[31m\x1b]0;gotcha\x07\x9b31m\u202e"


def _calls() -> Iterator[tuple[Path, str, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, ast.unparse(node.func), node


def test_no_source_runs_what_it_reads() -> None:
    """The scan itself is tested: it does see the loads that there are."""
    seen = set()
    for path, name, call in _calls():
        assert name not in NEVER, f"{path}:{call.lineno} calls {name}"
        given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if isinstance(k.value, ast.Constant)}
        assert given.get("shell") is not True, f"{path}:{call.lineno} runs a shell"
        if name in LOADS:
            option, value = LOADS[name]
            assert given.get(option) is value, f"{path}:{call.lineno} needs {option}={value}"
            seen.add(name)
    assert seen == set(LOADS)


def test_what_is_printed_is_made_plain_first() -> None:
    """`say` and its kin print; rich's console is given plain text (see `commands/follow`)."""
    writers = {"engine/contract/plain.py", "engine/contract/reference.py"}
    for path, name, call in _calls():
        where = str(path.relative_to(Path(engine.__path__[0]).parent))
        if where not in writers:
            assert name != "print", f"{where}:{call.lineno} prints: use engine.contract.plain.say"


class RunsCode:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files in every format we read; each would make `ran` beside them."""
    import numpy as np
    import torch

    folder = tmp_path_factory.mktemp("hostile")
    code: Any = RunsCode(folder / "ran")
    torch.save({"a": code, "blocks.0.att.key.lora_A": torch.zeros(2, 2)}, folder / "code.pth")
    torch.save({"a": code}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    (folder / "pickle.pth").write_bytes(pickle.dumps(code))
    np.save(folder / "code.npy", np.array([code], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(folder / "code.npz", "w") as archive:
        archive.writestr("a.npy", (folder / "code.npy").read_bytes())
    for name in ("pickled", "megatron", "rank", "endless", "loha"):
        _adapter(folder / name, folder, name)
    (folder / "code.yaml").write_text(f"ctx_len: !!python/object/apply:os.mkdir ['{folder}/ran']\n")
    (folder / "alias.yaml").write_text("wandb: &a [x, x]\npeft_config: [*a, *a]\n")
    make = f"mkdir {folder}/ran"
    (folder / "code.sh").write_text(f"$({make})\npython train.py --proj_dir `{make}`\n")
    return folder


def _adapter(folder: Path, root: Path, kind: str) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "target_modules": "x"}
    if kind == "loha":
        config["peft_type"] = "LOHA"
    if kind == "megatron":  # peft imports the module that megatron_core names
        (root / "its_module.py").write_text(f"import os\nos.mkdir({str(root / 'ran')!r})\n")
        config |= {"megatron_config": {"a": 1}, "megatron_core": "its_module"}
    if kind == "rank":
        config["r"] = 1 << 40
    if kind == "endless":
        config["alpha_pattern"] = {"(([a-z.])+)+!": 1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shapes = {"A": (2, 64), "B": (64, 2)}
    tensors = {f"base_model.model.blocks.0.att.key.lora_{n}.weight": torch.ones(s) for n, s in shapes.items()}
    if kind == "pickled":  # what peft's older files are, under the newer name
        file = io.BytesIO()
        torch.save({"a": RunsCode(root / "ran")}, file)
        (folder / "adapter_model.safetensors").write_bytes(file.getvalue())
        (folder / "adapter_model.bin").write_bytes(file.getvalue())
    else:
        save_file(tensors, folder / "adapter_model.safetensors")


def _engine(*words: object) -> str:
    """What a job of the engine, run in this process, says in refusing."""
    from engine.__main__ import _parser

    args = _parser().parse_args([str(word) for word in words])
    with pytest.raises(UserError) as caught:
        args.job(args)
    return str(caught.value)


@pytest.mark.parametrize("name", ["code.pth", "legacy.pth", "pickle.pth"])
def test_no_command_runs_the_code_in_a_file_of_tensors(
    name: str, hostile: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    from engine.checkpoints.inspect import inspect_model

    path, data, out = hostile / name, ("--data", tiny_data, "--ctx-len", 8), ("--out", tmp_path / "out.pth")
    with pytest.raises(UserError, match=str(path)):
        inspect_model(path)
    for words in (
        ("evaluate", "--model", path, *data),
        ("evaluate", "--model", tiny_model, "--state", path, *data),
        ("evaluate", "--model", tiny_model, "--adapter", path, *data),
        ("merge", "--base", path, "--state", path, *out),
        ("merge", "--base", tiny_model, "--state", path, *out),
        ("merge", "--base", tiny_model, "--adapter", path, *out),
        ("summary", path),
    ):
        assert str(path) in _engine(*words)
    assert not (hostile / "ran").exists() and not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("pickled", "damaged"), ("megatron", "imports a module"), ("rank", "no rank"),
     ("endless", "too involved"), ("loha", "none of LORA and MISS")],
)  # fmt: skip
def test_no_command_obeys_the_folder_of_an_adapter(
    name: str, says: str, hostile: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(hostile)
    told = _engine("merge", "--base", tiny_model, "--adapter", hostile / name, "--out", tmp_path / "out.pth")
    assert says in told and str(hostile / name) in told
    assert not (hostile / "ran").exists() and not (tmp_path / "out.pth").exists()


def test_no_data_file_is_unpickled(hostile: Path) -> None:
    from engine.data.sources import read_tokens

    for name in ("code.npy", "code.npz", "code.pth", "pickle.pth"):
        with pytest.raises(UserError, match=name):
            read_tokens(hostile / name, "numpy")
    assert not (hostile / "ran").exists()


def test_no_preset_and_no_script_is_run(hostile: Path) -> None:
    from engine.contract.presets import PresetStore
    from engine.contract.script import read_script

    for name, says in (("code.yaml", "line 1"), ("alias.yaml", "line 2: an alias")):
        with pytest.raises(UserError, match=says):
            PresetStore(hostile).get(str(hostile / name)).values  # noqa: B018 parsing is what it does
    read_script((hostile / "code.sh").read_text())
    assert not (hostile / "ran").exists()


def test_a_tiny_pickle_takes_no_memory_and_no_time(tmp_path: Path) -> None:
    """A place in the memo far out, and a key that would take for ever to hash."""
    from engine.checkpoints.header import read_header

    for number, body in enumerate((
        b"\x80\x02}r\xff\xff\xff\xff.", b"\x80\x02}(" + b"K\x01" + b"2\x86" * 80 + b"K\x01u.",
        b"\x80\x02}(" + b"K\x01" + b"q\x00h\x00\x86" * 80 + b"K\x01u.",
        b"\x80\x02ccollections\nOrderedDict\n((" + b"K\x01" + b"q\x00h\x00\x86" * 80 + b"K\x01ttR.",
        b"\x80\x02}(X\x01\0\0\0a\x8e" + (1 << 60).to_bytes(8, "little") + b".",
    )):  # fmt: skip
        path = tmp_path / f"{number}.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", body)
        with pytest.raises(UserError, match=path.name):
            read_header(path)


def inert(text: str) -> None:
    assert "gotcha" in text or "name" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e"), repr(text)


@pytest.mark.parametrize(
    "words",
    [
        ("model", "inspect", "{}"), ("data", "convert", "{}", "--out", "x"), ("train", "--load_model", "{}"),
        ("train", "--{}"), ("train", "--preset", "{}"), ("preset", "show", "{}"), ("preset", "import", "{}"),
        ("preset", "save", "x", "--from", "{}"), ("resume", "{}"), ("{}",), ("preset", "delete", "{}"),
    ],
)  # fmt: skip
def test_a_hostile_name_in_a_refusal_is_shown_inert(
    words: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rwkv_tui.cli import main

    assert main([word.format(f"name{ESCAPE}") for word in words]) == 1
    out = capsys.readouterr()
    inert(out.out + out.err)


def test_a_name_that_is_no_utf8_is_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rwkv_tui.cli import main

    name = os.fsdecode(b"name\xff.pth")
    assert main(["model", "inspect", name]) == 1
    assert main(["train", "--load_model", name, "--proj_dir", name]) == 1
    err = capsys.readouterr().err
    assert "name�.pth" in err and "load_model" in err


def test_events_and_json_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    """Every way of showing a run, given texts that steer a terminal."""
    from engine.contract import events
    from rwkv_tui.commands.follow import BarShow, JsonShow, LineShow

    told: list[events.Event] = [
        events.Log(text=f"name{ESCAPE}"), events.Warned(text=f"name{ESCAPE}"),
        events.Progress(phase=f"name[/b]{ESCAPE}", done=1, total=2),
        events.Checkpoint(path=f"name{ESCAPE}", epoch=0, step=1),
        events.Sample(step=1, prompt=f"name{ESCAPE}", base=f"name{ESCAPE}", tuned=f"name{ESCAPE}"),
    ]  # fmt: skip
    for show in (LineShow(), JsonShow(), BarShow()):
        show.open()
        for event in told:
            show.event(event)
            assert events.parse_event(events.dump_event(event)) == event
        show.close()
    shown = capsys.readouterr().out
    assert shown.count("name") > 12
    assert "gotcha" not in shown.replace("\\u001b]0;gotcha\\u0007", "")
    inert(shown)
