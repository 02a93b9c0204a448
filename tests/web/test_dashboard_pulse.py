"""The pulse: what is kept of policies and events, how much of it, and what never is."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.web._dashboard import fail_through, succeed
from trioresil import CircuitBreaker, ConsecutiveFailures, FailureRatio, FailuresOf, SlowRatio
from trioresil._web._dashboard_figures import describe, plain
from trioresil._web._dashboard_lines import line_of
from trioresil._web._dashboard_pulse import MAX_LINES, MAX_SAME, MAX_TRANSITIONS, Pulse, Series


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def new_pulse(clock: Callable[[], float] | None = None, **options: Any) -> Pulse:
    return Pulse(clock=clock or Hands(), wall=lambda: 1_000.0, **{"history": 10, **options})


def rejected(policy: Any) -> trioresil.CallRejected:
    return trioresil.CallRejected(policy=policy, error=trioresil.BulkheadFullError("slots", 1))


def timed_out(policy: Any) -> trioresil.TimedOut:
    return trioresil.TimedOut(policy=policy, seconds=1, started=True)


def opened(policy: Any) -> trioresil.CircuitOpened:
    return trioresil.CircuitOpened(policy=policy, open_for=5, level=0, error=None)


def figures_of(policy: Any) -> dict[str, Any]:
    _, read, _ = describe(policy.statistics())
    return read(policy.statistics(), policy)


# --- policies ----------------------------------------------------------------------------------------------------------


def test_an_idle_policy_is_told_once_and_then_only_what_changes() -> None:
    pulse, bulkhead = new_pulse(), trioresil.Bulkhead(3, name="slots")
    pulse.record(trioresil.PolicySeen(policy=bulkhead))
    [first] = pulse.sample(pulse.ids())
    assert (first["name"], first["kind"], first["f"]["limit"], first["f"]["waiting"]) == ("slots", "limit", 3, 0)
    assert "rate" in first["f"]
    assert pulse.sample(pulse.ids()) == []
    pulse.record(rejected(bulkhead))
    [change] = pulse.sample(pulse.ids())
    assert change["f"] == {"counts": {"CallRejected": 1}}
    assert change["v"] > first["v"]


def test_a_policy_that_only_had_an_event_is_shown_as_well() -> None:
    pulse, bulkhead = new_pulse(), trioresil.Bulkhead(3, name="slots")
    pulse.record(rejected(bulkhead))
    assert [each["name"] for each in pulse.sample(pulse.ids())] == ["slots"]


def test_no_policy_is_kept_alive_and_one_that_is_gone_is_told() -> None:
    pulse, bulkhead = new_pulse(), trioresil.Bulkhead(3)
    pulse.record(rejected(bulkhead))
    pulse.sample(pulse.ids())
    [number] = pulse.ids()
    held = weakref.ref(bulkhead)
    del bulkhead
    gc.collect()
    assert held() is None
    assert pulse.sample(pulse.ids()) == []
    assert pulse.end_round()["gone"] == [number]
    assert pulse.ids() == []
    assert pulse.policy(number) is None


def test_another_policy_at_the_same_place_in_memory_is_another_one() -> None:
    pulse, names = new_pulse(), []
    for number in range(50):  # CPython gives the memory of the one that went to the next
        policy = trioresil.Timeout(1, name=f"t{number}")
        pulse.record(trioresil.PolicySeen(policy=policy))
        names += [each["name"] for each in pulse.sample(pulse.ids())]
        del policy
    assert names == [f"t{number}" for number in range(50)]


def test_errors_are_not_kept_alive() -> None:
    class Error(ConnectionError):
        pass  # an instance of a class of one's own can be referred to weakly

    pulse, breaker, error = new_pulse(), CircuitBreaker(), Error("down")
    held = weakref.ref(error)
    pulse.record(trioresil.CircuitOpened(policy=breaker, open_for=5, level=0, error=error))
    del error
    assert held() is None


def test_policies_beyond_the_most_are_counted_and_make_room_when_others_go() -> None:
    pulse = new_pulse(max_policies=2)
    first, second, third = (trioresil.Timeout(1, name=name) for name in "abc")
    for each in (first, second, third):
        pulse.record(timed_out(each))
    assert len(pulse.ids()) == 2
    assert pulse.summary(10)["left_out"] == 1
    assert [each["name"] for each in pulse.summary(10)["lines"]] == ["a", "b", "c"]
    del first, each
    gc.collect()
    pulse.record(timed_out(third))
    assert [each["name"] for each in pulse.sample(pulse.ids())] == ["b", "c"]


def test_statistics_that_raise_are_shown_and_harm_nobody() -> None:
    class Broken:
        name = "broken"

        def statistics(self) -> None:
            raise ZeroDivisionError("at https://me:secret@host/?q=1")

    pulse, broken, good = new_pulse(), Broken(), trioresil.Timeout(1)
    for each in (broken, good):
        pulse.add(each)
    told = pulse.sample(pulse.ids())
    assert told[0]["f"]["told"] == "statistics() raised ZeroDivisionError: at https://host/"
    assert told[1]["name"] == "timeout"


def test_a_name_that_cannot_be_asked_for_is_that_of_the_class() -> None:
    class Nameless:
        @property
        def name(self) -> str:
            raise ZeroDivisionError

        def statistics(self) -> None:
            return None

    pulse, nameless = new_pulse(), Nameless()
    pulse.add(nameless)
    assert pulse.sample(pulse.ids())[0]["name"] == "Nameless"


# --- series and rates ---------------------------------------------------------------------------------------------------


def test_a_series_keeps_the_last_numbers_in_order() -> None:
    series = Series(3)
    for number in range(5):
        series.append(number)
    assert series.values() == [2, 3, 4]
    series.append(float("nan"))
    assert series.values() == [3, 4, None]


def test_rates_are_growth_by_time() -> None:
    clock = Hands()
    pulse, timeout = new_pulse(clock), trioresil.Timeout(1)
    pulse.add(timeout)
    pulse.sample(pulse.ids())
    pulse.end_round()
    clock.now = 2.0
    for _ in range(6):
        pulse.record(timed_out(timeout))
    [change] = pulse.sample(pulse.ids())
    assert change["f"]["rate"] == 3
    tick = pulse.end_round()
    assert (tick["rates"]["timeouts"], tick["rates"]["events"], tick["rates"]["calls"]) == (3, 3, 0)
    clock.now = 3.0
    assert pulse.sample(pulse.ids())[0]["f"] == {"rate": 0}
    assert pulse.whole(pulse.ids())[0]["s"] == {"rate": [0, 3, 0]}
    pulse.end_round()
    assert pulse.summary(1)["series"]["timeouts"] == [0, 3, 0]


def test_a_look_between_two_rounds_adds_nothing_to_the_series() -> None:
    clock = Hands()
    pulse, timeout = new_pulse(clock), trioresil.Timeout(1)
    pulse.add(timeout)
    pulse.sample(pulse.ids())
    pulse.record(timed_out(timeout))
    clock.now = 0.5
    [change] = pulse.sample(pulse.ids(), round_ends=False)
    assert change["f"] == {"counts": {"TimedOut": 1}}
    assert pulse.whole(pulse.ids())[0]["s"] == {"rate": [0]}
    clock.now = 1.0
    assert pulse.sample(pulse.ids())[0]["f"] == {"rate": 1}


def test_percentiles_and_bad_calls_of_a_pipeline() -> None:
    clock = Hands()
    pulse, pipeline = new_pulse(clock), trioresil.Pipeline(trioresil.Timeout(9), name="call")
    pulse.add(pipeline)
    pulse.sample(pulse.ids())
    clock.now = 1.0
    for number in range(1, 101):
        outcome: Any = "failure" if number > 90 else "rejected" if number > 80 else "success"
        pulse.record(trioresil.CallFinished(policy=pipeline, outcome=outcome, seconds=number / 1000, error=None))
    [change] = pulse.sample(pulse.ids())
    assert {name: change["f"][name] for name in ("p50", "p99", "rate", "bad_rate")} == {
        "p50": 0.05,
        "p99": 0.099,
        "rate": 100,
        "bad_rate": 20,
    }


# --- lines --------------------------------------------------------------------------------------------------------------


def test_what_is_frequent_is_counted_instead_of_listed_and_never_crowds_out_a_transition() -> None:
    clock = Hands()
    pulse, breaker = new_pulse(clock), CircuitBreaker(name="search")
    many = [trioresil.Timeout(1, name=f"t{number}") for number in range(40)]
    for _ in range(10):
        for timeout in many:
            pulse.record(timed_out(timeout))
    pulse.record(opened(breaker))
    lines = pulse.take_lines()
    assert len(lines) == MAX_LINES + 1
    assert sum(each["name"] == "t0" for each in lines) <= MAX_SAME
    assert (lines[-1]["event"], lines[-1]["level"]) == ("CircuitOpened", "error")
    assert pulse.unlisted == 400 - MAX_LINES
    assert pulse.take_lines() == []
    clock.now = 1.0
    pulse.record(timed_out(many[0]))
    assert len(pulse.take_lines()) == 1


def test_of_the_same_only_a_few_are_listed_in_a_second() -> None:
    pulse, timeout, other = new_pulse(), trioresil.Timeout(1), trioresil.Timeout(1)
    for _ in range(20):
        pulse.record(timed_out(timeout))
    pulse.record(timed_out(other))
    assert len(pulse.take_lines()) == MAX_SAME + 1


def test_transitions_are_bounded_too() -> None:
    pulse, breaker = new_pulse(), CircuitBreaker()
    for _ in range(MAX_TRANSITIONS + 5):
        pulse.record(opened(breaker))
    assert len(pulse.take_lines()) == MAX_TRANSITIONS
    assert pulse.unlisted == 5


def test_the_log_keeps_the_newest() -> None:
    clock = Hands()
    pulse, timeout = new_pulse(clock, max_events=5), trioresil.Timeout(1)
    for second in range(10):
        clock.now = float(second)
        pulse.record(timed_out(timeout))
    assert [each["n"] for each in pulse.summary(3)["lines"]] == [8, 9, 10]
    assert [each["n"] for each in pulse.take_lines()] == [6, 7, 8, 9, 10]


def test_a_transition_wakes_and_is_urgent_and_what_is_frequent_does_not_wake() -> None:
    pulse, breaker, woken = new_pulse(), CircuitBreaker(), []
    pulse.wake = lambda: woken.append(1)
    pulse.record(rejected(breaker))
    [number] = pulse.take_urgent()  # it is new
    pulse.record(rejected(breaker))
    assert (woken, pulse.take_urgent()) == ([], [])
    pulse.record(opened(breaker))
    assert (woken, pulse.take_urgent()) == ([1], [number])


def test_a_success_and_a_rejection_of_a_pipeline_have_no_line_and_a_failure_has() -> None:
    pulse, pipeline = new_pulse(), trioresil.Pipeline(trioresil.Timeout(9))
    outcomes: Any = ("success", "rejected", "cancelled", "failure")
    for outcome in outcomes:
        pulse.record(trioresil.CallFinished(policy=pipeline, outcome=outcome, seconds=1, error=OSError("down")))
    assert [each["text"] for each in pulse.take_lines()] == ["call failure after 1 s: OSError: down"]


def test_an_event_that_cannot_be_shown_is_told_of() -> None:
    pulse, breaker = new_pulse(), CircuitBreaker()
    strange: Any = "soon"
    pulse.record(trioresil.CircuitOpened(policy=breaker, open_for=strange, level=0, error=None))
    assert "CircuitOpened, which can't be shown" in pulse.take_lines()[0]["text"]


# --- secrets ------------------------------------------------------------------------------------------------------------

SECRET = "https://me:hunter2@host/path?key=sesame"
ERROR = ConnectionError(f"{SECRET} said no; authorization: Bearer hunter2hunter2")


@pytest.mark.parametrize(
    "event",
    [
        trioresil.CallRejected(policy=None, error=ERROR),
        trioresil.RetryScheduled(policy=None, attempt=1, delay=1, error=ERROR),
        trioresil.RetryGaveUp(policy=None, reason="attempts", attempts=3, waited=1, error=ERROR, errors=()),
        trioresil.CircuitOpened(policy=None, open_for=1, level=0, error=ERROR),
        trioresil.FellBack(policy=None, alternative="cache", error=ERROR),
        trioresil.ConnectFailed(policy=None, origin="https://host", error=ERROR),
        trioresil.ChildFailed(policy=None, child="feed", error=ERROR, outcome="restarts"),
        trioresil.StreamBroken(policy=None, session=1, reason="failed", error=ERROR, delay=1),
        trioresil.StreamGaveUp(policy=None, sessions=1, reason="error", error=ERROR),
        trioresil.CallFinished(policy=None, outcome="failure", seconds=1, error=ERROR),
        trioresil.ShutdownRequested(policy=None, reason=SECRET, lead=1, grace=1),
    ],
)
def test_no_line_tells_a_secret(event: trioresil.Event) -> None:
    _, text = line_of(event)
    assert "https://host" in text
    assert "hunter2" not in text
    assert "sesame" not in text


@pytest.mark.parametrize("kind", trioresil.Event.__subclasses__())
def test_every_event_has_words_of_its_own(kind: type[trioresil.Event]) -> None:
    from trioresil import _events
    from trioresil._web import _dashboard_lines

    internal = {_events.PolicySeen, _events.CallStarted, _events.AttemptStarted, _events.AttemptFinished}
    special = {_events.CallFinished, _events.HealthChanged}
    assert kind in internal | special or kind.__name__ in _dashboard_lines._WORDS


# --- figures ------------------------------------------------------------------------------------------------------------


async def test_each_rule_tells_how_near_a_circuit_is_to_opening(autojump_clock: MockClock) -> None:
    third = {"what": "failure ratio", "value": 0.3333, "limit": 0.5, "calls": 3}
    rules = [
        (ConsecutiveFailures(5), {"what": "consecutive failures", "value": 1, "limit": 5}, 0.2),
        (FailuresOf(4, of=10), {"what": "failures in the last 10 calls", "value": 1, "limit": 4}, 0.25),
        (FailureRatio(0.5, min_calls=1_000), third | {"needs": 1000}, 0.6667),
        (FailureRatio(0.5, min_calls=4), third | {"needs": 4}, 0.6667),
        (FailureRatio(0.5, min_calls=3), third, 0.6667),
        (SlowRatio(0.25, slower_than=1), {"what": "slow ratio", "value": 0.0, "limit": 0.25, "calls": 3, "needs": 20}, 0.0),
    ]  # fmt: skip
    for rule, wanted, nearness in rules:
        breaker = CircuitBreaker(trip=rule)
        await breaker.call(succeed)
        await breaker.call(succeed)
        await fail_through(breaker)
        figures = figures_of(breaker)
        assert (figures["gauges"], figures["nearness"]) == ([wanted], nearness)
    both = figures_of(CircuitBreaker(trip=FailureRatio(0.5) | ConsecutiveFailures(5)))
    assert [each["what"] for each in both["gauges"]] == ["failure ratio", "consecutive failures"]


async def test_figures_of_every_kind_are_plain_and_complete(autojump_clock: MockClock) -> None:
    budget = trioresil.RetryBudget()
    policies = [
        CircuitBreaker(),
        trioresil.Bulkhead(3),
        trioresil.TokenBucket(rate=2, capacity=5),
        trioresil.Retry(on=OSError, budget=budget),
        trioresil.Timeout(3),
        trioresil.Fallback(succeed, on=OSError),
        trioresil.Keyed(lambda key: trioresil.Timeout(1), key=lambda *args: "k"),
        trioresil.Pipeline(trioresil.Timeout(3), name="call"),
    ]
    kinds = [describe(each.statistics())[0] for each in policies]
    assert kinds == ["circuit", "limit", "bucket", "retry", "timeout", "fallback", "keyed", "pipeline"]
    for each in policies:
        json.dumps(figures_of(each), allow_nan=False)
    assert figures_of(policies[3])["budget"]["refused"] == 0
    assert figures_of(policies[2])["refill"] == 2
    assert figures_of(policies[1])["limit"] == 3


async def test_a_supervisor_is_told_as_a_tree(autojump_clock: MockClock) -> None:
    async def inner() -> None:
        async with trioresil.open_supervisor(name="inner") as below:
            below.start_soon(trio.sleep_forever, name="leaf")
            await trio.sleep_forever()

    async with trioresil.open_supervisor(name="outer") as supervisor:
        supervisor.start_soon(inner, name="branch")
        await trio.sleep(2.5)
        told = figures_of(supervisor)
        assert [child["name"] for child in told["children"]] == ["branch"]
        [below] = told["children"][0]["below"]
        assert (below["name"], below["children"][0]["name"], below["children"][0]["uptime"]) == ("inner", "leaf", 2)


async def test_a_streams_resume_token_is_not_told(autojump_clock: MockClock) -> None:
    async def session(link: Any) -> None:
        await link.send_item("item", resume="secret-token")
        await trio.sleep_forever()

    async with trioresil.open_stream(session, on=OSError, name="feed") as stream:
        async for item in stream:
            assert item == "item"
            break
        assert "secret-token" in repr(stream.statistics())
        assert "secret-token" not in json.dumps(figures_of(stream))


def test_what_is_infinite_is_a_word_and_what_is_no_number_is_none() -> None:
    assert (plain(float("inf")), plain(float("nan")), plain(0.123456), plain(7)) == ("inf", None, 0.1235, 7)


def test_a_policy_of_the_users_own_shows_its_repr_or_its_fields_without_secrets() -> None:
    class Own:
        name = "own"

        def statistics(self) -> dict[str, str]:
            return {"url": SECRET}

    kind, read, _ = describe(Own().statistics())
    assert kind == "other"
    assert read(Own().statistics(), Own()) == {"told": "{'url': 'https://host/path'}"}
