"""Files that appear together: what is there after an interruption at every step of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.files import Staged

NAMES = ("d.json", "d.bin", "d.idx")
STEPS = 2 * len(NAMES)

CHILD = """
import os, signal, sys
from pathlib import Path
from engine.contract.files import Staged

left, real = int(sys.argv[2]), Path.replace

def replace(self, target):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)

Path.replace = replace
with Staged([Path(sys.argv[1], name) for name in ("d.json", "d.bin", "d.idx")]) as staged:
    for part in staged.parts:
        part.write_text("new")
"""


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def stage(folder: Path, **options: bool) -> None:
    with Staged([folder / name for name in NAMES], **options) as staged:
        for part in staged.parts:
            part.write_text("new")


def make_old(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, str]:
    for name in names:
        (folder / name).write_text("old")
    return dict.fromkeys(names, "old")


@pytest.mark.parametrize("old", [(), ("d.bin",), ("d.bin", "d.idx"), NAMES])
@pytest.mark.parametrize("after", [False, True], ids=["before the rename", "after it"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exception_at_any_step_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: tuple[str, ...], after: bool, error: type
) -> None:
    before, real = make_old(tmp_path, old), Path.replace
    for step in range(1, len(old) + len(NAMES) + 1):
        left = step

        def replace(self: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left:
                return real(self, target)
            if after:
                real(self, target)
            raise error

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(error):
            stage(tmp_path)
        assert content(tmp_path) == before
    stage(tmp_path)
    assert content(tmp_path) == dict.fromkeys(NAMES, "new")


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_after_a_kill_no_half_is_taken_for_a_whole_and_the_next_one_mends_it(
    tmp_path: Path, step: int
) -> None:
    before = make_old(tmp_path)
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(step)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = content(tmp_path)
    assert "d.idx" not in left or {left[name] for name in NAMES} == {"old"}
    with pytest.raises(ZeroDivisionError), Staged([tmp_path / name for name in NAMES]):
        assert content(tmp_path) == before
        raise ZeroDivisionError
    assert content(tmp_path) == before


def test_what_a_kill_behind_the_last_step_left_is_cleared_up(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the kernel's greatest pid
    make_old(tmp_path, (f".d.bin.{dead}.old", f".d.idx.{dead}.old"))
    (tmp_path / "d.idx").write_text("new")
    (tmp_path / f".d.bin.{os.getppid()}.old").write_text("another's")
    with Staged([tmp_path / name for name in NAMES]) as staged:
        assert set(content(tmp_path)) == {"d.idx", f".d.bin.{os.getppid()}.old"}
        for part in staged.parts:
            part.touch()


def test_a_target_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(FileExistsError, match=r"d\.bin appeared"),
        Staged([tmp_path / name for name in NAMES], replace=False) as staged,
    ):
        for part in staged.parts:
            part.touch()
        (tmp_path / "d.bin").write_text("another's")
    assert content(tmp_path) == {"d.bin": "another's"}
