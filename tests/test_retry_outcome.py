"""What comes out of a Retry: whose exception object, with which note and event, and what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, OTHER_FORMS, After, Form, Script, refuse
from trioresil.testing import Recorder


class Passing(Exception):
    """Worth another attempt in these tests."""


class Lasting(Exception):
    """Not worth one."""


class Exit(BaseException):
    """No failure at all."""


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def retry_with(**configuration: Any) -> trioresil.Retry:
    defaults = {"on": (Passing, trioresil.RejectedError), "backoff": [1, 2, 4], "name": "search"}
    return trioresil.Retry(**{**defaults, **configuration})


async def outcome_of(form: Form, retry: trioresil.Retry, script: Script) -> Exception:
    try:
        result = await form(retry, script.run)
    except Exception as exc:
        return exc
    raise AssertionError(f"it returned {result!r}")


# --- whose error


async def test_last_started_attempts_error_comes_out(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    started = [Passing(1), Passing(2)]
    script = Script(started[0], refuse(), started[1], refuse(), refuse())
    assert await outcome_of(form, retry_with(), script) is started[1]
    assert len(script.began_at) == 5


async def test_rejection_comes_out_if_nothing_ever_started(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    refusals = [refuse(), refuse(), refuse()]
    error = await outcome_of(form, retry_with(max_attempts=3), Script(*refusals))
    assert error is refusals[-1].error
    assert refusals[-1].error.started is False


async def test_timeout_in_a_queue_is_no_started_attempt(
    form: Form, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    queue = trio.CapacityLimiter(1)
    retry = retry_with(on=Exception, max_attempts=2)
    stuck = trioresil.Pipeline(trioresil.Timeout(0.5), trioresil.Bulkhead(queue))
    first = Passing()

    async def fails_and_blocks_the_queue() -> None:
        nursery.start_soon(queue.acquire)  # gets what this call is about to give back
        await trio.testing.wait_all_tasks_blocked()
        raise first

    with pytest.raises(Passing) as caught:
        await form(retry, stuck(fails_and_blocks_the_queue))
    assert caught.value is first
    assert trio.current_time() == 1.5


async def test_open_circuit_doesnt_hide_the_error_of_the_attempt_that_ran(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(1), open_for=50)
    script = Script(Passing())
    retry = retry_with(delay_hint=lambda error: None)  # or it would wait for the probe
    with pytest.raises(Passing) as caught:
        await form(retry, breaker(script.run))
    assert len(script.began_at) == 1
    assert trio.current_time() == 11
    assert caught.value.__notes__[0].startswith("trioresil: retry 'search' gave up after 5 attempts and 11 s")


async def test_retry_waits_for_the_open_circuits_probe(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(1), open_for=50)
    script = Script(Passing(), "value")
    assert await form(retry_with(), breaker(script.run)) == "value"
    assert script.began_at == [0, 50]


async def test_foreign_rejection_out_of_a_started_attempt_is_an_ordinary_failure(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    inside = [trioresil.CircuitOpenError("elsewhere", 0.5) for _ in range(2)]
    error = await outcome_of(form, retry_with(max_attempts=3), Script(*inside, refuse()))
    assert error is inside[1]
    assert inside[1].started is True


async def test_unmatched_error_comes_out_at_once_with_a_note(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    lasting = Lasting()
    assert await outcome_of(form, retry_with(), Script(Passing("a"), lasting)) is lasting
    assert lasting.__notes__ == [
        "trioresil: retry 'search' gave up after 2 attempts and 1 s of waiting: `on` doesn't match this error\n"
        "  attempt 1: Passing('a')"
    ]


async def test_unmatched_rejection_after_a_started_attempt_gives_way_to_it(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    started = Passing()
    script = Script(started, refuse(), "never reached")
    assert await outcome_of(form, retry_with(on=Passing), script) is started
    assert len(script.began_at) == 2


async def test_unmatched_rejection_comes_out_if_nothing_started(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    refusals = [refuse(name="full"), refuse(name="closed")]
    error = await outcome_of(form, retry_with(on=lambda error: error.policy == "full"), Script(*refusals))
    assert error is refusals[1].error
    assert error.__notes__ == [
        "trioresil: retry 'search' gave up after 2 attempts and 1 s of waiting: `on` doesn't match this error\n"
        "  attempt 1: RejectedError('full: rejected')"
    ]


# --- notes


class Unshowable(Passing):
    """An error with a bug in its repr."""

    def __repr__(self) -> str:
        raise ValueError("this one can't be shown")


async def test_error_without_a_repr_is_noted_by_its_type(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Passing("last")
    assert await outcome_of(form, retry_with(max_attempts=2), Script(Unshowable(), error)) is error
    assert error.__notes__ == [
        "trioresil: retry 'search' gave up after 2 attempts and 1 s of waiting\n  attempt 1: <Unshowable>"
    ]


async def test_error_without_a_repr_leaves_a_cancellation_alone(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(0.5) as scope:
        await form(retry_with(backoff=[0, 9]), Script(Unshowable(), After(1, "value")).run)
    assert scope.cancelled_caught


async def test_long_repr_is_cut_short_in_a_note(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    fits = Passing("x" * 189)
    error, earlier = Passing("last"), [fits, Passing("x" * 190)]
    assert len(repr(fits)) == 200
    assert await outcome_of(form, retry_with(max_attempts=3), Script(*earlier, error)) is error
    _, first, second = error.__notes__[0].splitlines()
    assert first == f"  attempt 1: {fits!r}"
    assert second == f"  attempt 2: Passing('{'x' * 190}…"


async def test_first_unmatched_error_gets_no_note_and_no_event(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        error = await outcome_of(form, retry_with(), Script(Lasting()))
    assert not hasattr(error, "__notes__")
    assert [type(event) for event in recorder.events] == [trioresil.PolicySeen]


def small_budget() -> trioresil.RetryBudget:
    return trioresil.RetryBudget(ratio=0.1, min_per_second=0.01, window=100)


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({"max_attempts": 1}, "1 attempt and 0 s of waiting"),
        ({"max_attempts": 4}, "4 attempts and 7 s of waiting"),
        ({"max_attempts": 2, "backoff": [3.25]}, "2 attempts and 3.25 s of waiting"),
        (
            {"delay_hint": lambda error: 61},
            "1 attempt and 0 s of waiting: the wait asked for is longer than max_hint",
        ),
        ({"backoff": [1, 1000]}, "2 attempts and 1 s of waiting: the next wait would pass the deadline"),
        ({"budget": small_budget}, "2 attempts and 1 s of waiting: the retry budget is spent"),
    ],
)
async def test_note_tells_how_it_ended(
    changes: Any, ending: str, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    if "budget" in changes:
        changes = {"budget": changes["budget"]()}
    with trio.fail_after(500):
        error = await outcome_of(form, retry_with(**changes), Script(*[After(9, Passing()) for _ in range(5)]))
    (note,) = error.__notes__
    assert note.splitlines()[0] == f"trioresil: retry 'search' gave up after {ending}"


async def test_note_has_a_line_for_each_of_the_last_ten_earlier_errors(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    for attempts, listed in ((3, range(1, 3)), (11, range(1, 11)), (12, range(2, 12)), (40, range(30, 40))):
        script = Script(*(Passing(number) for number in range(1, attempts + 1)))
        error = await outcome_of(form, retry_with(max_attempts=attempts), script)
        (note,) = error.__notes__
        assert note.splitlines()[1:] == [f"  attempt {number}: Passing({number})" for number in listed]


async def test_note_lists_later_rejections_of_the_error_that_comes_out(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = await outcome_of(form, retry_with(max_attempts=3), Script(Passing(), refuse(name="a"), refuse(name="b")))
    (note,) = error.__notes__
    assert note.splitlines()[1:] == [
        "  attempt 2: RejectedError('a: rejected')",
        "  attempt 3: RejectedError('b: rejected')",
    ]


async def test_kept_error_is_listed_once_however_many_rejections_follow(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    first = Passing()
    assert await outcome_of(form, retry_with(max_attempts=30), Script(first, refuse())) is first
    (note,) = first.__notes__
    assert [line.split(":")[0] for line in note.splitlines()[1:]] == [f"  attempt {n}" for n in range(21, 31)]


async def test_success_leaves_no_note_on_earlier_errors(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Passing()
    await form(retry_with(), Script(error, "value").run)
    assert not hasattr(error, "__notes__")


# --- events


async def test_events_tell_each_wait_and_the_end(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    errors = [Passing(1), Passing(2)]
    retry = retry_with(max_attempts=3, on_result=lambda result: result == "poor")
    recorder = Recorder()
    with trioresil.instrument(recorder):
        error = await outcome_of(form, retry, Script("poor", *errors))
    assert error is errors[1]
    assert recorder.events == [
        trioresil.PolicySeen(policy=retry),
        trioresil.RetryScheduled(policy=retry, attempt=1, delay=1, error=None, result="poor"),
        trioresil.RetryScheduled(policy=retry, attempt=2, delay=2, error=errors[0], result=None),
        trioresil.RetryGaveUp(
            policy=retry, reason="attempts", attempts=3, waited=3, error=errors[1], errors=tuple(errors)
        ),
    ]


async def test_giving_up_on_a_result_has_no_error(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    retry = retry_with(max_attempts=2, on_result=lambda result: True)
    recorder = Recorder()
    error = Passing()
    with trioresil.instrument(recorder):
        assert await form(retry, Script(error, "poor").run) == "poor"
    (gave_up,) = recorder.of(trioresil.RetryGaveUp)
    assert (gave_up.error, gave_up.errors, gave_up.attempts) == (None, (error,), 2)
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "attempts"),
        ({"delay_hint": lambda error: 61}, "hint"),
        ({"backoff": [1, 1000]}, "deadline"),
        ({"on": lambda error: "3" not in str(error)}, "unmatched"),
        ({"budget": small_budget}, "budget"),
    ],
)
async def test_event_gives_the_reason(
    changes: Any, reason: str, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    if "budget" in changes:
        changes = {"budget": changes["budget"]()}
    recorder = Recorder()
    errors = [Passing(number) for number in range(1, 21)]
    with trioresil.instrument(recorder), trio.fail_after(500):
        error = await outcome_of(form, retry_with(max_attempts=13, **changes), Script(*errors))
    (gave_up,) = recorder.of(trioresil.RetryGaveUp)
    assert gave_up.reason == reason
    assert gave_up.error is error
    assert gave_up.attempts == errors.index(error) + 1
    assert gave_up.errors == tuple(errors[: gave_up.attempts][-10:])
    assert gave_up.waited == sum(event.delay for event in recorder.of(trioresil.RetryScheduled))


async def test_happy_path_tells_nothing_and_reads_no_clock(
    form: Form, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    reads: list[None] = []
    monkeypatch.setattr("trioresil._policies.retry.current_time", lambda: reads.append(None) or trio.current_time())

    async def work() -> str:
        return "value"

    retry = retry_with()
    with trioresil.instrument(recorder):
        for _ in range(2):
            assert await form(retry, work) == "value"
    assert recorder.events == [trioresil.PolicySeen(policy=retry)]
    assert reads == []
    await form(retry, Script(Passing(), "value").run)
    assert reads == [None]  # and one for a wait


# --- the object itself


async def test_error_keeps_its_cause_and_its_context(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    cause, context = KeyError(), LookupError()

    async def fails() -> None:
        try:
            raise context
        except LookupError:
            raise Passing from cause

    for work in (fails, Script(Passing()).run):
        bare = await _caught(work)
        try:
            raise RuntimeError("the caller is just handling this")
        except RuntimeError:
            retried = await _caught(lambda work=work: form(retry_with(max_attempts=3), work))
        assert retried.__cause__ is bare.__cause__
        expected = type(bare.__context__) if bare.__context__ else RuntimeError
        assert type(retried.__context__) is expected


async def _caught(work: Any) -> Exception:
    try:
        await work()
    except Exception as exc:
        return exc
    raise AssertionError("nothing was raised")


async def test_attempts_dont_chain_onto_each_other(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = await outcome_of(form, retry_with(), Script(*(Passing(number) for number in range(9))))
    assert error.__context__ is error.__cause__ is None


async def test_traceback_doesnt_grow_with_the_attempts(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    lengths = set()
    for attempts in (2, 5, 50):
        script = Script(*(Passing(number) for number in range(attempts)))
        error = await outcome_of(form, retry_with(max_attempts=attempts), script)
        frames = traceback.extract_tb(error.__traceback__)
        lengths.add(len(frames))
        assert frames[-1].name == "_perform"
    assert len(lengths) == 1


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free anything here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


ENDINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "success": ({}, ["fail", "fail", "succeed"]),
    "giving up": ({"max_attempts": 3}, ["fail", "fail", "fail"]),
    "an older error": ({"max_attempts": 3}, ["fail", "fail", "refuse"]),
    "rejections only": ({"max_attempts": 2}, ["refuse", "refuse"]),
    "a result": ({"max_attempts": 3, "on_result": lambda result: True}, ["fail", "fail", "succeed"]),
    "an unmatched error": ({"on": trioresil.RejectedError}, ["refuse", "fail"]),
    "an unmatched first error": ({"on": Lasting}, ["fail"]),
    "the deadline": ({"backoff": [1, 1e6]}, ["fail", "fail"]),
    "cancellation of an attempt": ({}, ["fail", "fail", "sleep"]),
    "cancellation of a wait": ({"backoff": [1, 300]}, ["fail", "fail", "succeed"]),
    "an exit": ({}, ["fail", "fail", "exit"]),
}


def steps_that_keep_nothing(steps: list[str], raised: list[weakref.ref[BaseException]]) -> Any:
    """Return a function that takes these steps, none of whose frames holds what it raises."""

    def noted(error: BaseException) -> BaseException:
        raised.append(weakref.ref(error))
        return error

    class Gate(trioresil.abc.Policy):
        name = "gate"

        def link(self, inner: Any) -> Any:
            async def link(args: Any, kwargs: Any) -> Any:
                if steps[0] == "refuse":
                    steps.pop(0)
                    raise noted(trioresil.RejectedError("gate"))
                return await inner(args, kwargs)

            return link

        def statistics(self) -> None:
            return None

    async def work() -> None:
        match steps.pop(0):
            case "fail":
                raise noted(Passing())
            case "sleep":
                await trio.sleep_forever()
            case "exit":
                raise noted(Exit())

    return Gate()(work)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", [*FORMS.values(), *OTHER_FORMS.values()])
async def test_errors_are_freed_without_the_collector(
    ending: str, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    changes, steps = ENDINGS[ending]
    raised: list[weakref.ref[BaseException]] = []
    work = steps_that_keep_nothing(list(steps), raised)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel_later() -> None:
                await trio.sleep(100)
                scope.cancel()

            nursery.start_soon(cancel_later)
            with trio.CancelScope(deadline=1000 if "deadline" in ending else 1e9):
                with contextlib.suppress(Exception, Exit):
                    await form(retry_with(**changes), work)
            nursery.cancel_scope.cancel()
    assert scope.cancelled_caught is ("cancellation" in ending)
    assert len(raised) == sum(step in ("fail", "refuse", "exit") for step in steps)
    assert [ref() for ref in raised] == [None] * len(raised)
