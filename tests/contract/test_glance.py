"""What a list reads of a run's events is what the events say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract import events as ev
from engine.contract.glance import HEAD_BYTES, TAIL_BYTES, Glance, glance
from rwkv_tui.services.run_tail import RunModel
from tests.fakes import stories

TOLD = [
    *stories.opening(),
    *stories.stepping(Path("/run"), 1, 5, epoch_steps=2),
    ev.Resumed(t=stories.T0 + 20, step=3),
    ev.Resumed(t=stories.T0 + 21, step=0),
    ev.Failed(t=stories.T0 + 22, reason="no memory"),
    ev.Finished(t=stories.T0 + 23, status="stopped", step=4, seconds=20),
    *stories.ending(Path("/run"), steps=5, files=1),
]


@given(st.lists(st.sampled_from(TOLD), max_size=40))
@settings(max_examples=150, deadline=None)
def test_both_readers_agree(told: list[ev.Event]) -> None:
    """In any order, also one that no engine would tell."""
    seen, model = Glance(), RunModel()
    for event in told:
        seen.take(ev.dump_event(event).encode())
        model.apply(event)
    plan, method = model.plan, model.plan.method if model.plan else ""
    assert (seen.began, seen.method, seen.steps) == (plan is not None, method, model.steps)
    assert seen.ending == model.ending
    if told:
        assert seen.last_t == told[-1].t


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[1]", b'{"t":1}', b'{"type":"step"}', b'{"type":"step","t":1,"step":"x"}',
        b'{"type":"step","t":NaN,"step":1,"loss_smooth":1}', b'{"type":"step","t":1e99,"step":1}',
        b'{"type":"step","t":1,"step":1e400,"loss_smooth":1}', b'{"type":"started","t":1,"plan":[]}',
        b'{"type":"step","t":1,"step":' + b"9" * 400 + b',"loss_smooth":1}', b"[" * 100_000,
        b'{"type":"finished","t":1,"step":1,"status":"gone"}',
        b'{"type":"finished","t":1,"step":1,"status":[]}',
        b'{"type":"step","t":' + b"9" * 400 + b',"step":1,"loss_smooth":1}',
    ],
)  # fmt: skip
def test_what_is_no_event_changes_nothing(line: bytes) -> None:
    seen = Glance()
    seen.take(line)
    assert seen == Glance()


@pytest.mark.parametrize("steps", [0, 3, 300, 2000])
def test_the_ends_of_a_file_are_enough(tmp_path: Path, steps: int) -> None:
    told = [*stories.opening(epochs=10, epoch_steps=1000), *stories.stepping(tmp_path, 1, steps)]
    path = tmp_path / "events.ndjson"
    path.write_text("".join(map(ev.dump_event, told)) + '{"type":"step","t":1')
    seen = glance(path)
    assert (seen.step, seen.steps, seen.method, seen.began) == (steps, 10_000, "state", True)
    assert (seen.first_t, seen.last_t) == (told[0].t, told[-1].t)
    assert (path.stat().st_size > HEAD_BYTES + TAIL_BYTES) == (steps == 2000)
    assert glance(tmp_path / "none") == Glance()
