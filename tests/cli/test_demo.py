"""The demo without screens: real base, real tuning, on bundled data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Command


@pytest.mark.soak  # minutes of real training
def test_the_demo_lowers_the_held_out_loss_by_a_quarter(
    rwkv_tune: Command, home: Path, tmp_path: Path
) -> None:
    done = rwkv_tune("demo", "--headless", "--dir", "my demo", timeout=500)
    assert done.returncode == 0, done.stderr
    found = re.search(r"held-out loss: base ([\d.]+), tuned ([\d.]+)", done.stdout)
    assert found and float(found[2]) <= 0.75 * float(found[1])
    user, base, tuned = done.stdout.splitlines()[-3:]
    assert user.startswith("User:") and base.startswith("base:") and tuned.startswith("tuned:")
    assert base[6:].strip() and tuned[6:].strip() and base[6:] != tuned[6:]
    assert (tmp_path / "my demo" / "emoji-state-1" / "rwkv-2.pth").is_file()
    assert len(list((home / ".cache" / "rwkv-tune" / "demo").iterdir())) == 1  # the base, nothing half made
    assert (
        len(list((home / ".local" / "state" / "rwkv-tune" / "runs").iterdir())) == 1
    )  # the person's run only
