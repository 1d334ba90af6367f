"""The page of parameters is current, and every flag of the tutorial has a test that shows what it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.contract.flags import spell
from engine.contract.i18n import speak
from engine.contract.reference import PAGES, command, render
from engine.contract.settings import train_params
from tests.contract.test_settings import TUTORIAL

ROOT = Path(__file__).parents[2]
CHANGES = "tests/train/test_flags.py::test_the_flag_changes_what_is_trained"
MODEL = "tests/train/test_flags.py::test_what_is_said_of_the_model_is_checked"
FILES = "tests/train/test_flags.py::test_the_files_decide_what_is_read_and_where_it_is_written"

SHOWN_BY = {
    "load_model": FILES,
    "proj_dir": FILES,
    "data_file": FILES,
    "n_layer": MODEL,
    "n_embd": MODEL,
    "vocab_size": MODEL,
    "my_testing": MODEL,
    "micro_bsz": CHANGES,
    "ctx_len": CHANGES,
    "epoch_steps": "tests/train/test_flags.py::test_the_steps_are_those_asked_for",
    "epoch_count": "tests/train/test_flags.py::test_the_steps_are_those_asked_for",
    "epoch_save": "tests/train/test_flags.py::test_epoch_save_chooses_the_files",
    "epoch_begin": "tests/train/test_flags.py::test_epoch_begin_shifts_names_log_and_rate",
    "lr_init": CHANGES,
    "lr_final": CHANGES,
    "warmup_steps": CHANGES,
    "lr_schedule": CHANGES,
    "beta1": CHANGES,
    "beta2": CHANGES,
    "adam_eps": CHANGES,
    "loss_mask": CHANGES,
    "precision": "tests/train/test_flags.py::test_precision_is_that_of_the_frozen_weights",
    "grad_cp": "tests/train/test_flags.py::test_grad_cp_reaches_the_model",
    "accelerator": "tests/train/test_run.py::test_a_failed_run_says_why_in_one_line",
    "op": "tests/ops/test_choice.py::test_auto_takes_the_fastest_that_computes_right",
    "train_type": "tests/train/test_run.py::test_full_tuning_saves_a_model",
    "peft": "tests/tuning/test_methods.py::test_train_reload_and_merge",
    "data_type": "tests/train/test_validation.py::test_a_text_file_trains_in_windows",
    "dataload": "tests/data/test_dataset.py::test_dataload_and_loss_mask_decide_the_examples",
    "pre_ffn": "tests/train/test_from_random.py::test_the_loss_falls",
    "head_qk": "tests/train/test_from_random.py::test_the_loss_falls",
    "lora_config": "tests/tuning/test_adapter_files.py::test_a_run_goes_on_from_an_adapter",
    "quant": "tests/tuning/test_methods.py::test_train_reload_and_merge",
    "devices": "tests/train/several/test_ranks.py::test_processes_train_as_one",
    "strategy": "tests/train/several/test_ranks.py::test_processes_train_as_one",
    "wandb": "tests/train/test_logs.py::test_an_offline_run_is_read_by_wandb",
}


@pytest.mark.parametrize("code", PAGES)
def test_the_page_of_parameters_is_current(code: str) -> None:
    speak(code)
    try:
        now, how = render(), command()
    finally:
        speak("en")
    assert (ROOT / PAGES[code]).read_text(encoding="utf-8") == now, f"{PAGES[code]} is stale: {how}"


def test_the_page_shows_every_parameter_with_type_default_and_advice() -> None:
    page = render().partition("## Coming from")[0]
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `--")}
    for p in train_params().values():
        cells = [cell.strip() for cell in rows[p.flag].replace("\\|", "/").strip("| ").split(" | ")]
        assert len(cells) == 6 and cells[-1].startswith(p.help[:20]) and p.advice[-20:] in cells[-1]
        assert spell(p.default) in cells[2] and all(choice in cells[3] for choice in p.choices)


@pytest.mark.parametrize("flag", TUTORIAL.split())
def test_every_flag_of_the_tutorial_has_a_test_that_shows_what_it_does(flag: str) -> None:
    file, _, test = SHOWN_BY[flag].partition("::")
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    if SHOWN_BY[flag] == CHANGES:
        assert f'"{flag}"' in (ROOT / file).read_text(encoding="utf-8")
