"""The figures: percentiles, slices, the chart, and what the report says of them."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console

from trioresil.cli._demo.course import Course, Options
from trioresil.cli._demo.report import document, duration, percent, sentences
from trioresil.cli._demo.show import print_end
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
        (Tally(begun=100, fresh=99, failed=1), ["fresh"] * 4 + ["some_failed"]),
        (Tally(begun=100, fresh=99, cached=1), ["fresh"] * 4 + ["some_cached"]),
        (Tally(begun=100, fresh=98, cached=1, failed=1), ["fresh"] * 4 + ["some_failed"]),
        (Tally(begun=100, fresh=78, cached=2, failed=20), ["fresh"] * 3 + ["some_cached", "failed"]),
        (Tally(begun=100, fresh=1, failed=99), ["failed"] * 5),
        (Tally(begun=100, cached=100), ["cached"] * 5),
        (Tally(begun=10, fresh=7, cached=1, failed=1), ["fresh"] * 3 + ["some_failed", "cached"]),
        (Tally(begun=100, fresh=89, failed=1), ["fresh"] * 3 + ["some_failed", "pending"]),
        (Tally(begun=3), ["pending"] * 5),
    ],
)
def test_a_column_of_the_chart_is_proportional_but_hides_no_failure(tally: Tally, expected: list[str]) -> None:
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
        "The bare client answered 75.0 % of its callers, trioresil 99.0 %: 85.0 % fresh and 14.0 % from the cache, "
        "at most 3.30 s old.",
        "The slowest 1 % waited 2.50 s or longer bare, 700 ms or longer with trioresil.",
        "During the outage the service got 40 bare attempts and 12 through trioresil.",
    ]


def test_what_was_cut_off_is_told_and_no_failure() -> None:
    course = Course(Options())
    course.bare.total = Tally(begun=110, fresh=80, failed=20)
    course.resilient.total = Tally(begun=110, fresh=107)
    assert sentences(course) == [
        "The bare client answered 80.0 % of its callers, trioresil 100.0 %, all fresh.",
        "Not counted, as they were cut off: 10 bare requests, 3 through trioresil.",
    ]


def test_answers_that_all_came_from_the_cache_are_told_so() -> None:
    course = Course(Options())
    course.bare.total = Tally(begun=4, failed=4)
    course.resilient.total = Tally(begun=4, cached=3, failed=1)
    course.resilient.oldest = 2.0
    assert sentences(course) == [
        "The bare client answered 0.0 % of its callers, trioresil 75.0 %, all from the cache, at most 2.00 s old."
    ]


def printed_end(course: Course, width: int, *, terminal: bool = True) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, color_system=None, legacy_windows=False, force_terminal=terminal, no_color=True
    )
    print_end(console, course)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def cut_off_course() -> Course:
    course = finished_course()
    course.stopped = True
    course.bare.total.begun = course.resilient.total.begun = 2000
    return course


def test_the_end_fits_a_terminal_of_80_by_24_with_its_headings() -> None:
    lines = printed_end(cut_off_course(), 80)
    assert len(lines) <= 23  # and the prompt
    assert re.search(r"│ +bare httpx │ +trioresil$", lines[1])
    assert any(line.startswith("cut off") for line in lines)


@pytest.mark.parametrize("width", [40, 50, 64])
def test_a_narrow_terminal_loses_no_figure(width: int) -> None:
    lines = printed_end(cut_off_course(), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    if width >= 50:
        assert re.search(r"^ +from the cache +│ +0 +0\.0 % │ +28 +1\.4 %$", "\n".join(lines), re.MULTILINE)


def test_in_a_pipe_the_end_has_no_trailing_spaces() -> None:
    assert [line for line in printed_end(cut_off_course(), 80, terminal=False) if line != line.rstrip()] == []


def test_a_course_in_which_nothing_ended_says_so() -> None:
    course = Course(Options())
    course.bare.total = course.resilient.total = Tally(begun=2)
    assert sentences(course) == ["It was stopped before the first request had ended."]


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
