from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwkv_tui.services.files import complete, find_files, free_prefix, real_path, short

NAMES = st.lists(
    st.text("ab.", min_size=1, max_size=5).filter(lambda n: n.strip(".")), max_size=6, unique=True
)


@given(names=NAMES, typed=st.text("ab.", max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_completion_goes_as_far_as_is_certain(
    names: list[str], typed: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        (folder / name).touch()
    done = complete(typed, folder)
    assert done.text.startswith(typed)
    assert all(name.startswith(done.text) for name in done.candidates)
    if len(done.candidates) > 1:
        following = {name[len(done.text) : len(done.text) + 1] for name in done.candidates}
        assert len(following) > 1  # otherwise it could have gone further
    if typed and not typed.startswith("."):
        assert set(done.candidates) == {n for n in names if n.startswith(typed)}


def test_completion_of_folders_suffixes_and_home(tmp_path: Path, home: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.pth").touch()
    (tmp_path / "models" / "a.txt").touch()
    (home / "data.jsonl").touch()
    assert complete("mo", tmp_path).text == "models/"
    assert complete("models/", tmp_path, (".pth",)).text == "models/a.pth"
    assert complete("~/d", tmp_path).text == "~/data.jsonl"
    for hopeless in ("nowhere/x", "~nobody-at-all/x", "models/a.pth/", "a\0b/"):
        assert complete(hopeless, tmp_path).text == hopeless


def test_find_is_nearest_first_and_leaves_out_hidden_and_foreign_folders(tmp_path: Path) -> None:
    for name in ("z.pth", "sub/deep/er/e.pth", "sub/b.pth", ".hidden/h.pth", "node_modules/n.pth", "t.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "gone.pth").symlink_to(tmp_path / "nothing")
    found = find_files(tmp_path, (".pth",), depth=2)
    assert [str(f.path.relative_to(tmp_path)) for f in found] == ["z.pth", "sub/b.pth"]
    assert found[0].size == 3
    assert find_files(tmp_path / "nowhere", (".pth",)) == []


def test_find_ends_in_a_huge_tree(tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"d{n}").mkdir()
        (tmp_path / f"d{n}" / "m.pth").touch()
    assert len(find_files(tmp_path, (".pth",), visit=40)) == 10


def test_a_free_prefix_never_names_an_existing_pair(tmp_path: Path) -> None:
    source = tmp_path / "my.data.jsonl"
    assert free_prefix(source) == tmp_path / "my.data"
    (tmp_path / "my.data.idx").touch()
    (tmp_path / "my.data-2.bin").touch()
    assert free_prefix(source) == tmp_path / "my.data-3"


def test_paths_as_typed_and_back(tmp_path: Path, home: Path) -> None:
    assert real_path(" a/b ", tmp_path) == tmp_path / "a/b"
    assert real_path("~nobody-at-all/x", tmp_path) == tmp_path / "~nobody-at-all/x"
    assert short(tmp_path / "a/b", tmp_path) == "a/b"
    assert short(home / "c", tmp_path / "elsewhere") == "~/c"
    assert short(Path("/etc/hosts"), tmp_path) == "/etc/hosts"
