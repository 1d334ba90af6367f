from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.geometry import Region

from rwkv_tui.series import BLOCK, Columns, Series, Smoothed
from rwkv_tui.widgets.axes import Scale, XAxis, spell_ticks, x_end, y_axis
from rwkv_tui.widgets.chart import LineChart
from rwkv_tui.widgets.plot import DOTS, Canvas, Curve, draw, picture

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=300)


def series(values: Sequence[float | None]) -> Series:
    made = Series()
    for step, value in enumerate(values, 1):
        made.append(step, value)
    return made


def lit(canvas: Canvas, x: int, y: int) -> bool:
    row = canvas.height * 4 - 1 - y
    return bool(canvas.bits[(row >> 2) * canvas.width + (x >> 1)] & DOTS[x & 1][row & 3])


@given(values=VALUES, width=st.integers(1, 60), height=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_every_value_has_its_dot(values: list[float | None], width: int, height: int) -> None:
    data = series(values)
    low, high = data.extremes()
    if low >= high:
        return
    canvas = Canvas(width, height)
    xs, ys = Scale(0, len(values), width * 2), Scale(low, high, height * 4)
    draw(canvas, Curve(data, "", "main"), xs, ys, 0)
    for step, value in enumerate(values, 1):
        if value is not None:
            x = xs.place(step)
            near = [x + d for d in (-1, 0, 1) if 0 <= x + d < width * 2]  # a bound may round either way
            assert any(lit(canvas, n, ys.place(value)) for n in near)


@given(
    values=VALUES,
    cut=st.integers(1, 300),
    spans=st.lists(st.tuples(st.integers(0, 320), st.integers(0, 320))),
)
@settings(deadline=None)
def test_extremes_are_those_of_the_points(
    values: list[float | None], cut: int, spans: list[tuple[int, int]]
) -> None:
    data = series(values)
    if cut <= len(values):  # a resumed run
        data.append(cut, 5.0)
        values = [*values[: cut - 1], 5.0]
    assert len(data) == len(values)
    for start, stop in [(0, len(values)), *((min(s), min(max(s), len(values))) for s in spans)]:
        present = [v for v in values[start:stop] if v is not None]
        expected = (min(present), max(present)) if present else (math.inf, -math.inf)
        assert data.extremes(start, stop) == expected


@given(
    values=VALUES, size=st.tuples(st.integers(1, 200), st.integers(1, 40)),
    flags=st.tuples(st.booleans(), st.booleans()), end=st.integers(0, 1000),
    marks=st.lists(st.integers(0, 1000)),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_chart_fills_its_place_exactly(
    values: list[float | None], size: tuple[int, int], flags: tuple[bool, bool], end: int, marks: list[int]
) -> None:
    (width, height), (log, zero) = size, flags
    curves = [Curve(series(values), "raw", "raw"), Curve(Series(), "smooth", "main")]
    lines = picture(
        "Loss", curves, width, height, axis=XAxis(end=end), epochs=marks, saves=marks, log=log, from_zero=zero
    ).rows
    assert len(lines) == height
    for line in lines[1:]:
        assert len("".join(text for text, _ in line)) in (0, width)
        assert {style for _, style in line} <= {"axis", "mark", "raw", "main", "title"}


@given(low=st.floats(-1e9, 1e9), span=st.floats(0, 1e9), count=st.integers(1, 20))
def test_ticks_hold_the_data_and_are_few(low: float, span: float, count: int) -> None:
    high = low + span
    first, last, ticks = y_axis(low, high, count, log=False)
    slack = (last - first) * 1e-6
    assert first - slack <= low
    assert high <= last + slack
    assert first < last
    assert 2 <= len(ticks) <= count + 3


@given(low=st.floats(1e-9, 1e6), factor=st.floats(1, 1e9), count=st.integers(1, 20))
def test_logarithmic_ticks(low: float, factor: float, count: int) -> None:
    first, last, ticks = y_axis(low, low * factor, count, log=True)
    assert first <= low * 1.000001
    assert low * factor <= last * 1.000001
    assert 1 <= len(ticks) <= count + 2


@given(low=st.floats(-1e9, 1e9), span=st.floats(0, 1e9), count=st.integers(2, 20), log=st.booleans())
def test_a_tick_says_where_it_lies(low: float, span: float, count: int, log: bool) -> None:
    low = abs(low) + 1e-9 if log else low
    _first, _last, ticks = y_axis(low, low + span, count, log=log)
    told = spell_ticks(ticks)
    slack = min((b - a for a, b in pairwise(ticks)), default=1.0) * 1e-3
    assert all(
        abs(float(text) - tick) <= slack + abs(tick) * 1e-9 for text, tick in zip(told, ticks, strict=True)
    )


def test_ticks_are_spelled_alike() -> None:
    assert spell_ticks(y_axis(11.2, 11.3, 4, log=False)[2]) == [
        "11.200",
        "11.225",
        "11.250",
        "11.275",
        "11.300",
    ]
    assert spell_ticks([0.0, 5e-5, 1e-4]) == ["0", "0.5e-4", "1.0e-4"]
    assert spell_ticks([1e-5, 1e-3, 0.1, 10.0, 1e6]) == ["1e-5", "0.001", "0.1", "10", "1e6"]


def test_a_narrow_loss_fills_a_logarithmic_chart() -> None:
    first, last, ticks = y_axis(2.31, 2.58, 5, log=True)
    assert (first, last) == pytest.approx((2.3, 2.6))
    assert len(ticks) >= 4


def test_where_values_leave_no_room_the_title_is_brief() -> None:
    curves = [Curve(series([2.5]), "raw", "raw"), Curve(series([2.5]), "smooth 0.95", "main")]
    heads = [
        "".join(text for text, _ in picture("Loss, nats a token", curves, width, 8, brief="Loss").rows[0])
        for width in (60, 40)
    ]
    assert heads == ["Loss, nats a token  smooth 0.95 2.5  raw 2.5", "Loss  smooth 0.95 2.5  raw 2.5"]


def test_the_axis_of_a_growing_run_seldom_moves() -> None:
    ends = {x_end(0, step, 5000) for step in range(1, 5001)}
    assert len(ends) < 25
    assert max(ends) == 5000


def test_a_spike_is_seen_and_read_however_many_points_share_its_column() -> None:
    data = series([2.0] * 70_000 + [9.5] + [2.0] * 29_999)
    curve = Curve(data, "raw", "raw")
    whole = picture("Loss", [curve], 80, 12, axis=XAxis(end=100_000))
    assert whole.xs is not None
    lines = ["".join(text for text, _ in row) for row in whole.rows]
    assert any("\u2800" < char <= "\u28ff" for char in lines[1])  # the topmost row holds the spike alone
    column = whole.xs.place(70_001)
    middle = (column + 0.5) * (whole.xs.high - whole.xs.low) / whole.xs.pixels
    read = picture("Loss", [curve], 80, 12, axis=XAxis(end=100_000, cursor=middle))
    head = "".join(text for text, _ in read.rows[0])
    assert "raw 2..9.5" in head


def test_zooming_in_shows_a_stretch_and_reads_its_very_values() -> None:
    data = series([float(n) for n in range(1, 1001)])
    curve = Curve(data, "raw", "raw")
    shown = picture("Loss", [curve], 60, 12, axis=XAxis(window=(400, 420), cursor=410.2))
    text = "\n".join("".join(text for text, _ in row) for row in shown.rows)
    assert shown.xs is not None
    assert (shown.xs.low, shown.xs.high) == (400, 420)
    assert "405" in text
    assert " 1000" not in text
    between = picture("Loss", [curve], 60, 12, axis=XAxis(window=(400, 404), cursor=402.4))
    assert "step 402:  raw 402" in "".join(text for text, _ in between.rows[0])
    assert between.xs is not None
    mark = between.xs.place(402) // 2 + len("403┤")
    assert "".join(text for text, _ in between.rows[9])[mark] == "│"  # where the value is that is read
    far = picture("Loss", [curve], 60, 12, axis=XAxis(window=(400, 420), cursor=410.0))
    assert any(text.startswith("│") and style == "cursor" for text, style in far.rows[4])
    assert "step 410:  raw 410" in "".join(text for text, _ in far.rows[0])


def test_an_axis_that_follows_moves_by_tenths_of_its_width() -> None:
    windows = {XAxis(end=5000, width=100).shown(1, n) for n in range(1000, 1100)}
    assert len(windows) <= 11
    for n in range(1000, 1100):
        low, high = XAxis(end=5000, width=100).shown(1, n)
        assert high - low == pytest.approx(100)
        assert low < n <= high
    assert XAxis(width=100).shown(1, 30) == XAxis().shown(1, 30)


@pytest.mark.parametrize("end", [5, 8, 10, 12, 20, 30, 1000])
def test_ticks_of_steps_are_whole(end: int) -> None:
    rows = picture("Loss", [Curve(series([1.0] * end), "", "main")], 60, 10, axis=XAxis(end=end)).rows
    ticks = [int(label) for label in "".join(text for text, _ in rows[-1]).replace(",", "").split()[:-1]]
    assert len({b - a for a, b in pairwise(ticks)}) <= 1


def test_time_has_ticks_that_clocks_have() -> None:
    times = Series()
    for step in range(1, 400):
        times.append(step, step * 20.0)
    curve = Curve(series([1.0] * 399), "", "main", times.ys)
    rows = picture("Speed", [curve], 100, 10, axis=XAxis("time")).rows
    labels = "".join(text for text, _ in rows[-1]).split()
    assert labels[:3] == ["0:00", "30:00", "1:00:00"]
    assert labels[-1] == "h:mm:ss"


@given(values=VALUES, strength=st.sampled_from([0.5, 0.95]), cut=st.integers(0, 300))
def test_smoothing_as_it_grows_is_smoothing_at_once(
    values: list[float | None], strength: float, cut: int
) -> None:
    data = series(values)
    smooth = Smoothed(data, strength)
    smooth.update()
    data.append(cut + 1, 4.0)
    data.append(cut + 400, None)
    data.append(cut + 401, 2.0)
    grown = smooth.update()
    assert grown.xs == data.xs
    assert grown.ys.tobytes() == Smoothed(data, strength).update().ys.tobytes()


def test_a_missing_value_breaks_the_line() -> None:
    canvas = Canvas(10, 2)
    draw(canvas, Curve(series([0.0, 0.0, None, 1.0, 1.0]), "", "main"), Scale(0, 5, 20), Scale(0, 1, 8), 0)
    columns = {x for x in range(20) if any(lit(canvas, x, y) for y in range(8))}
    assert not columns & {9, 10, 11, 12, 13, 14, 15}


def test_a_hundred_thousand_steps_are_drawn_quickly() -> None:
    data = series([2 + math.sin(i) for i in range(100_000)])
    assert len(data) > 1000 * BLOCK
    curves = [Curve(data, "raw", "raw"), Curve(data, "smooth", "main")]
    began = time.process_time()
    for _ in range(5):
        picture("Loss", curves, 100, 16)
    assert (time.process_time() - began) / 5 < 0.1  # some 0.01 s; a shared machine is slower


class ChartApp(App[None]):
    def compose(self) -> ComposeResult:
        yield LineChart("Loss", id="chart")


async def test_only_lines_that_changed_are_painted_again() -> None:
    app = ChartApp()
    async with app.run_test(size=(60, 12)) as pilot:
        chart = app.query_one(LineChart)
        data = series([3.0, 2.0, 1.0, 0.0])
        curves = [Curve(data, "", "main")]
        chart.show(curves, axis=XAxis(end=10))
        await pilot.pause()
        before = [chart.render_line(y).text for y in range(12)]
        painted: list[Region] = []
        chart.refresh = lambda *regions, **_: painted.extend(regions)  # type: ignore[assignment]
        chart.show(curves, axis=XAxis(end=10))
        assert painted == []
        data.append(5, 0.5)
        assert [chart.render_line(y).text for y in range(12)] == before  # newer data wait for `show`
        chart.show(curves, axis=XAxis(end=10))
        after = [chart.render_line(y).text for y in range(12)]
        assert before != after
        assert sum(region.area for region in painted) < 60 * 7
        for y, (old, new) in enumerate(zip(before, after, strict=True)):
            for x in (x for x in range(60) if old[x : x + 1] != new[x : x + 1]):
                assert any(region.contains(x, y) for region in painted)


@given(cuts=st.lists(st.integers(1, 200), max_size=4))
def test_columns_share_their_places_and_stay_apart(cuts: list[int]) -> None:
    columns, alone = Columns("fd"), Series()
    for begin in (1, *cuts):
        steps = list(range(begin, begin + 90))
        columns.extend(steps, [1.5] * 90, [step * 1.1 for step in steps])
        alone.extend(steps, [step * 1.1 for step in steps])
    few, many = columns.series
    assert few.xs is many.xs and many.xs == alone.xs and many.ys == alone.ys
    assert few.extremes() == (1.5, 1.5) and len(few) == len(many)
    assert many.extremes(3, 80) == alone.extremes(3, 80)
