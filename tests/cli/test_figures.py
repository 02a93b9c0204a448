"""The figures: percentiles, slices, the chart, and what the report says of them."""

from __future__ import annotations

import math

import pytest

from trioresil.cli._demo.course import Course, Options
from trioresil.cli._demo.report import document, duration, percent, sentences
from trioresil.cli._demo.timeline import Side, Tally, Timeline, percentile, together
from trioresil.cli._demo.view import ASCII, chart, stack
from trioresil.cli._demo.weather import Weather


@pytest.mark.parametrize(
    ("count", "ratio", "expected"),
    [(1, 0.99, 1), (2, 0.5, 1), (3, 0.5, 2), (100, 0.5, 50), (100, 0.99, 99), (101, 0.99, 100), (1000, 0.99, 990)],
)
def test_a_percentile_is_the_nearest_rank(count: int, ratio: float, expected: float) -> None:
    assert percentile(range(1, count + 1), ratio) == expected


def test_a_percentile_of_nothing_is_none() -> None:
    assert percentile([], 0.5) is None


def test_a_side_keeps_its_waits_sorted() -> None:
    side = Side("a")
    for wait in (0.3, 0.1, 0.2):
        side.finish(wait)
    assert side.waits == [0.1, 0.2, 0.3]


def test_a_tally_knows_what_is_pending() -> None:
    tally = Tally(begun=10)
    for outcome in ("fresh", "fresh", "cached", "failed"):
        tally.add(outcome)
    assert tally == Tally(begun=10, fresh=2, cached=1, failed=1)
    assert (tally.answered, tally.pending) == (3, 6)


def test_tallies_add_up() -> None:
    assert together([Tally(1, 1, 0, 0, 2), Tally(3, 0, 2, 1, 4)]) == Tally(4, 1, 2, 1, 6)
    assert together([]) == Tally()


@pytest.mark.parametrize(
    ("seconds", "slices", "length"), [(1, 10, 0.1), (2, 20, 0.1), (20, 120, 1 / 6), (600, 120, 5.0)]
)
def test_a_timeline_has_enough_slices_and_not_too_many(seconds: float, slices: int, length: float) -> None:
    timeline = Timeline(Weather(1, seconds))
    assert len(timeline.slices) == slices
    assert timeline.slice_seconds == length
    assert timeline.slices[-1].at < seconds <= timeline.slices[-1].at + length + 1e-9


def test_what_comes_after_the_end_belongs_to_the_last_slice() -> None:
    timeline = Timeline(Weather(1, 20))
    assert timeline.slice_at(0.0) is timeline.slices[0]
    assert timeline.slice_at(10.01) is timeline.slices[60]
    assert timeline.slice_at(25.0) is timeline.slices[-1]


def test_columns_divide_the_slices_among_them() -> None:
    timeline = Timeline(Weather(1, 20))
    columns = timeline.columns(36)
    assert len(columns) == 36
    assert [each for column in columns for each in column] == timeline.slices
    assert {len(column) for column in columns} == {3, 4}


def test_more_columns_than_slices_repeat_some() -> None:
    timeline = Timeline(Weather(1, 1))
    assert [column[0].at for column in timeline.columns(20)][:4] == [0.0, 0.0, 0.1, 0.1]


def test_a_slice_keeps_the_worst_state_of_the_circuit() -> None:
    slice_ = Timeline(Weather(1, 20)).slices[0]
    for state in ("closed", "half-open", "open", "closed"):
        slice_.see_circuit(state)
    assert slice_.circuit == "open"


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        (Tally(), []),
        (Tally(begun=4, fresh=4), ["fresh"] * 5),
        (Tally(begun=4, fresh=2, failed=2), ["fresh"] * 3 + ["failed"] * 2),
        (Tally(begun=100, fresh=99, failed=1), ["fresh"] * 4 + ["failed"]),
        (Tally(begun=100, cached=100), ["cached"] * 5),
        (Tally(begun=10, fresh=7, cached=1, failed=1), ["fresh"] * 2 + ["cached", "failed", "pending"]),
        (Tally(begun=3), ["pending"] * 5),
    ],
)
def test_a_column_of_the_chart_shows_whatever_occurred(tally: Tally, expected: list[str]) -> None:
    assert stack(tally, 5) == expected


def test_the_chart_tells_its_kinds_apart_without_colour() -> None:
    timeline = Timeline(Weather(1, 1))
    timeline.slices[0].bare = Tally(begun=5, fresh=5)
    timeline.slices[1].bare = Tally(begun=5, fresh=3, failed=2)
    timeline.slices[2].bare = Tally(begun=5, cached=4)
    rows = [row.plain for row in chart(timeline, lambda each: each.bare, 10, ASCII)]
    assert rows == ["#x.       ", "#x+       ", "##+       ", "##+       ", "##+       "]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.0314, "31 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (2.5, "2.50 s")]
)
def test_a_duration_reads_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_share_of_nothing_is_no_number() -> None:
    assert percent(0, 0) == "-"
    assert percent(1, 3) == "33.3 %"


def finished_course() -> Course:
    course = Course(Options(seconds=20, seed=3, rate=40))
    course.bare.total = Tally(begun=200, fresh=150, failed=50, sent=200)
    course.resilient.total = Tally(begun=200, fresh=170, cached=28, failed=2, sent=230)
    course.bare.waits = [0.03] * 190 + [2.5] * 10
    course.resilient.waits = [0.03] * 197 + [0.7] * 3
    course.resilient.oldest = 3.3
    course.bare_service.by_weather.update(outage=30, restarting=10)
    course.resilient_service.by_weather.update(outage=12)
    return course


def test_the_sentences_follow_from_the_figures() -> None:
    assert sentences(finished_course()) == [
        "The bare client answered 75.0 % of its callers, trioresil 99.0 %: 85.0 % with a fresh answer and 14.0 % with one from "
        "the cache, at most 3.30 s old.",
        "One caller in a hundred waited 2.50 s or longer with the bare client, 700 ms with trioresil.",
        "While the service was down, it got 40 attempts from the bare client and 12 from trioresil.",
    ]


def test_a_course_that_never_began_says_so() -> None:
    assert sentences(Course(Options())) == ["It was stopped before the first request."]


def test_the_document_tells_fresh_from_cached() -> None:
    resilient = document(finished_course())["resilient"]
    assert {key: resilient[key] for key in ("answered", "fresh", "cached", "failed", "cut_off")} == {
        "answered": 198,
        "fresh": 170,
        "cached": 28,
        "failed": 2,
        "cut_off": 0,
    }
    assert resilient["fresh_ratio"] == 0.85
    assert resilient["oldest_cached"] == 3.3
    assert math.isclose(resilient["answered_ratio"], 0.99)
