"""One declaration of each parameter, and what it refuses."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.check import check_values, require_settings
from engine.contract.errors import SettingsError
from engine.contract.flags import add_flags, command, given_flags
from engine.contract.params import GROUPS
from engine.contract.risks import RULES, risks
from engine.contract.settings import TrainSettings, train_params

# The tutorial's three tables and its appendix script.
TUTORIAL = """
    load_model proj_dir data_file n_layer n_embd micro_bsz epoch_save epoch_steps ctx_len data_type vocab_size
    epoch_count epoch_begin pre_ffn head_qk lr_init lr_final warmup_steps beta1 beta2 adam_eps accelerator
    devices precision strategy grad_cp my_testing dataload train_type op quant wandb loss_mask peft
    lr_schedule lora_config
"""


def problems(**values: Any) -> dict[str, str]:
    return check_values(values, files=False).by_field()


@pytest.mark.parametrize("name", TUTORIAL.split())
def test_every_parameter_of_the_tutorial_is_there(name: str) -> None:
    param = train_params()[name]
    assert param.help.endswith(".") and param.group in GROUPS


def test_the_defaults_are_the_tutorials() -> None:
    s = TrainSettings()
    assert (s.micro_bsz, s.ctx_len, s.epoch_steps, s.epoch_count, s.epoch_save) == (1, 512, 1000, 5, 1)
    assert (s.lr_init, s.lr_final, s.warmup_steps) == (1, 0.01, 10)
    assert (s.beta1, s.beta2, s.adam_eps) == (0.9, 0.99, 1e-8)
    assert s.method == "state"


def test_the_defaults_are_supported() -> None:
    assert problems() == {}


@pytest.mark.parametrize(
    ("given", "level"), [(False, 0), (True, 1), ("false", 0), ("True", 1), ("on", 1), (1.0, 1), ("2", 2)]
)
def test_what_was_once_a_switch_is_still_read(given: object, level: int) -> None:
    read = TrainSettings.model_validate({"grad_cp": given}).grad_cp
    assert read == level and type(read) is int


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"ctxlen": 3}, "ctxlen", "did you mean ctx_len"),
        ({"micro_bsz": 0}, "micro_bsz", ">= 1"),
        ({"micro_bsz": "two"}, "micro_bsz", "whole number"),
        ({"micro_bsz": 1.5}, "micro_bsz", "whole number"),
        ({"lr_init": "fast"}, "lr_init", "a number"),
        ({"beta2": 1}, "beta2", "< 1"),
        ({"grad_cp": 7}, "grad_cp", "0, 1, 2"),
        ({"grad_cp": "half"}, "grad_cp", "0, 1, 2"),
        ({"grad_cp": 1.5}, "grad_cp", "0, 1, 2"),
        ({"quant": "int3"}, "quant", "int8"),
        ({"lora_config": "{"}, "lora_config", "JSON"),
        ({"lr_init": 1e-4}, "lr_final", "lr_init"),
        ({"lr_init": 0, "lr_final": 0}, "lr_init", "nothing"),
        ({"peft": "lora", "train_type": "state"}, "train_type", "contradicts"),
        ({"peft": "state", "train_type": "none"}, "train_type", "contradicts"),
        ({"weight_decay": 0.1}, "weight_decay", "no effect"),
        ({"data_type": "wds_img"}, "data_type", "images"),
        ({"data_type": "utf-8"}, "dataload", "get"),
        ({"data_type": "utf-16le", "dataload": "get", "loss_mask": "qa"}, "loss_mask", "needs documents"),
        ({"data_type": "dummy", "loss_mask": "qa"}, "loss_mask", "needs documents"),
        ({"dataload": "only", "micro_bsz": 2}, "micro_bsz", "set it to 1"),
        ({"loss_mask": "se"}, "mask_id", "two ids"),
        ({"loss_mask": "se", "mask_id": '{"mask0":"5","mask1":"5"}'}, "mask_id", "two ids"),
        ({"loss_mask": "se", "mask_id": '{"mask0":"x","mask1":"5"}'}, "mask_id", "two ids"),
        ({"val_split": 1.5}, "val_split", "whole number"),
        ({"val_split": -1}, "val_split", ">= 0"),
        ({"early_stop": 2}, "early_stop", "val_split"),
    ],
)
def test_what_cannot_run_is_refused_by_name(values: dict[str, Any], field: str, says: str) -> None:
    assert says in problems(**values)[field]


def test_several_problems_are_told_at_once() -> None:
    assert {"micro_bsz", "lr_init"} <= problems(micro_bsz=-1, lr_init="x").keys()


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        require_settings({"load_model": tmp_path / "no.pth", "data_file": tmp_path / "no"})
    text = str(caught.value)
    assert "no.pth" in text and "data convert" in text and "proj_dir: is not set" in text


@pytest.mark.parametrize("suffix", ["", ".bin", ".idx"])
def test_either_half_names_the_data(suffix: str) -> None:
    settings = require_settings({"data_file": f"a/b.c{suffix}"}, files=False)
    assert settings.data_file == Path("a/b.c")


@pytest.mark.parametrize("data_type", ["jsonl", "utf-8", "numpy", "uint16"])
def test_other_types_keep_their_suffix(data_type: str, tmp_path: Path) -> None:
    values = {"data_file": str(tmp_path / "b.bin"), "data_type": data_type, "dataload": "get"}
    assert require_settings(values, files=False).data_file == tmp_path / "b.bin"
    assert str(tmp_path / "b.bin") in check_values(values).by_field()["data_file"]
    (tmp_path / "b.bin").touch()
    assert "data_file" not in check_values(values).by_field()


def test_dummy_data_needs_no_file(tmp_path: Path) -> None:
    assert "data_file" not in check_values({"data_type": "dummy"}).by_field()
    assert {p.field for p in risks(TrainSettings(data_type="dummy", data_file=tmp_path))} == {"data_file"}


def test_a_jsonl_file_where_a_pair_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    said = check_values({"data_file": tmp_path / "a.jsonl"}).by_field()["data_file"]
    assert "data_type to jsonl" in said and "data convert" in said


def test_mask_id_is_the_tutorials_spelling() -> None:
    values = {"loss_mask": "se", "mask_id": '{"mask0":"130","mask1":"131"}'}
    settings = require_settings(values, files=False)
    assert settings.mask_ids == (131, 130)
    assert TrainSettings(mask_id={"mask0": 130, "mask1": 131}).mask_ids == (131, 130)


def test_risky_settings_are_told_and_allowed() -> None:
    said = {p.field for p in risks(TrainSettings(epoch_steps=5, epoch_count=1, lr_init=1e-5, lr_final=1e-6))}
    assert said == {"warmup_steps", "lr_init"}
    decay = TrainSettings(train_type="none", precision="fp32", lr_init=1e-5, lr_final=1e-5, weight_decay=0.1)
    assert [p.field for p in risks(decay)] == ["optimizer"]
    assert risks(decay.model_copy(update={"optimizer": "adamw"})) == []
    assert [p.field for p in risks(TrainSettings(mask_id={"mask0": 1, "mask1": 2}))] == ["mask_id"]
    (one,) = risks(TrainSettings(lr_init=1e-4, lr_final=0))
    assert str(one) == "lr_init: 0.0001 hardly moves a state; 1 is advised"


def test_no_rule_warns_of_the_defaults_and_all_can_be_said() -> None:
    assert risks(TrainSettings()) == []
    assert all(rule.field in train_params() and rule.text.format(s=TrainSettings()) for rule in RULES)


def flags() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={
        "micro_bsz": st.integers(1, 9999), "ctx_len": st.integers(1, 99999),
        "lr_init": st.floats(1e-3, 10).map(lambda x: float(f"{x:g}")), "grad_cp": st.integers(0, 2),
        "lr_schedule": st.sampled_from(train_params()["lr_schedule"].choices),
        "load_model": st.text("ab 'ü\"$\\", min_size=1, max_size=9).map(lambda t: Path("/m") / t),
        "sample_prompt": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    })  # fmt: skip


@given(flags())
def test_the_equivalent_command_means_the_same_settings(values: dict[str, Any]) -> None:
    settings = TrainSettings(**values)
    parser = argparse.ArgumentParser()
    add_flags(parser)
    words = shlex.split(command(settings))
    assert words[:2] == ["rwkv-tune", "train"]
    given_back = given_flags(parser.parse_args(words[2:]))
    assert (
        require_settings({"lr_final": 0.0, **given_back}, files=False).model_copy(
            update={"lr_final": settings.lr_final}
        )
        == settings
    )
