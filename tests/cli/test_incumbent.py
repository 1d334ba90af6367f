"""Scripts and command lines of RWKV-PEFT, as a person brings them along."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.errors import SettingsError, UserError
from engine.contract.flags import OWN_FLAGS, given_flags
from engine.contract.risks import risks
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings, train_params
from engine.contract.shell import read_commands
from rwkv_tui.cli import parse
from tests.cli.test_commands import ok
from tests.conftest import Command
from tests.contract.test_script import APPENDIX, EXPECTED, STATE


def test_the_appendix_command_line_is_taken_as_it_is() -> None:
    (command,) = read_commands(APPENDIX)
    assert [w.text for w in command.words[:2]] == ["python", "train.py"]
    args = parse(["train", *(w.text for w in command.words[2:])])
    expected = TrainSettings.model_validate({**EXPECTED, "strategy": "deepspeed_stage_1"})
    assert TrainSettings.model_validate(given_flags(args)) == expected
    assert args.notes == [] and "strategy" in str(risks(expected))


def test_dead_flags_are_named_and_the_rest_is_taken() -> None:
    args = parse(
        shlex.split("train --ds_bucket_mb 200 --ctx_len 9 --fla --my_pile_stage 0 --peft bone --json")
    )
    assert given_flags(args) == {"ctx_len": "9", "peft": "miss"} and args.json
    assert [note.partition(":")[0] for note in args.notes] == [
        "--ds_bucket_mb",
        "--fla",
        "--my_pile_stage",
        "--peft",
    ]


def test_unknown_flags_are_refused_one_by_one_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(shlex.split("train --ctxlen 9 --my_qa_mask 1 --lr_int 1"))
    said = [str(p) for p in caught.value.problems]
    assert "--ctx_len" in said[0] and "--loss_mask qa" in said[1] and "--lr_init" in said[2]
    with pytest.raises(UserError, match="stray"):
        parse(["train", "stray"])


def test_the_flags_of_the_command_itself_are_known(rwkv_tune: Command) -> None:
    """A new one must be in OWN_FLAGS, or it would be refused as unknown. Help fits a narrow terminal."""
    lines = ok(rwkv_tune("train", "--help")).splitlines()
    shown = {w.strip(",") for line in lines for w in line.split()[:2] if line.startswith("  -")}
    flags = {w for w in shown if w.startswith("-")}
    assert flags == OWN_FLAGS.keys() | {p.flag for p in train_params().values()}
    assert all(len(line) <= 81 for line in lines)


def shims(folder: Path) -> dict[str, str]:
    """An environment whose `python train.py` is ours, and whose `rwkv-tune` only prints its words."""
    folder.mkdir()
    ours = f"exec {shlex.quote(sys.executable)} -m rwkv_tui"
    (folder / "python").write_text(f'#!/bin/sh\n[ "$1" = train.py ] && shift && {ours} train "$@"\n')
    (folder / "rwkv-tune").write_text("#!/bin/sh\nprintf '%s\\037' \"$@\"\n")
    for shim in folder.iterdir():
        shim.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def sh(script: Path, *flags: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(script), *map(str, flags)]
    return subprocess.run(command, env=env, cwd=script.parent, capture_output=True, text=True, check=False)


def test_the_script_runs_unchanged_and_as_a_preset_and_as_our_own_script(
    rwkv_tune: Command, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    script = tmp_path / "demo-state-tuning.sh"
    text = STATE.replace("/home/rwkv/RWKV-PEFT/data/test-1", str(tiny_data))
    text = text.replace(EXPECTED["load_model"].as_posix(), str(tiny_model))
    text = text.replace(EXPECTED["proj_dir"].as_posix(), str(tmp_path / "first"))
    text = text.replace("=24", "=2").replace("=1024", "=64").replace("epoch_steps=1000", "epoch_steps=2")
    script.write_text(text.replace("--accelerator gpu", "--accelerator cpu").replace("bf16", "fp32"))
    env = shims(tmp_path / "bin")

    out = ok(sh(script, env=env))
    assert "deepspeed_stage_1 has one device only" in out and "finished after 2 steps" in out
    first = RunDir(tmp_path / "first").read_settings()
    assert (first.strategy, first.micro_bsz, first.method, first.lr_final) == (
        "deepspeed_stage_1", 4, "state", 0.01,
    )  # fmt: skip

    out = ok(rwkv_tune("preset", "import", script))
    assert "line 24: --strategy" in out and "saved as demo-state-tuning" in out
    own = tmp_path / "own.sh"
    own.write_text(ok(rwkv_tune("preset", "export", "demo-state-tuning", "--to", "sh")))
    printed = ok(sh(own, "--proj_dir", tmp_path / "second", env=env)).split("\037")[:-1]
    second = TrainSettings.model_validate(given_flags(parse(printed)))
    assert second == first.model_copy(update={"proj_dir": tmp_path / "second", "strategy": "auto"})


def test_an_import_saves_all_or_nothing(rwkv_tune: Command, tmp_path: Path) -> None:
    script = tmp_path / "my runs.sh"
    script.write_text(
        "python train.py --train_type state --ctx_len 8\npython train.py --ctxlen 9 --data_type wds_img\n"
    )
    done = rwkv_tune("preset", "import", script)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    for part in ("--ctxlen: line 2", "data_type: line 2", "images", "nothing was saved"):
        assert part in done.stderr
    script.write_text("python train.py --train_type state --ctx_len 8\nrwkv-tune train --ctx_len 9\n")
    assert "saved as my-runs-2" in ok(rwkv_tune("preset", "import", script))
    assert "ctx_len: 9" in ok(rwkv_tune("preset", "show", "my-runs-2"))
    assert "already" in refused_after_notes(rwkv_tune("preset", "import", script))
    ok(rwkv_tune("preset", "import", script, "--name", "other"))


def refused_after_notes(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "saved as" not in done.stdout
    return done.stderr


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff\xfe\x00", b"#" * 70_000, b"python train.py '"],
    ids=["missing", "empty", "binary", "large", "open quote"],
)
def test_what_is_no_script_is_refused_in_one_line(
    content: bytes | None, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rwkv_tui.cli import main

    script = tmp_path / "x.sh"
    if content is not None:
        script.write_bytes(content)
    assert main(["preset", "import", str(script)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(home.rglob("*.yaml"))
