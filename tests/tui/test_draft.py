from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.reports import DataSummary, ModelInfo
from engine.contract.settings import TrainSettings, train_params
from rwkv_tui.draft import Draft

MODEL = ModelInfo(
    path="m.pth", version="x070", n_layer=12, n_embd=768, head_size=64, vocab_size=65536, dtype="bfloat16",
    parameters=191_000_000, size_name="0.1B", file_bytes=382_000_000,
)  # fmt: skip
DATA = DataSummary(
    path="d", kind="binidx", described="binidx", file_bytes=1, complete=True, documents=100, tokens=1000,
    longest=10, longest_at="document 1", shortest=10, shortest_at="document 1",
    ctx_len=512, cut_documents=0, cut_tokens=0, histogram=(), samples=(),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(train_params())), st.text(max_size=12)))
def test_every_text_is_kept_and_never_breaks_the_draft(texts: dict[str, str]) -> None:
    draft = Draft()
    for name, text in texts.items():
        draft.put(name, text)
    assert all(draft.text(name) == text for name, text in texts.items())
    assert draft.errors.keys() <= {*train_params(), ""}
    assert isinstance(draft.approximate(), TrainSettings)


def test_an_error_is_said_of_its_field_and_goes_away() -> None:
    draft = Draft()
    draft.put("epoch_steps", "many")
    assert "whole number" in draft.errors["epoch_steps"]
    assert draft.settings is None
    assert draft.approximate().epoch_steps == train_params()["epoch_steps"].default
    draft.put("epoch_steps", "")
    assert "epoch_steps" not in draft.errors


def test_a_model_fills_in_what_the_file_says_and_takes_it_along() -> None:
    draft = Draft()
    draft.take_model("m.pth", MODEL)
    assert [draft.text(n) for n in ("my_testing", "n_layer", "n_embd")] == ["x070", "12", "768"]
    draft.forget_model()
    assert [draft.text(n) for n in ("my_testing", "n_layer", "n_embd")] == ["auto", "0", "0"]


def test_a_preset_changes_everything_but_files_and_model() -> None:
    draft = Draft({"proj_dir": "out", "beta1": 0.5, "grad_cp": False})
    draft.take_model("m.pth", MODEL)
    draft.load({"epoch_steps": 7, "n_layer": 24, "grad_cp": True})
    assert draft.text("epoch_steps") == "7"
    assert draft.text("beta1") == "0.9"
    assert draft.text("grad_cp") == "1"
    assert (draft.text("proj_dir"), draft.text("load_model"), draft.text("n_layer")) == ("out", "m.pth", "12")


def test_a_folder_is_suggested_until_one_is_named(tmp_path: Path) -> None:
    draft = Draft({"load_model": "x/base.v1.pth"})
    draft.suggest_proj_dir(tmp_path)
    assert draft.text("proj_dir") == "runs/base.v1-1"
    draft.put("data_file", "d/pairs")
    (tmp_path / "runs" / "base.v1-pairs-1").mkdir(parents=True)
    draft.suggest_proj_dir(tmp_path)
    assert draft.text("proj_dir") == "runs/base.v1-pairs-2"
    draft.put("proj_dir", "mine")
    draft.suggest_proj_dir(tmp_path)
    assert draft.text("proj_dir") == "mine"


def test_passes_follow_the_data_and_are_unknown_for_other_data() -> None:
    draft = Draft({"epoch_steps": 50, "epoch_count": 2, "micro_bsz": 4})
    assert draft.passes() is None
    draft.take_data("d", DATA)
    assert draft.passes() == pytest.approx(4.0)
    draft.put("data_file", "other")
    assert draft.passes() is None


@pytest.mark.parametrize("text", ["/", ".", "..", "~no-such-user/x", "a\0b", "n" * 5000, ".idx", "~"])
@pytest.mark.parametrize("name", ["load_model", "data_file", "proj_dir"])
def test_half_typed_and_odd_paths_are_problems_at_most(name: str, text: str, tmp_path: Path) -> None:
    draft = Draft()
    draft.put(name, text)
    draft.suggest_proj_dir(tmp_path)
    assert draft.problems
    assert draft.text(name) == text
