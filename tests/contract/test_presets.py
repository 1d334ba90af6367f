"""Presets: every shipped one is valid, own ones survive, broken ones say where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.errors import SettingsError, UserError
from engine.contract.presets import PresetStore, parse_yaml, render_yaml
from engine.contract.settings import TrainSettings, train_params

SHIPPED = [p.name for p in PresetStore(Path("/nonexistent")).all()]


@pytest.fixture
def store(tmp_path: Path) -> PresetStore:
    return PresetStore(tmp_path / "own")


def test_presets_are_shipped() -> None:
    assert {"state-0.1b", "state-0.4b", "state-1.5b", "state-3b", "state-7b", "state-cpu"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_is_valid_and_commented(name: str, store: PresetStore) -> None:
    preset = store.get(name)
    assert preset.values and preset.summary
    lines = preset.text.splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert lines[number - 1] == f"# {train_params()[line.partition(':')[0]].help}"


def test_save_get_delete(store: PresetStore) -> None:
    text = render_yaml(TrainSettings(ctx_len=77, lr_init=0.5), "Mine.")
    store.save("mine", text)
    assert store.get("mine").values == {"ctx_len": 77, "lr_init": 0.5}
    assert store.all()[0].name == "mine"
    with pytest.raises(UserError, match="already"):
        store.save("mine", "ctx_len: 1\n")
    assert store.get("mine").text == text
    store.delete("mine")
    with pytest.raises(UserError, match="no preset"):
        store.get("mine")


def test_shipped_presets_are_neither_replaced_nor_deleted(store: PresetStore) -> None:
    with pytest.raises(UserError, match="shipped"):
        store.save("state-3b", "ctx_len: 1\n")
    with pytest.raises(UserError, match="shipped"):
        store.delete("state-3b")


def test_a_file_of_another_encoding_hides_no_other(store: PresetStore) -> None:
    store.save("good", "ctx_len: 5\n")
    (store.folder / "odd.yaml").write_bytes(b"ctx_len: \xff\n")
    assert [p.name for p in store.all()][:2] == ["good", "odd"]
    with pytest.raises(SettingsError, match="line 1"):
        _ = store.get("odd").values


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 65])
def test_names_that_are_no_file_names_are_refused(name: str, store: PresetStore) -> None:
    with pytest.raises(UserError, match="cannot name"):
        store.save(name, "ctx_len: 1\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# x\nctx_len: 5\nmicro_bsz: none\n", "micro_bsz: line 3"),
        ("ctx_len: 5\n\nctxlen: 6\n", "ctxlen: line 3: no such parameter"),
        ("ctx_len: 5\nctx_len: 6\n", "written twice"),
        ("ctx_len: [1\nx: 2", "line 2"),
        ("- 1\n- 2\n", "line 1"),
        ("just words", "line 1"),
        ("ctx_len: !!python/object/apply:os.system ['true']", "line 1"),
    ],
)
def test_a_broken_preset_says_which_key_and_line(text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_yaml(text, "broken.yaml")
    assert str(caught.value).startswith("broken.yaml: ") and says in str(caught.value)


@given(st.fixed_dictionaries({}, optional={
    "adam_eps": st.floats(1e-12, 1e-3), "lr_init": st.floats(0.02, 1e6), "grad_cp": st.integers(0, 2),
    "sample_prompt": st.text(st.characters(exclude_categories=["Cs"])),
    "load_model": st.text(min_size=1, max_size=9).map(lambda t: Path("/" + t.replace("\0", ""))),
}))  # fmt: skip
def test_what_is_written_reads_back_as_itself(values: dict[str, object]) -> None:
    settings = TrainSettings(**values)
    text = render_yaml(settings, "Any.", train_params())
    assert TrainSettings(**parse_yaml(text, "x")) == settings
