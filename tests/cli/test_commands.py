"""The commands as a person types them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.events import Finished, Started, Step, parse_event
from rwkv_tui.cli import main, parse
from rwkv_tui.commands import doctor
from tests.conftest import Command

COMMANDS = """train; resume; runs; attach; stop; logs; rm; eval; chat; merge; export; demo; doctor; keys;
              data lint; data show; data template; data convert; data inspect; model inspect; model init;
              preset list; preset show; preset save; preset import; preset export; preset delete"""


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that was refused."""
    assert done.returncode == 1 and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


def test_convert(rwkv_tune: Command, tiny_jsonl: Path, tmp_path: Path) -> None:
    out = ok(
        rwkv_tune("data", "convert", tiny_jsonl, "--out", "set", "--repeat", 3, "--ctx-len", 16, "--json")
    )
    report = json.loads(out)
    assert (report["documents"], report["items"], report["dtype"]) == (12, 36, "uint16")
    assert report["tokens"] * 2 == (tmp_path / "set.bin").stat().st_size
    prime = report["magic_prime"]
    assert prime % 3 == 2 and prime <= report["tokens"] // 16 - 1
    assert "already" in refused(rwkv_tune("data", "convert", tiny_jsonl, "--out", "set"))


def test_convert_names_bad_lines(rwkv_tune: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nnonsense\n{"txt": "b"}\n')
    done = rwkv_tune("data", "convert", "bad.jsonl", "--out", "set")
    assert done.returncode == 1 and "2" in done.stderr and "--skip-bad" in done.stderr
    assert not list(tmp_path.glob("*.bin"))
    report = json.loads(ok(rwkv_tune("data", "convert", "bad.jsonl", "--out", "set", "--skip-bad", "--json")))
    assert (report["documents"], report["skipped"]) == (1, 2)


def test_lint_says_what_where_and_what_to_do(rwkv_tune: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\nhi,there\nhi,there\nho,\n\x1b[31mred,no\n")
    done = rwkv_tune("data", "lint", "a.csv", "--fields", "prompt=q,answer=a", "--epoch-steps", 9)
    assert (done.returncode, done.stderr) == (1, "")
    assert "CSV: fields prompt=q,answer=a" in done.stdout and "3 documents" in done.stdout
    assert "1 row has no answer\n    line 4: a is empty\n  Write it" in done.stdout
    assert "line 3: the same as line 2" in done.stdout
    assert "U+001B at character 7" in done.stdout and "\x1b" not in done.stdout
    flags = ("--fields", "text=q", "--ctx_len", 1, "--json")
    report = json.loads(ok(rwkv_tune("data", "lint", "a.csv", *flags)))
    assert {f["code"] for f in report["findings"]} == {"duplicate", "control", "cut", "few"}
    done = rwkv_tune("data", "lint", "a.csv")
    assert done.returncode == 1 and "4 rows have no fields to learn from" in done.stdout
    (tmp_path / "b.jsonl").touch()
    assert "b.jsonl is empty" in refused(rwkv_tune("data", "lint", "b.jsonl"))
    assert "--ctx" in refused(rwkv_tune("data", "lint", "a.csv", "--ctx", 1))
    assert "ctx_len: 0 is out of range" in refused(rwkv_tune("data", "lint", "a.csv", "--ctx-len", 0))


def test_show_prints_tokens_and_template_the_template(rwkv_tune: Command, tiny_data: Path) -> None:
    out = ok(rwkv_tune("data", "show", tiny_data, 24, "--loss-mask", "qa", "--ctx-len", 60))
    assert "Document 24 of 24: " in out and "\n· User:" in out and "\n▶ " in out and "\n■ [0]" in out
    shown = json.loads(ok(rwkv_tune("data", "show", tiny_data, 24, "--ctx_len", 2, "--json")))
    assert [token["kind"] for token in shown["tokens"]][:4] == ["masked", "trained", "trained", "cut"]
    assert "no document 25" in refused(rwkv_tune("data", "show", tiny_data, 25))
    flags = ("--loss-mask", "qa", "--ctx-len", 30, "--dataload", "get")
    out = ok(rwkv_tune("data", "show", tiny_data, 2, *flags))
    assert "Window 2 of " in out and "31 tokens, from token " in out and "\n■ [0]\n· User:" in out
    assert "val_split" in ok(rwkv_tune("data", "show", tiny_data, 2, *flags, "--val_split", 0.1))
    assert "no window 0" in refused(rwkv_tune("data", "show", tiny_data, 0, *flags))
    lint = ok(rwkv_tune("data", "lint", tiny_data, *flags))
    assert "windows of ctx_len 30 from the documents laid end to end" in lint and "longer" not in lint
    assert ok(rwkv_tune("data", "template")).startswith("System: {system}\n\nUser: {user}\n")


def test_model_init_and_inspect(rwkv_tune: Command) -> None:
    shape = ("--version", "x060", "--n-layer", 2, "--n-embd", 128, "--vocab-size", 300)
    ok(rwkv_tune("model", "init", *shape, "--out", "new.pth"))
    info = json.loads(ok(rwkv_tune("model", "inspect", "new.pth", "--json")))
    assert info["version"] == "x060" and info["size_name"].endswith("K")
    assert (info["n_layer"], info["n_embd"], info["head_size"], info["vocab_size"]) == (2, 128, 64, 300)
    assert "exists" in refused(rwkv_tune("model", "init", *shape, "--out", "new.pth"))
    assert "no.pth" in refused(rwkv_tune("model", "inspect", "no.pth"))


def test_eval_is_the_mean_over_the_target_tokens(
    rwkv_tune: Command, tiny_model: Path, tiny_data: Path
) -> None:
    import torch

    from engine.data.binidx import BinIdx
    from engine.models import load_model

    report = json.loads(
        ok(rwkv_tune("eval", "--model", tiny_model, "--data", tiny_data, "--ctx-len", 9, "--json"))
    )
    data, model = BinIdx(tiny_data), load_model(tiny_model)
    total, count = 0.0, 0
    for i in range(len(data)):
        tokens = torch.from_numpy(data.item(i).astype("int64"))[:10]
        logits = model(tokens[None, :-1])[0].double()
        total += float(torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum"))
        count += len(tokens) - 1
    assert report["tokens"] == count
    assert report["loss"] == pytest.approx(total / count, abs=1e-5)
    assert report["perplexity"] == pytest.approx(math.exp(report["loss"]))


def test_train_prints_events_as_json(
    rwkv_tune: Command, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    preset = tmp_path / "own.yaml"
    preset.write_text(
        "# Mine.\nctx_len: 16\nepoch_steps: 3\nmicro_bsz: 2\nprecision: fp32\nwarmup_steps: 1\n"
    )
    flags = ("--load_model", tiny_model, "--data_file", tiny_data, "--proj_dir", "run", "--epoch_count", 1)
    out = ok(rwkv_tune("train", "--preset", preset, *flags, "--micro_bsz", 4, "--json"))
    told = [parse_event(line) for line in out.splitlines()]
    assert None not in told
    started = next(e for e in told if isinstance(e, Started))
    assert (started.plan.ctx_len, started.plan.micro_bsz) == (16, 4)  # a flag goes above the preset
    assert [e.step for e in told if isinstance(e, Step)] == [1, 2, 3]
    assert isinstance(told[-1], Finished)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--lr_init", "fast"), "lr_init: 'fast' is not a number"),
        (("--data_type", "wds_img"), "data_type: images are not text"),
        (("--micro_bsz", "0"), "micro_bsz: 0 is out of range"),
        (("--ctxlen", "9"), "--ctxlen"),
        (("--preset", "nope"), "no preset 'nope'"),
        ((), "load_model: is not set"),
    ],
)
def test_train_refuses_before_anything_starts(
    flags: tuple[str, ...], says: str, rwkv_tune: Command, tmp_path: Path
) -> None:
    assert says in refused(rwkv_tune("train", "--proj_dir", "run", *flags))
    assert not (tmp_path / "run").exists()


def test_presets(rwkv_tune: Command, tmp_path: Path) -> None:
    assert "state-3b" in ok(rwkv_tune("preset", "list"))
    (tmp_path / "mine.yaml").write_text("# Mine.\nctx_len: 16\n")
    ok(rwkv_tune("preset", "save", "mine", "--from", "mine.yaml"))
    assert ok(rwkv_tune("preset", "show", "mine")) == "# Mine.\nctx_len: 16\n"
    assert "mine" in ok(rwkv_tune("preset", "list"))
    ok(rwkv_tune("preset", "delete", "mine"))
    assert "no preset" in refused(rwkv_tune("preset", "show", "mine"))
    (tmp_path / "broken.yaml").write_text("ctx_len: many\n")
    assert "line 1" in refused(rwkv_tune("preset", "save", "broken", "--from", "broken.yaml"))


def test_doctor(
    rwkv_tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deepspeed.py").write_text("raise OSError('libaio.so: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = json.loads(ok(rwkv_tune("doctor", "--json")))
    found = report["engine"]
    assert report["ok"] and found["packages"]["torch"]["version"] and found["optional"]["peft"]["version"]
    assert found["operators"]["wkv7"]["chunked"] == "" and "GPU" in found["operators"]["wkv6"]["triton"]
    monkeypatch.setattr(doctor, "_report", lambda: report)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "A run can start here." in said and "chunked              works" in said
    assert "broken  strategy: deepspeed_stage_1 needs DeepSpeed" in said and "Set strategy to ddp" in said


def test_the_app_refuses_to_start_without_a_terminal(rwkv_tune: Command) -> None:
    assert "terminal" in refused(rwkv_tune())
    assert "terminal" in refused(rwkv_tune("demo"))


@pytest.mark.parametrize("words", ["preset import there", "preset save x --from there"])
def test_a_file_that_cannot_be_read_is_told_in_words(words: str, rwkv_tune: Command, tmp_path: Path) -> None:
    assert "Cannot read there (No such file or directory). " in refused(rwkv_tune(*words.split()))
    (tmp_path / "there").write_bytes(b"\xff\xfe")
    assert "Cannot read there (it is no UTF-8 text). " in refused(rwkv_tune(*words.split()))


@pytest.mark.parametrize("words", COMMANDS.split(";"), ids=str.strip)
def test_every_flag_of_every_command_says_what_it_is_for(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse([*words.split(), "--help"])
    told = capsys.readouterr().out
    assert "  -h, --help " in told
    assert re.findall(r"^  -\S+(?: \S+)*\n(?! {9})", told, re.MULTILINE) == []  # with nothing beside or below


def test_help_names_every_flag(rwkv_tune: Command) -> None:
    from engine.contract.settings import train_params

    text = ok(rwkv_tune("train", "--help"))
    assert all(p.flag in text for p in train_params().values())


@pytest.mark.slow
def test_an_installed_wheel_carries_everything(tmp_path: Path) -> None:
    """Built and unpacked elsewhere, the package finds its presets, styles and demo data."""
    root = Path(__file__).parents[2]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--quiet",
            "--wheel-dir",
            str(tmp_path),
            str(root),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)],
        check=True,
    )
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
from pathlib import Path
import engine, presets, rwkv_tui
assert engine.__file__.startswith({str(site)!r}) and rwkv_tui.__file__.startswith({str(site)!r})
from engine.contract.presets import PresetStore
from engine.demo import data_file
from rwkv_tui.app import TuneApp
print(len(PresetStore(Path("/nonexistent")).all()), data_file("emoji").stat().st_size > 1000)
print(len(list((Path(rwkv_tui.__file__).parent / "styles").glob("*.tcss"))) > 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6", "True", "True"]
