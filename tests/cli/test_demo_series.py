"""A course as series, scales and figures: what the report draws is what was counted."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import trio

import trioresil
from trioresil.cli._demo.chart import line, rate_axis, share_axis, steps, time_axis, wait_axis
from trioresil.cli._demo.course import Course, Options
from trioresil.cli._demo.events import EventCounter
from trioresil.cli._demo.figures import MAX_SPELLS, figures
from trioresil.cli._demo.series import Spell, seconds_shown, spells, stretches
from trioresil.cli._demo.timeline import Tally


def ended_course(seconds: float = 20.0, rate: float = 40.0, after: float | None = None) -> Course:
    """A course that looks as if it had run, with nothing in it."""
    course = Course(Options(seconds=seconds, rate=rate))
    course.state = "over"
    course._ended_at = seconds + 1 if after is None else after
    return course


# --- stretches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "rate", "count"), [(20, 40, 40), (600, 40, 60), (20, 1, 20), (1, 80, 10), (5, 40, 17)]
)
def test_stretches_are_as_many_as_the_requests_allow(seconds: float, rate: float, count: int) -> None:
    seen = stretches(ended_course(seconds, rate))
    assert len(seen) == count
    assert (seen[0].begins, seen[-1].ends) == (0, seconds)
    assert all(left.ends == right.begins for left, right in pairwise(seen))


def test_a_stretch_has_the_figures_of_its_slices() -> None:
    course = ended_course()
    for index, (wait, outcome) in enumerate([(0.3, "fresh"), (0.1, "cached"), (0.2, "failed")]):
        tally = course.timeline.slices[3 + index].resilient
        tally.begun += 2
        tally.sent += 5
        tally.add(outcome)
        tally.waits.append(wait)
    stretch = stretches(course)[1]
    assert (stretch.begins, stretch.ends, stretch.middle) == (0.5, 1.0, 0.75)
    assert stretch.resilient.answered == 2 / 3
    assert stretch.resilient.fresh == 1 / 3
    assert (stretch.resilient.median, stretch.resilient.tail) == (0.2, 0.3)
    assert stretch.resilient.load == 30
    assert (stretch.bare.answered, stretch.bare.median, stretch.bare.load) == (None, None, 0)


def test_the_tail_is_the_95th_percentile() -> None:
    course = ended_course()
    tally = course.timeline.slices[0].bare
    for wait in range(20, 0, -1):
        tally.begun += 1
        tally.add("fresh")
        tally.waits.append(float(wait))
    assert (stretches(course)[0].bare.median, stretches(course)[0].bare.tail) == (10.0, 19.0)


def test_what_was_stopped_ends_where_it_was_stopped_and_the_broken_stretch_has_no_load() -> None:
    course = ended_course(after=1.2)
    course.timeline.slices[6].bare = Tally(begun=2, fresh=2, sent=2)
    seen = stretches(course)
    assert [(each.begins, each.ends) for each in seen] == [(0, 0.5), (0.5, 1.0), (1.0, 1.2)]
    assert seen[-1].bare.load is None
    assert seen[-1].bare.answered == 1
    assert seen[1].bare.load == 0
    assert seconds_shown(course) == 1.2


def test_a_stretch_knows_the_weather_in_which_it_begins() -> None:
    weather = [each.weather for each in stretches(ended_course())]
    assert weather == ["fair"] * 16 + ["outage"] * 6 + ["restarting"] * 2 + ["fair"] * 16


def test_spells_are_the_circuits_states_from_begin_to_end() -> None:
    course = ended_course()
    course.events.circuit_states += [(8.0, "open"), (8.5, "half-open"), (9.0, "closed"), (20.5, "open")]
    assert spells(course) == [
        Spell(0, 8, "closed"),
        Spell(8, 8.5, "open"),
        Spell(8.5, 9, "half-open"),
        Spell(9, 20, "closed"),
    ]


async def test_the_counter_keeps_each_state_once_with_its_time(autojump_clock: object) -> None:
    began_at = trio.current_time()
    counter = EventCounter(lambda: trio.current_time() - began_at)
    breaker = trioresil.CircuitBreaker()
    with trioresil.instrument(counter):
        await trio.sleep(1)
        breaker.open(1)
        breaker.open(2)
        await trio.sleep(2)
        await breaker.call(trio.sleep, 0.5)
    assert counter.circuit_states == [(0, "closed"), (1, "open"), (3, "half-open"), (3.5, "closed")]


# --- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "texts"),
    [
        (20, ["0 s", "5 s", "10 s", "15 s", "20 s"]),
        (1, ["0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1 s"]),
        (600, ["0 s", "200 s", "400 s", "600 s"]),
        (3.3, ["0 s", "1 s", "2 s", "3 s"]),
    ],
)
def test_time_has_round_ticks(seconds: float, texts: list[str]) -> None:
    ticks = time_axis(seconds)
    assert [each.text for each in ticks] == texts
    assert [each.place for each in ticks] == pytest.approx(
        [100 * float(text.removesuffix(" s")) / seconds for text in texts]
    )


def test_shares_go_from_the_bottom_to_the_top() -> None:
    axis = share_axis()
    assert [axis.place(value) for value in (0.0, 0.25, 1.0)] == [100, 75, 0]
    assert [each.text for each in axis.ticks] == ["0 %", "25 %", "50 %", "75 %", "100 %"]


@pytest.mark.parametrize(("most", "top"), [(40, 40), (72, 80), (0.5, 0.6), (0, 1)])
def test_rates_begin_at_0_and_the_greatest_is_inside(most: float, top: float) -> None:
    axis = rate_axis([0.0, most, None])
    assert axis.ticks[0].place == 100
    assert axis.ticks[-1].place == pytest.approx(0)
    assert axis.ticks[-1].text == f"{top:g}/s"
    assert 0 <= axis.place(most) <= 100


def test_waits_are_on_a_logarithmic_scale_of_whole_powers() -> None:
    axis = wait_axis([0.02, None, 3.0])
    assert [each.text for each in axis.ticks] == ["10 ms", "", "100 ms", "", "1 s", "", "10 s"]
    assert [axis.place(value) for value in (10.0, 1.0, 0.1, 0.01)] == pytest.approx([0, 100 / 3, 200 / 3, 100])


def test_what_is_below_a_millisecond_is_at_the_bottom() -> None:
    axis = wait_axis([0.000001, 0.5])
    assert (axis.ticks[0].text, axis.ticks[-1].text) == ("1 ms", "1 s")
    assert [axis.place(value) for value in (0.0, 0.000001, 0.001)] == pytest.approx([100, 100, 100])


@pytest.mark.parametrize("values", [[], [None], [0.0], [1.0], [0.1], [1000.0]])
def test_any_waits_have_a_scale(values: list[float | None]) -> None:
    axis = wait_axis(values)
    assert len(axis.ticks) >= 2
    assert all(math.isfinite(each.place) for each in axis.ticks)
    assert all(-1e-9 <= axis.place(value) <= 100 for value in values if value is not None)


# --- lines -----------------------------------------------------------------------------------------------------------


def test_a_line_goes_through_its_points() -> None:
    assert line([(0, 0.0), (5, 0.5), (10, 1.0)], 10, share_axis()) == "M0,100L50,50L100,0"


def test_a_gap_breaks_a_line_and_a_point_alone_is_a_dot() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, 0.0), (3.0, 0.0), (4.0, None), (5.0, 1.0)]
    assert line(points, 10, share_axis()) == "M0,0h0M20,100L30,100M50,0h0"


def test_a_line_of_nothing_is_nothing() -> None:
    assert line([(0, None)], 10, share_axis()) == ""
    assert steps([], 10) == ""


def test_steps_stay_level_until_the_next_and_to_the_end() -> None:
    assert steps([(0, 85), (8, 15), (9.5, 50)], 20) == "M0,85H40V15H47.5V50H100"


# --- figures ---------------------------------------------------------------------------------------------------------


def told(course: Course) -> dict[str, str]:
    return {each.key: each.told for each in figures(course)}


def filled_course() -> Course:
    course = ended_course()
    for slice_ in course.timeline.slices:
        down = slice_.weather != "fair"
        slice_.bare = Tally(begun=5, fresh=0 if down else 5, failed=5 if down else 0, sent=5)
        slice_.bare.waits = [2.5 if down else 0.03] * 5
        slice_.resilient = Tally(begun=5, fresh=0 if down else 5, cached=5 if down else 0, sent=1 if down else 5)
        slice_.resilient.waits = [0.02] * 5
    course.events.circuit_states += [(8.25, "open"), (12.0, "half-open"), (12.25, "closed")]
    course.events.circuit_opened = 1
    return course


def test_each_figure_says_what_is_seen() -> None:
    assert told(filled_course()) == {
        "answered": "At worst, bare httpx answered 0.0 % (from 8.0 s), and trioresil answered 100.0 % throughout.",
        "load": "At most, bare httpx sent the service 30.0/s throughout, and trioresil sent the service 30.0/s (from 0.0 s). "
        "While it answered nothing, it still got 30.0/s from bare httpx and 6.0/s from trioresil, on average.",
        "waits": "At worst, bare httpx let one caller in twenty wait 2.50 s or longer (from 8.0 s), and trioresil let one caller "
        "in twenty wait 20 ms or longer throughout.",
        "circuit": "It opened once and was open for 3.8 of 20.0 s.",
    }


def test_a_course_without_ends_and_outage_has_figures_too() -> None:
    course = ended_course(after=0.1)
    course.timeline.slices[0].bare.begun = 1
    assert told(course) == {
        "answered": "It was stopped too early to tell.",
        "load": "It was stopped too early to tell.",
        "waits": "It was stopped too early to tell.",
        "circuit": "It never opened.",
    }


def test_a_table_has_the_values_of_every_curve_in_the_order_of_the_legend() -> None:
    for figure in figures(filled_course()):
        for panel in figure.panels:
            assert len(panel.table_columns) == len(figure.legend)
            assert {each.kind for each in panel.curves} == {kind for kind, _ in figure.legend}
        assert all(len(cells) + 1 == len(figure.columns) for _, cells in figure.rows)
        if figure.key != "circuit":
            assert len(figure.rows) == 40
    answered = next(each for each in figures(filled_course()) if each.key == "answered")
    assert answered.columns == ("From", "bare httpx", "trioresil", "trioresil, fresh only")
    assert answered.rows[16] == (8.0, ("0.0 %", "100.0 %", "0.0 %"))


def test_a_circuit_that_changes_all_the_time_has_a_table_that_ends() -> None:
    course = ended_course()
    course.events.circuit_states += [(0.05 * n, "open" if n % 2 else "half-open") for n in range(1, MAX_SPELLS + 5)]
    circuit = figures(course)[-1]
    assert (len(circuit.rows), circuit.left_out) == (MAX_SPELLS, 5)
