"""The course of a shutdown: which phase it is in, and when the next begins."""

from __future__ import annotations

import math
import random

import pytest

from trioresil._kernel.shutdown import Course, Phase

ORDER: tuple[Phase, ...] = ("serving", "lead", "draining", "cancelled", "ended")


def test_nothing_is_due_before_somebody_asks() -> None:
    course = Course(5, 20)
    course.advance(1e9)
    assert (course.phase, course.due_at, course.closes_at, course.cancels_at) == (
        "serving",
        math.inf,
        math.inf,
        math.inf,
    )


def test_request_plans_both_instants() -> None:
    course = Course(5, 20)
    course.request(100, "tests")
    assert (course.phase, course.reason, course.requested_at) == ("lead", "tests", 100)
    assert (course.due_at, course.closes_at, course.cancels_at) == (105, 105, 125)


def test_phases_change_at_their_instants_not_before() -> None:
    course = Course(5, 20)
    course.request(100, "tests")
    seen = []
    for now in (104.5, 105, 124.5, 125):
        course.advance(now)
        seen.append((course.phase, course.due_at))
    assert seen == [("lead", 105), ("draining", 125), ("draining", 125), ("cancelled", math.inf)]
    assert course.cancel_reason == "tests, and its grace of 20 s is over"


def test_who_comes_late_goes_one_phase_at_a_time_and_keeps_the_plan() -> None:
    course = Course(5, 20)
    course.request(100, "tests")
    course.advance(1000)
    assert (course.phase, course.due_at) == ("draining", 125)
    course.advance(1000)
    assert course.phase == "cancelled"


@pytest.mark.parametrize(("own", "asked"), [(0, None), (5, 0)])
def test_without_a_lead_draining_begins_at_once(own: float, asked: float | None) -> None:
    course = Course(own, 20)
    course.request(100, "tests", asked)
    assert (course.phase, course.due_at) == ("draining", 120)


def test_lead_of_one_request_replaces_that_of_the_course() -> None:
    course = Course(5, 20)
    course.request(100, "tests", 1)
    assert (course.phase, course.due_at, course.cancels_at) == ("lead", 101, 121)


def test_later_request_changes_nothing() -> None:
    course = Course(5, 20)
    course.request(100, "first")
    course.request(101, "second", 0)
    assert (course.phase, course.reason, course.requested_at, course.due_at) == ("lead", "first", 100, 105)


def test_endless_grace_is_never_due() -> None:
    course = Course(5, math.inf)
    course.request(100, "tests")
    course.advance(105)
    assert (course.phase, course.due_at) == ("draining", math.inf)


def test_signal_asks_under_its_name() -> None:
    course = Course(5, 20)
    course.signal(100, "SIGTERM", hasty=False)
    assert (course.phase, course.reason, course.due_at, course.signals) == ("lead", "SIGTERM", 105, 1)


def test_hasty_signal_leaves_no_lead() -> None:
    course = Course(5, 20)
    course.signal(100, "SIGINT", hasty=True)
    assert (course.phase, course.closes_at, course.cancels_at) == ("draining", 100, 120)


@pytest.mark.parametrize("hasty", [False, True])
@pytest.mark.parametrize("now", [101, 106])
def test_second_signal_cancels_in_any_phase(now: float, hasty: bool) -> None:
    course = Course(5, 20)
    course.signal(100, "SIGTERM", hasty=False)
    course.advance(now)
    course.signal(now, "SIGHUP", hasty=hasty)
    assert (course.phase, course.cancel_reason, course.due_at) == ("cancelled", "SIGTERM, then SIGHUP", math.inf)
    assert course.closes_at == min(now, 105)


def test_first_signal_after_a_request_does_not_cancel() -> None:
    course = Course(5, 20)
    course.request(100, "tests")
    course.signal(101, "SIGTERM", hasty=False)
    assert (course.phase, course.reason, course.due_at) == ("lead", "tests", 105)
    course.signal(102, "SIGTERM", hasty=False)
    assert (course.phase, course.cancel_reason) == ("cancelled", "tests, then SIGTERM")


def test_first_hasty_signal_after_a_request_ends_the_lead() -> None:
    course = Course(5, 20)
    course.request(100, "tests")
    course.signal(101, "SIGINT", hasty=True)
    assert (course.phase, course.closes_at, course.due_at) == ("draining", 101, 121)


def test_first_hasty_signal_does_not_prolong_the_grace() -> None:
    course = Course(5, 20)
    course.request(100, "tests")
    course.advance(105)
    course.signal(110, "SIGINT", hasty=True)
    assert (course.phase, course.closes_at, course.due_at) == ("draining", 105, 125)


def test_reason_of_the_cancellation_is_the_first_one() -> None:
    course = Course(0, 1)
    course.request(100, "tests")
    course.advance(101)
    course.signal(102, "SIGTERM", hasty=False)
    course.signal(102, "SIGTERM", hasty=False)
    assert course.cancel_reason == "tests, and its grace of 1 s is over"


def test_what_has_ended_stays_so() -> None:
    course = Course(5, 20)
    course.request(100, "tests")
    course.end()
    assert course.due_at == math.inf
    course.advance(1000)
    course.request(1000, "again")
    course.signal(1000, "SIGTERM", hasty=True)
    course.signal(1000, "SIGTERM", hasty=True)
    assert (course.phase, course.reason, course.cancel_reason) == ("ended", "tests", None)


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_no_phase_comes_back(seed: int) -> None:
    chance = random.Random(seed)
    course, now, before = Course(chance.choice([0, 5]), chance.choice([0, 20, math.inf])), 0.0, 0
    for _ in range(20):
        now += chance.choice([0, 0, 1, 5, 20])
        what = chance.randrange(10)
        if what == 0:
            course.request(now, "tests", chance.choice([None, 0, 1]))
        elif what == 1:
            course.signal(now, "SIGTERM", hasty=chance.random() < 0.5)
        else:
            course.advance(now)
        after = ORDER.index(course.phase)
        assert after >= before
        assert (course.due_at < math.inf) == (
            course.phase == "lead" or (course.phase == "draining" and course.grace < math.inf)
        )
        before = after
