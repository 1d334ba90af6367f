from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract import events as ev
from engine.contract.rundir import RunDir
from rwkv_tui.commands.follow import describe
from rwkv_tui.panels.ending import change
from rwkv_tui.plain import duration
from rwkv_tui.services.run_tail import RunModel, RunTail, RunWatch
from tests.fakes import stories

STORY = stories.opening() + stories.stepping(Path("p"), 1, 20)
BYTES = "".join(ev.dump_event(e) for e in STORY).encode()

FAILED = ev.Failed(t=stories.T0 + 99, reason="no memory", remedy="buy some")


def fold(told: list[ev.Event]) -> RunModel:
    model = RunModel()
    for event in told:
        model.apply(event)
    return model


@given(cuts=st.lists(st.integers(0, len(BYTES)), max_size=8), limit=st.none() | st.integers(40, 3000))
@settings(max_examples=60, deadline=None)
def test_however_the_file_grows_each_event_is_read_once(
    cuts: list[int], limit: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    tail, read = RunTail(run), []
    assert tail.poll() == []
    written = 0
    for cut in [*sorted(cuts), len(BYTES)]:
        with run.events.open("ab") as file:
            file.write(BYTES[written:cut])
        written = cut
        read += tail.poll(limit)
        while tail.behind:
            read += tail.poll(limit)
    assert read == STORY
    assert tail.restarts == 0


def test_foreign_and_newer_lines_are_skipped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    newer = b'{"v":9,"t":1,"type":"levitated","height":3}\n'
    grown = b'{"v":2,"t":5.0,"type":"log","text":"hello","colour":"red"}\n'
    run.events.write_bytes(newer + b"\xff\xfe\n\n[]\n" + grown)
    assert RunTail(run).poll() == [ev.Log(v=2, t=5.0, text="hello")]


def test_a_truncated_file_is_read_from_its_start_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stories.tell(run, STORY)
    tail = RunTail(run)
    tail.poll()
    run.events.write_text(ev.dump_event(STORY[0]))
    assert tail.poll() == [STORY[0]]
    assert tail.restarts == 1


def test_steps_can_be_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stories.tell(run, [*STORY, ev.Log(t=1.0, text='{"type":"step"}')])
    kept = RunTail(run).poll(steps=False)
    assert kept == [*(e for e in STORY if not isinstance(e, ev.Step)), ev.Log(t=1.0, text='{"type":"step"}')]


def test_epochs_have_their_number_where_steps_are_left_out() -> None:
    story = stories.opening() + stories.stepping(Path("p"), 1, 400)
    short: list[ev.Event] = [event for event in story if not isinstance(event, ev.Step)]
    said = [[line.text for line in fold(told).log if " is over" in line.text] for told in (story, short)]
    assert said[0] == said[1] and [text[:12] for text in said[0]] == ["epoch 1 of 5", "epoch 2 of 5"]


SERIES = ("loss", "loss_smooth", "lr", "kt_s", "grad_norm")
HARM = [
    lambda line: line[: len(line) // 2],
    lambda line: line.replace(b'"lr":', b'"rate":'),
    lambda line: line.replace(b'"loss":', b'"loss":null,"was":'),
    lambda line: line.replace(b'"v":1', b'"v":7,"mood":["fine",{"type":"step"}]'),
    lambda line: line.replace(b'"loss_smooth":', b'"loss_smooth":"much","was":'),
    lambda line: line.replace(b'"step":', b'"step":1,"was":'),
    lambda line: line.replace(b'"tokens":', b'"tokens":1e999,"was":'),
    lambda line: line.replace(b'"type":"step"', b'"type":"stride","is":{"type":"step"}'),
    lambda line: line + b",",
    lambda line: b"\xff\xfe",
    lambda line: ev.dump_event(ev.Resumed(t=stories.T0, step=3)).encode().strip(),
]


def told_of(model: RunModel) -> list[object]:
    return [
        model.first_t, model.last_t, model.step, model.epoch, model.tokens, model.step_s, list(model.log),
        vars(model._pace) if model._pace else None, model.seconds_left, model.epoch_marks,
        *(getattr(model, name).ys.tobytes() for name in SERIES), model.loss.xs.tobytes(),
        *(getattr(model, name).extremes() for name in SERIES),
    ]  # fmt: skip


@given(harms=st.lists(st.tuples(st.integers(0, 219), st.sampled_from(HARM)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_folding_many_lines_at_once_is_folding_one_after_the_other(
    harms: list[tuple[int, Callable[[bytes], bytes]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a torn, newer or foreign line among them holds."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    lines = [ev.dump_event(e).encode().strip() for e in stories.stepping(Path("p"), 1, 200)]
    lines = lines[:20] + [ev.dump_event(e).encode().strip() for e in stories.opening()] + lines[20:]
    for place, harm in harms:
        lines[place % len(lines)] = harm(lines[place % len(lines)])
    run.events.write_bytes(b"\n".join(lines) + b"\n")
    watch = RunWatch(run)
    watch.poll(5000)
    while watch.behind:
        watch.poll(5000)
    assert told_of(watch.model) == told_of(fold(RunTail(run).poll()))


def test_a_watch_begins_anew_with_a_file_that_became_shorter(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stories.tell(run, STORY)
    watch = RunWatch(run)
    watch.poll()
    assert watch.model.step == 20
    run.events.write_text(ev.dump_event(STORY[0]))
    watch.poll()
    assert (watch.model.step, len(watch.model.loss)) == (0, 0)


def test_a_long_run_is_folded_quickly(tmp_path: Path) -> None:
    """Several times quicker than event by event; the best of three turns each."""
    run, count = RunDir(tmp_path), 20_000
    line = ev.dump_event(STORY[-1])
    run.events.write_text("".join(line.replace('"step":20', f'"step":{n}') for n in range(1, count + 1)))

    def seconds(fold_all: Callable[[], RunModel]) -> float:
        began = time.process_time()
        assert fold_all().step == count
        return time.process_time() - began

    def at_once() -> RunModel:
        watch = RunWatch(run)
        watch.poll()
        return watch.model

    turns = [(seconds(at_once), seconds(lambda: fold(RunTail(run).poll()))) for _ in range(3)]
    assert min(t[0] for t in turns) < 0.5 * min(t[1] for t in turns)  # a quarter when measured


def test_what_a_run_tells_is_kept() -> None:
    model = fold(stories.opening() + stories.stepping(Path("p"), 1, 430))
    assert (model.step, model.steps, model.epoch, model.tokens) == (430, 1000, 2, 512 * 430)
    assert list(model.loss.xs) == list(range(1, 431))
    assert model.loss.ys[76] == pytest.approx(stories.loss_at(77), abs=1e-4)
    assert model.epoch_marks == [200, 400]
    assert [c.step for c in model.checkpoints] == [200, 400]
    assert model.before is not None
    assert model.activity is None
    assert model.seconds_left == pytest.approx(0.6 * 570 + 6, rel=1e-3)
    assert model.elapsed == pytest.approx(12 + 0.6 * 430)
    assert model.log_count == len(model.log) == 6


def test_the_last_word_decides_and_a_resumed_run_takes_it_back() -> None:
    told = stories.opening() + stories.stepping(Path("p"), 1, 50)
    model = fold([*told, FAILED])
    assert model.closing == FAILED
    assert model.seconds_left is None
    again = fold([*told, FAILED, told[4], *stories.stepping(Path("p"), 41, 45)])
    assert again.closing is None
    assert list(again.loss.xs) == list(range(1, 46))


def test_a_resumed_run_forgets_what_came_after_its_point() -> None:
    told = [*stories.opening(), *stories.stepping(Path("p"), 1, 430), FAILED]
    resumed = ev.Resumed(t=stories.T0 + 1000, step=200)
    model = fold([*told, resumed])
    assert (model.step, model.closing, model.seconds_left) == (200, None, None)
    assert model.loss.xs[-1] == model.lr.xs[-1] == 200
    assert (model.epoch_marks, [c.step for c in model.checkpoints]) == ([200], [200])
    assert model.elapsed == pytest.approx(99)  # the pause is not the run's
    assert model.log[-1].text == "resumed after step 200"
    again = fold([*told, resumed, *stories.stepping(Path("p"), 201, 430)])
    assert list(again.loss.xs) == list(range(1, 431))
    assert again.epoch_marks == [200, 400]


def test_a_tail_can_begin_later(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stories.tell(run, STORY)
    tail = RunTail(run, run.events.stat().st_size)
    assert tail.poll() == []
    stories.tell(run, [FAILED])
    assert tail.poll() == [FAILED]


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_spoils_no_curve(jump: float) -> None:
    told = stories.opening() + stories.stepping(Path("p"), 1, 60)
    half = len(told) // 2
    later = [event.model_copy(update={"t": event.t + jump}) for event in told[half:]]
    model = fold([*told[:half], *later])
    assert (model.step, list(model.loss.xs)) == (60, list(range(1, 61)))
    assert model.seconds_left is None or model.seconds_left >= 0
    assert duration(model.elapsed) in ("0:00", "1 d 00:00")


def test_missing_values_stay_missing() -> None:
    told = stories.opening() + stories.stepping(Path("p"), 1, 3)
    step = told[-1]
    assert isinstance(step, ev.Step)
    model = fold([*told, step.model_copy(update={"step": 4, "loss": None})])
    assert model.loss.last is None
    assert model.loss.extremes()[1] < 10


def test_a_validation_is_told_with_the_best_epoch() -> None:
    told: list[ev.Event] = [
        ev.Validated(
            t=stories.T0, epoch=epoch, step=10 * epoch, loss=loss, best_loss=1.5, best_epoch=1, documents=3,
            seconds=1,
        )
        for epoch, loss in ((1, 1.5), (2, 1.75))
    ]  # fmt: skip
    model = fold(told)
    assert model.validations == told
    assert [line.text for line in model.log] == [
        "validation loss 1.5000 after epoch 2, the best so far",
        "validation loss 1.7500 after epoch 3, best was epoch 2",
    ]
    assert describe(told[1]) == "validation loss 1.7500 after epoch 3; best 1.5000 in epoch 2"
    later = told[1].model_copy(update={"step": 400, "epoch": 7, "best_epoch": 6})
    opening = [
        e.model_copy(update={"plan": e.plan.model_copy(update={"epoch_begin": 6})})
        if isinstance(e, ev.Started)
        else e
        for e in stories.opening()
    ]
    said = [line.text for line in fold([*opening, later]).log]
    assert "validation loss 1.7500 after epoch 2, best was epoch 1" in said


def test_a_loss_that_is_no_number_is_told_as_such() -> None:
    """It is null in the file, as any number that is none."""
    lines = [
        ev.dump_event(ev.Evaluated(when=when, loss=math.nan, tokens=1, documents=2))
        for when in ("before", "after")
    ]
    told = [event for line in lines if (event := ev.parse_event(line)) is not None]
    ended = ev.Finished(status="finished", step=3, seconds=1, loss_before=None, loss_after=None)
    model = fold([*told, ended])
    assert [describe(event) for event in told] == [
        "loss before tuning n/a (2 documents)", "loss after tuning n/a (2 documents)",
    ]  # fmt: skip
    assert model.log[0].text == "loss before training: n/a over 2 documents"
    assert model.gain == (None, None) and fold([ended]).gain is None
    assert change(None, 1.5) == "n/a -> 1.5000" and change(3.0, None) == "3.0000 -> n/a"
    assert change(2.0, 1.0) == "2.0000 -> 1.0000 (-50%)"
    assert change(2.4333, 2.4317) == "2.4333 -> 2.4317 (-0.1%)"


def test_the_plan_says_windows_and_what_is_held_out() -> None:
    plan = stories.plan().model_copy(update={"windows": 360, "held_out": 12})
    said = describe(ev.Started(name="n", pid=1, plan=plan))
    assert said and "360 windows of ctx_len 512" in said and "12 documents held out" in said
    said = describe(ev.Started(name="n", pid=1, plan=stories.plan()))
    assert said and "3 documents cut at ctx_len 512 (411 tokens)" in said and "held out" not in said
