"""Scripts for RWKV-PEFT: what a shell would make of them, what their flags mean here, and ours back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.contract.incumbent import FOREIGN, RENAMED, RESPELLED, on_one_device, read_flags
from engine.contract.script import ScriptRun, read_script, write_script
from engine.contract.settings import TrainSettings, train_params
from engine.contract.shell import read_commands
from tests.contract.test_settings import flags

# The appendix of the tutorial: what its values are and how it is laid out.
APPENDIX = """\
load_model='/home/rwkv/RWKV-PEFT/model/RWKV-x070-World-0.4B-v2.9-20250107-ctx4096.pth'
proj_dir='/home/rwkv/RWKV-PEFT/output-manjuan/lora'
data_file='/home/rwkv/RWKV-PEFT/data/test-1'

n_layer=24
n_embd=1024

micro_bsz=4
epoch_save=1
epoch_steps=1000
ctx_len=512

lora_config='{"lora_load":"","lora_r":32,"lora_alpha":64,"lora_dropout":0.01}'


python train.py --load_model $load_model \\
--proj_dir $proj_dir --data_file $data_file \\
--vocab_size 65536 \\
--n_layer $n_layer --n_embd $n_embd \\
--data_type binidx --dataload pad --loss_mask pad \\
--ctx_len $ctx_len --micro_bsz $micro_bsz \\
--epoch_steps $epoch_steps --epoch_count 1 --epoch_begin 0 --epoch_save $epoch_save \\
--lr_init 2e-5 --lr_final 2e-5 --warmup_steps 0 --beta1 0.9 --beta2 0.99 --adam_eps 1e-8 \\
--accelerator gpu --devices 1 --precision bf16 --strategy deepspeed_stage_1 --grad_cp 1 \\
--my_testing "x070" \\
--peft lora --lora_config $lora_config \\
# The following are optional
# --op cuda/fla/triton (choose different operators, default is cuda)
# --wandb RWKV-PEFT-LoRA (whether to use wandb to monitor the training process)
# --quant int8/nf4 (whether to quantize the training)
# --lr_schedule wsd (whether to enable cosine annealing)
"""
STATE = APPENDIX.replace("--peft lora --lora_config $lora_config", '--train_type "state"').replace(
    "--lr_init 2e-5 --lr_final 2e-5", "--lr_init 1 --lr_final 0.01"
)
EXPECTED: dict[str, Any] = {
    "load_model": Path("/home/rwkv/RWKV-PEFT/model/RWKV-x070-World-0.4B-v2.9-20250107-ctx4096.pth"),
    "proj_dir": Path("/home/rwkv/RWKV-PEFT/output-manjuan/lora"),
    "data_file": Path("/home/rwkv/RWKV-PEFT/data/test-1"),
    "vocab_size": 65536, "n_layer": 24, "n_embd": 1024, "data_type": "binidx", "dataload": "pad",
    "loss_mask": "pad", "ctx_len": 512, "micro_bsz": 4, "epoch_steps": 1000, "epoch_count": 1,
    "epoch_begin": 0, "epoch_save": 1, "lr_init": 2e-5, "lr_final": 2e-5, "warmup_steps": 0, "beta1": 0.9,
    "beta2": 0.99, "adam_eps": 1e-8, "accelerator": "gpu", "devices": 1, "precision": "bf16",
    "strategy": "auto", "grad_cp": 1, "my_testing": "x070", "peft": "lora",
    "lora_config": {"lora_load": "", "lora_r": 32, "lora_alpha": 64, "lora_dropout": 0.01},
}  # fmt: skip


def words(script: str) -> list[list[str]]:
    return [[w.text for w in command.words] for command in read_commands(script)]


def only(script: str) -> ScriptRun:
    (run,) = read_script(script).runs
    return run


def test_the_appendix_gives_exactly_its_values() -> None:
    run = only(APPENDIX)
    assert TrainSettings.model_validate(run.values) == TrainSettings.model_validate(EXPECTED)
    assert run.values.keys() == EXPECTED.keys()  # nothing else was said, nothing was made up
    assert run.notes == (
        "line 24: --strategy: deepspeed_stage_1 spreads a run over devices; with one it is auto",
    )


def test_its_state_tuning_form_becomes_a_preset() -> None:
    run = only(STATE)
    assert run.problems == ()
    text = run.to_yaml("From the tutorial.")
    assert "lr_init: 1.0" in text and "train_type: state" in text and "ctx_len: 512" in text
    assert TrainSettings.model_validate(run.values).method == "state"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("a b  c", [["a", "b", "c"]]),
        ("a 'b  c'\"d e\"f g\\ h", [["a", "b  cd ef", "g h"]]),
        ("x=1 y='2 3'\na $x $y \"$y\" ${x}4 $x$y", [["a", "1", "2", "3", "2 3", "14", "12", "3"]]),
        ("a \\\n b \\\n# c\n d", [["a", "b"], ["d"]]),
        ("a \\\r\n b\r\nx='1'\r\nc $x\r\n", [["a", "b"], ["c", "1"]]),
        ("a # b\n#c\nd#e", [["a"], ["d#e"]]),
        ("a; b && c || d | e & f", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]),
        ("a b > log 2>&1 c", [["a", "b", "c"]]),
        ("e=''\na $e '' \"$e\" b$e", [["a", "", "", "b"]]),
        ("export x=5; a $x", [["a", "5"]]),
        ("x=1\nx+=2\na $x", [["a", "12"]]),
        ('j=\'{"r":8,"x":""}\'\na $j', [["a", '{"r":8,"x":""}']]),
        ('a "$HOME/m" \'$x\' "\\$x" $', [["a", "~/m", "$x", "$x", "$"]]),
        ('a "$@"b', [["a", "b"]]),
    ],
)
def test_a_script_is_read_as_a_shell_reads_it(script: str, expected: list[list[str]]) -> None:
    assert words(script) == expected


SAFE = st.text("ab=\"'\\ $x{}#\n;-1", max_size=30)


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell to compare with")
@settings(max_examples=60, deadline=None)
@given(st.lists(SAFE, min_size=1, max_size=3), st.text("ab 1", max_size=5))
def test_words_are_those_a_real_shell_makes(parts: list[str], value: str) -> None:
    """Compared with sh, for lines that it takes. `p` prints its words; nothing else may be a command."""
    line = " ".join(parts).replace("\n", " ")
    script = f"x='{value}'; b=; a=; p {line}"
    done = subprocess.run(
        [shutil.which("sh") or "sh", "-c", "p() { printf '%s\\037' $# \"$@\"; exit 0; }\n" + script],
        capture_output=True, text=True, check=False, env={"PATH": ""}, timeout=10,
    )  # fmt: skip
    try:
        command = read_commands(script)[0]
    except UserError:
        return  # a quote that is never closed: sh refuses it as well, or never gets there
    if done.returncode or done.stderr or any(w.unknown for w in command.words) or command.environment:
        return
    ours = [w.text for w in command.words][1:]
    assert [str(len(ours)), *ours] == done.stdout.split("\037")[:-1]


@pytest.mark.parametrize("source", ["$(touch X)", "`touch X`", "$UNSET", "${UNSET:-5}", "$1", "$((1+1))"])
def test_what_only_a_shell_knows_is_named_and_left_out(source: str, tmp_path: Path) -> None:
    run = only(
        f'LR={source}\npython train.py --ctx_len 9 --lr_init "$LR" --data_file {source}/x --peft state'
    )
    assert {"data_file"}.isdisjoint(run.values) and run.values["ctx_len"] == "9"
    said = [note for note in run.notes if "only a shell knows" in note]
    assert [note.split(":")[1].strip() for note in said] == ["--lr_init", "--data_file"]
    assert not (tmp_path / "X").exists() and not Path("X").exists()


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--ds_bucket_mb 200", "left out"), ("--my_pile_stage 0", "left out"), ("--dropout 0.0", "left out"),
        ("--weight_decay_final -1", "left out"), ("--layerwise_lr 1", "left out"),
        ("--dim_att 0", "left out"),
        ("--fla", "left out"), ("--state_tune", "--train_type state"),
        ("--rwkv_version x070", "--my_testing"),
        ("--disha_config {}", "--lora_config"),
        ("--lr_schedule cos", "cos_decay"), ("--random_seed -1", "written 0"),
        ("--warmup_steps -1", "written 0"),
        ("--lr_schedule wsd", "last fifth"),
    ],
)  # fmt: skip
def test_what_is_different_is_said_and_runs(flag: str, says: str) -> None:
    name = flag.partition(" ")[0]
    run = only(f"python train.py --train_type state {flag} --ctx_len 9")
    assert run.problems == () and run.values["ctx_len"] == "9"
    assert any(says in note and note.startswith(f"line 1: {name}") for note in run.notes), run.notes


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--ctxlen 9", "did you mean --ctx_len"), ("--nonsense", "no such flag"),
        ("--my_qa_mask 1", "--loss_mask qa"), ("--data_shuffle 0", "shuffled"), ("--sft_field a b", "jsonl"),
        ("--lora_r 8", "--lora_config"), ("--layerwise_lr 0", "twice"), ("--beta1", "has no value"),
        ("--num_nodes", "has no value"), ("--quant int3", "none of its values"),
        ("--data_type wds_img", "images"),
        ("--preset x", "cannot begin with another"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_with_its_line(flag: str, says: str) -> None:
    run = only(f"# one\npython train.py --train_type state \\\n {flag}")
    assert any(says in p.message and p.message.startswith("line 3: ") for p in run.problems), run.problems


def test_flags_that_never_reached_the_command_are_told() -> None:
    script = read_script("python train.py --train_type state \\\n# note \\\n--ctx_len 9 --op fla\necho done")
    assert "ctx_len" not in script.runs[0].values or script.runs[0].values["ctx_len"] != "9"
    said = " ".join(script.notes)
    assert (
        "line 3: `--ctx_len 9 --op fla` stands by itself" in said and "line 4: `echo done` is not run" in said
    )


def test_what_a_script_leaves_out_is_what_train_py_would_take() -> None:
    run = only("python train.py --load_model m.pth --lr_init 1e-4 --lr_final 1e-5 --precision fp32")
    settings = TrainSettings.model_validate(run.values)
    assert (settings.method, settings.micro_bsz, settings.epoch_count, settings.grad_cp) == (
        "full",
        12,
        500,
        False,
    )
    assert "train_type none" in run.notes[-1]
    assert TrainSettings.model_validate(only("rwkv-tune train --ctx_len 9").values).method == "state"


def test_contradictions_and_risks_are_told() -> None:
    run = only("python train.py --peft lora --train_type state --warmup_steps 9999999")
    assert "train_type" in {p.field for p in run.problems}
    assert any("warmup_steps" in note and "risky" in note for note in run.notes)


def test_what_stands_around_the_command_is_told() -> None:
    script = read_script(
        "cd x\nCUDA_VISIBLE_DEVICES=1 torchrun --n 4 train.py --train_type state > log 2>&1 &"
    )
    said = "\n".join(script.notes)
    for part in ("`cd x` is not run", "CUDA_VISIBLE_DEVICES=1", "torchrun --n 4", "redirection"):
        assert part in said


def test_each_command_of_a_script_is_a_run() -> None:
    one, two = read_script("c=8\npython train.py --ctx_len $c\nc=9\npython3 src/train.py --ctx_len=$c").runs
    assert (one.values["ctx_len"], two.values["ctx_len"], one.line, two.line) == ("8", "9", 2, 4)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("", "no training command"), ("echo train.py_", "no training command"),
        ("python train.py '", "line 1"),
        ('a\n"b', "line 2"), ("cat <<E\nx\nE", "here-document"), ("a $(b", "line 1"), ("a `b", "line 1"),
        ("a='" + "x" * 999 + "'\n" + "a=$a$a\n" * 60 + "python train.py $a", "KiB"),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_read_says_so(script: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_script(script)


PIECES = st.sampled_from(
    [*"\"'`$(){}#\\\n\r;&|<> =-\0\x1b", "$x", "${x}", "$(", "x=", "x+=", "--", "--ctx_len", "--fla",
     "--sft_field", "python", "train.py", "rwkv-tune train ", "--preset", "9", "é", "\\\n", "\ud800",
     "--lora_config '{'"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=4), max_size=40).map("".join))
def test_no_script_crashes_the_reader(script: str) -> None:
    try:
        found = read_script("python train.py " + script)
    except UserError:
        return
    assert all(note.isprintable() for note in found.notes)
    for run in found.runs:
        assert all(str(p).isprintable() and len(str(p)) < 2000 for p in run.problems)
        if not run.problems:
            TrainSettings.model_validate(run.values)


@settings(deadline=None)
@given(flags(), st.text(max_size=30))
def test_an_exported_script_means_the_same_settings(values: dict[str, Any], title: str) -> None:
    wanted = TrainSettings(**values)
    run = only(write_script(values, title))
    assert not run.notes or all("risky" in note for note in run.notes)
    assert TrainSettings.model_validate(run.values) == wanted
    assert list(run.values) == list(values)


def test_one_device_needs_no_strategy() -> None:
    assert on_one_device({"strategy": "deepspeed_stage_2"})[0]["strategy"] == "auto"
    for kept in (
        {"strategy": "deepspeed_stage_1", "devices": "2"},
        {"strategy": "deepspeed_stage_1", "num_nodes": "2"},
        {"strategy": "deepspeed_stage_3_offload"},
        {},
    ):
        assert on_one_device(kept) == (kept, [])


def test_the_tables_name_what_is_no_parameter_and_give_real_values() -> None:
    stale = sorted((FOREIGN.keys() | RENAMED.keys()) & train_params().keys())
    assert stale == [], (
        f"these are parameters now: delete their lines in engine/contract/incumbent.py: {stale}"
    )
    for (name, old), new in RESPELLED.items():
        choices = train_params()[name].choices
        assert not choices or (new in choices and old not in choices)
        TrainSettings.model_validate({name: new})
    for name, value in RENAMED.values():
        assert name in train_params() and (value is None or value in train_params()[name].choices)


def test_own_flags_stay_and_the_last_value_counts() -> None:
    reading = read_flags(
        ["--preset", "--x", "--json", "--ctx_len", "1", "--ctx_len=2"], {"--preset": True, "--json": False}
    )
    assert (reading.rest, reading.values, reading.problems) == (
        ["--preset", "--x", "--json"],
        {"ctx_len": "2"},
        [],
    )
