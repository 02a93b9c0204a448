"""Pipeline: the closed list of refusals with their sentences, the near misses, order, nesting and what instruments hear."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import trio

import trioresil
from trioresil import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Keyed,
    Pipeline,
    Retry,
    TimedOutError,
    Timeout,
    TokenBucket,
)
from trioresil.testing import Recorder


class Tracing(trioresil.abc.Policy):
    """A policy as a user writes it: notes when a call goes in and how it comes out."""

    stateful = False

    def __init__(self, name: str, log: list[str] | None = None) -> None:
        self.name = name
        self.log: list[str] = [] if log is None else log

    def link(self, inner: Any) -> Any:
        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            self.log.append(f"{self.name} in {args} {dict(kwargs)}")
            try:
                result = await inner(args, kwargs)
            except BaseException as exc:
                self.log.append(f"{self.name} out {type(exc).__name__}")
                raise
            self.log.append(f"{self.name} out {result}")
            return result

        return link

    def statistics(self) -> str:
        return f"statistics of {self.name}"


async def add(x: int, *, y: int = 1) -> int:
    return x + y


async def from_cache(*args: Any) -> str:
    return "cached"


# --- what is refused, and with which words ---------------------------------------------------------------------------


def refusal(*policies: Any) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        Pipeline(*policies)
    return str(caught.value)


STATEFUL = {
    "breaker": lambda: CircuitBreaker(name="twin"),
    "bulkhead": lambda: Bulkhead(2, name="twin"),
    "bucket": lambda: TokenBucket(rate=1, name="twin"),
    "keyed": lambda: Keyed(lambda key: CircuitBreaker(name=key), key=lambda *args: "k", name="twin"),
}


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
def test_a_stateful_object_twice_is_refused_also_through_nesting(make: Any) -> None:
    twin, between = make(), Timeout(3)
    sentence = f"{twin!r} occurs twice: each call would go through it twice and count twice; leave one of them out"
    assert refusal(twin, twin) == sentence
    assert refusal(twin, between, twin) == sentence
    assert refusal(Pipeline(twin), twin) == sentence
    assert refusal(twin, Pipeline(between, Pipeline(twin))) == sentence
    assert refusal(Pipeline(twin), Pipeline(twin)) == sentence


def test_a_users_policy_is_stateful_unless_it_says_otherwise() -> None:
    class Counting(Tracing):
        stateful = True

    counting = Counting("counting")
    assert "occurs twice" in refusal(counting, counting)
    tracing = Tracing("tracing")
    Pipeline(tracing, tracing)


def test_what_holds_no_state_may_occur_twice() -> None:
    retry = Retry(on=OSError)
    fallback = Fallback(from_cache, on=OSError)
    Pipeline(retry, fallback, retry, fallback)


def test_two_objects_alike_are_not_one_object_twice() -> None:
    limiter = trio.CapacityLimiter(3)
    Pipeline(*(make() for make in STATEFUL.values()), *(make() for make in STATEFUL.values()))
    Pipeline(Bulkhead(limiter, name="same"), Bulkhead(limiter, name="same"))


OUTER: dict[str, tuple[Any, str]] = {
    "retry": (lambda **kwargs: Retry(name="outer", **kwargs), "retry"),
    "breaker": (lambda **kwargs: CircuitBreaker(name="outer", **kwargs), "open"),
}


@pytest.mark.parametrize(("outer", "does"), OUTER.values(), ids=OUTER)
@pytest.mark.parametrize(
    ("seen", "answered"),
    [
        (OSError, OSError),
        (ConnectionError, OSError),
        (OSError, Exception),
        ((ConnectionError, TimeoutError), OSError),
        ((OSError, KeyError), (LookupError, OSError)),
        (Exception, Exception),
    ],
)
def test_a_default_inside_of_what_could_then_never_see_an_error_is_refused(
    outer: Any, does: str, seen: Any, answered: Any
) -> None:
    around = outer(on=seen)
    for default in (None, 0, "page"):
        inner = Fallback(on=answered, default=default)
        sentence = (
            f"{inner!r} answers with its default whatever {around!r} around it could see, so that one would never {does}: "
            "put the Fallback outside of it, or leave the default to an outer Fallback"
        )
        assert refusal(around, inner) == sentence
        assert refusal(Timeout(9), around, Retry(on=OSError, name="other"), Pipeline(inner)) == sentence
        assert refusal(Pipeline(around), Pipeline(inner)) == sentence


@pytest.mark.parametrize("outer", [pair[0] for pair in OUTER.values()], ids=OUTER)
def test_a_default_that_leaves_something_to_see_is_accepted(outer: Any) -> None:
    Pipeline(Fallback(on=OSError, default=0), outer(on=OSError))  # outside
    Pipeline(outer(on=OSError), Fallback(from_cache, on=OSError))  # no default
    Pipeline(outer(on=OSError), Fallback(on=ConnectionError, default=0))  # a narrower one
    Pipeline(outer(on=(OSError, KeyError)), Fallback(on=OSError, default=0))  # one of two
    Pipeline(outer(on=OSError), Fallback(on=lambda exc: True, default=0))  # a predicate is trusted
    Pipeline(outer(on=lambda exc: True), Fallback(on=Exception, default=0))
    Pipeline(outer(on=OSError, on_result=lambda result: result == 0), Fallback(on=OSError, default=0))


@pytest.mark.parametrize("outer", [pair[0] for pair in OUTER.values()], ids=OUTER)
def test_a_timeout_between_can_raise_what_the_outer_one_looks_at(outer: Any) -> None:
    Pipeline(outer(on=(OSError, TimedOutError)), Timeout(2), Fallback(on=Exception, default=0))
    Pipeline(outer(on=trio.TooSlowError), Retry(on=Exception), Timeout(2), Fallback(on=Exception, default=0))
    if outer is OUTER["breaker"][0]:  # a Retry would be refused for another reason
        assert "default" in refusal(outer(on=OSError), Timeout(2), Fallback(on=Exception, default=0))
    # what is inside of the default can't
    assert "default" in refusal(outer(on=TimedOutError), Fallback(on=Exception, default=0), Timeout(2))


@pytest.mark.parametrize(
    "guard", [CircuitBreaker(on=lambda exc: True), Bulkhead(2), TokenBucket(rate=1)], ids=lambda guard: guard.name
)
def test_a_guard_between_can_raise_a_rejection_which_a_retry_looks_at_and_a_breaker_does_not(guard: Any) -> None:
    default = Fallback(on=Exception, default=0)
    Pipeline(Retry(on=(OSError, trioresil.RejectedError)), guard, default)
    assert "never retry" in refusal(Retry(on=OSError), guard, default)
    assert "never open" in refusal(CircuitBreaker(name="outer"), guard, default)


def test_each_guard_between_raises_its_own_kind_of_rejection() -> None:
    default = Fallback(on=Exception, default=0)
    kinds = {
        trioresil.CircuitOpenError: CircuitBreaker(on=lambda exc: True),
        trioresil.BulkheadFullError: Bulkhead(2),
        trioresil.RateLimitedError: TokenBucket(rate=1),
    }
    for kind in kinds:
        for raised, guard in kinds.items():
            if kind is raised:
                Pipeline(Retry(on=kind), guard, default)
            else:
                assert "never retry" in refusal(Retry(on=kind), guard, default)


@pytest.mark.parametrize("outer", [pair[0] for pair in OUTER.values()], ids=OUTER)
def test_what_a_users_policy_between_raises_nobody_knows(outer: Any) -> None:
    Pipeline(outer(on=OSError), Tracing("mine"), Fallback(on=Exception, default=0))
    keyed = Keyed(lambda key: CircuitBreaker(name=key), key=lambda *args: "k")
    Pipeline(outer(on=OSError), keyed, Fallback(on=Exception, default=0))


@pytest.mark.parametrize("outer", [pair[0] for pair in OUTER.values()], ids=OUTER)
def test_the_alternatives_of_a_fallback_between_can_raise_anything_if_they_are_ever_called(outer: Any) -> None:
    default = Fallback(on=OSError, default=0)
    Pipeline(outer(on=OSError), Fallback(from_cache, on=OSError, on_result=lambda result: result == 0), default)
    Pipeline(outer(on=OSError), Fallback(from_cache, on=(OSError, ValueError)), default)
    Pipeline(outer(on=OSError), Fallback(from_cache, on=lambda exc: True), default)
    covering = Fallback(on=Exception, default=0)
    Pipeline(outer(on=KeyError), Fallback(from_cache, on=TimedOutError), Timeout(2), covering)
    assert "default" in refusal(outer(on=OSError), Fallback(from_cache, on=OSError), default)
    assert "default" in refusal(outer(on=OSError), Fallback(from_cache, on=OSError), Bulkhead(1), default)
    # without alternatives it has nothing that could raise
    assert "default" in refusal(outer(on=OSError), Fallback(on=KeyError, default=1), default)


def test_an_inner_timeout_that_is_not_shorter_is_refused() -> None:
    outer = Timeout(5, name="total")
    for seconds in (5, 5.5, float("inf")):
        inner = Timeout(seconds, name="attempt")
        sentence = (
            f"{inner!r} is not shorter than {outer!r} around it and would never fire: "
            "the outer one bounds the whole, so give the inner one less"
        )
        assert refusal(outer, inner) == sentence
        assert refusal(Pipeline(outer), Retry(on=Exception), Pipeline(Bulkhead(1), inner)) == sentence
    assert refusal(outer, outer)
    assert refusal(Timeout(float("inf")), Timeout(float("inf")))
    assert refusal(Timeout(9), Timeout(3), Timeout(4))


def test_an_inner_timeout_that_is_shorter_is_accepted() -> None:
    Pipeline(Timeout(5), Timeout(4.999))
    Pipeline(Timeout(float("inf")), Retry(on=Exception), Timeout(9), Timeout(1))


def test_a_retry_that_does_not_know_the_time_outs_inside_of_it_is_refused() -> None:
    sentence = (
        "the {} s time-out would never be retried by {!r}: "
        "add trioresil.TimedOutError to on, or give a predicate if that is meant"
    )
    for on in (OSError, (OSError, ValueError), trioresil.RejectedError, TimeoutError, ExceptionGroup):
        retry = Retry(on=on)
        assert refusal(retry, Timeout(2)) == sentence.format("2", retry)
        assert refusal(retry, Pipeline(CircuitBreaker(), Timeout(0.25))) == sentence.format("0.25", retry)
        assert refusal(retry, Retry(on=OSError), Fallback(from_cache, on=KeyError), Timeout(2)) == sentence.format(
            "2", retry
        )


def test_a_retry_that_knows_the_time_outs_inside_of_it_is_accepted() -> None:
    for on in (TimedOutError, (OSError, TimedOutError), trio.TooSlowError, trioresil.TrioresilError, Exception):
        Pipeline(Retry(on=on), Timeout(2))
    Pipeline(Retry(on=lambda exc: False), Timeout(2))  # a predicate is trusted
    Pipeline(Timeout(2), Retry(on=OSError))  # the time-out is outside


def test_a_time_out_that_is_handled_further_in_need_not_be_known() -> None:
    for on in (TimedOutError, Exception, lambda exc: False):
        Pipeline(Retry(on=OSError), Fallback(from_cache, on=on), Timeout(2))
        # a Retry further in only puts it off: what it gives up on comes out, and is not known there
        assert "would never be retried" in refusal(Retry(on=OSError), Retry(on=on), Timeout(2))
        assert "would never be retried" in refusal(Retry(on=OSError), Timeout(2), Fallback(from_cache, on=on))
        assert "would never be retried" in refusal(Retry(on=OSError), Timeout(2), Retry(on=on), Timeout(1))


def test_a_predicate_is_not_called_when_a_pipeline_is_built() -> None:
    def predicate(exc: Exception) -> bool:
        raise AssertionError("called")  # pragma: no cover

    Pipeline(Retry(on=OSError), Fallback(from_cache, on=predicate), Timeout(2))
    Pipeline(Retry(on=predicate), Timeout(2), Fallback(on=predicate, default=0))


def test_what_is_no_policy_is_refused() -> None:
    for wrong in (Retry, None, 5, add, "retry", [Timeout(5)]):
        with pytest.raises(TypeError, match=r"\S") as caught:
            Pipeline(Timeout(5), wrong)  # type: ignore[arg-type]
        assert str(caught.value) == f"a Pipeline is made of policies (trioresil.abc.Policy), not {wrong!r}"


# --- order and nesting -----------------------------------------------------------------------------------------------


async def test_the_first_policy_is_the_outermost_and_all_see_the_arguments() -> None:
    log: list[str] = []
    pipeline = Pipeline(Tracing("a", log), Pipeline(Tracing("b", log), Pipeline()), Tracing("c", log))
    assert await pipeline(add)(2, y=3) == 5
    went_in = [f"{name} in (2,) {{'y': 3}}" for name in "abc"]
    assert log == [*went_in, "c out 5", "b out 5", "a out 5"]


async def test_an_exception_passes_every_policy_outwards() -> None:
    log: list[str] = []
    error = KeyError("x")

    async def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await Pipeline(Tracing("a", log), Tracing("b", log)).call(fail)
    assert caught.value is error
    assert log == ["a in () {}", "b in () {}", "b out KeyError", "a out KeyError"]


async def test_an_empty_pipeline_only_calls() -> None:
    assert await Pipeline().call(add, 1) == 2
    async with Pipeline():
        pass
    with trio.CancelScope() as scope:
        scope.cancel()
        async with Pipeline():
            pytest.fail("entered")  # pragma: no cover
    assert scope.cancelled_caught


async def test_each_attempt_goes_through_what_is_inside_of_the_retry_and_not_through_what_is_outside(
    autojump_clock: Any,
) -> None:
    log: list[str] = []
    answers = iter([OSError(), OSError(), None])

    async def flaky() -> str:
        answer = next(answers)
        if answer is not None:
            raise answer
        return "done"

    pipeline = Pipeline(Tracing("outside", log), Retry(on=OSError), Tracing("inside", log))
    assert await pipeline.call(flaky) == "done"
    assert [entry.split()[0] for entry in log] == ["outside", *["inside"] * 6, "outside"]


async def test_a_pipeline_shares_its_policies_with_others() -> None:
    breaker = CircuitBreaker(trip=trioresil.ConsecutiveFailures(1))
    first, second = Pipeline(breaker), Pipeline(Pipeline(breaker))

    async def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await first.call(fail)
    with pytest.raises(trioresil.CircuitOpenError):
        await second.call(add, 1)


def test_statistics_and_repr_tell_of_all_parts_outermost_first() -> None:
    pipeline = Pipeline(Tracing("a"), Pipeline(Timeout(2, name="t"), name="inner"), name="outer")
    statistics = pipeline.statistics()
    assert statistics.name == "outer"
    assert statistics.parts[0] == "statistics of a"
    assert statistics.parts[1].name == "inner"
    assert statistics.parts[1].parts == (Timeout(2, name="t").statistics(),)
    assert repr(pipeline) == "<trioresil.Pipeline 'outer' of a > inner>"
    assert repr(Pipeline()) == "<trioresil.Pipeline 'pipeline' of >"
    assert [policy.name for policy in pipeline.policies] == ["a", "inner"]


# --- what instruments hear -------------------------------------------------------------------------------------------


class Unhashable(Tracing):
    """Equal to everything of its kind, as a user's attrs or data class may be."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    __hash__ = None  # type: ignore[assignment]


async def test_each_call_ends_in_exactly_one_event_for_each_pipeline(autojump_clock: Any) -> None:
    inner = Pipeline(Retry(on=(OSError, TimedOutError)), Timeout(4), name="inner")
    outer = Pipeline(Timeout(100), inner, name="outer")
    recorder = Recorder()

    async def slow(*errors: Exception) -> str:
        await trio.sleep(1)
        for each in errors:
            raise each
        return "done"

    async def cancelled() -> None:
        with trio.move_on_after(2):
            await outer.call(trio.sleep, 3)

    gone, lost = KeyError("gone"), trioresil.RejectedError("elsewhere", started=False)
    with trioresil.instrument(recorder):
        await outer.call(slow)
        with pytest.raises(KeyError):
            await outer(slow)(gone)
        with pytest.raises(trioresil.RejectedError):
            await outer.call(slow, lost)
        await cancelled()
    heard = [(each.name, each.outcome, each.seconds, each.error) for each in recorder.of(trioresil.CallFinished)]
    assert heard[:4] == [
        ("inner", "success", 1, None),
        ("outer", "success", 1, None),
        ("inner", "failure", 1, gone),
        ("outer", "failure", 1, gone),
    ]
    assert heard[4:6] == [("inner", "failure", 1, lost), ("outer", "failure", 1, lost)]  # it came out of the function
    assert [each[:3] for each in heard[6:]] == [("inner", "cancelled", 2), ("outer", "cancelled", 2)]
    assert isinstance(heard[6][3], trio.Cancelled)
    assert heard[6][3] is heard[7][3]


async def test_a_rejection_and_a_time_out_in_a_queue_are_outcome_rejected(autojump_clock: Any) -> None:
    bucket = TokenBucket(rate=1)
    pipeline = Pipeline(Timeout(0.5), bucket)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        await pipeline.call(add, 1)
        with pytest.raises(TimedOutError):
            await pipeline.call(add, 1)
        await trio.sleep(5)
        with pytest.raises(TimedOutError):
            await pipeline.call(trio.sleep, 3)
    assert [each.outcome for each in recorder.of(trioresil.CallFinished)] == ["success", "rejected", "failure"]


async def test_an_event_carries_the_live_pipeline_and_is_built_for_listeners_only() -> None:
    pipeline = Pipeline(Timeout(5))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        await pipeline.call(add, 1)
        (finished,) = recorder.of(trioresil.CallFinished)
        assert finished.policy is pipeline
        recorder.clear()
    await pipeline.call(add, 1)
    assert recorder.events == []


async def test_every_policy_is_announced_once_to_each_listener(autojump_clock: Any) -> None:
    keyed = Keyed(lambda key: CircuitBreaker(name=key), key=lambda x: str(x), name="keyed")
    parts = [
        Fallback(from_cache, on=KeyError),
        Timeout(9),
        Retry(on=Exception),
        CircuitBreaker(),
        Bulkhead(2),
        TokenBucket(rate=100),
        keyed,
        Timeout(1, name="attempt"),
    ]
    pipeline = Pipeline(*parts)
    first, second = Recorder(), Recorder()
    fetch = pipeline(add)
    with trioresil.instrument(first):
        for x in (1, 1, 2):
            await fetch(x)
        with trioresil.instrument(second):
            await fetch(1)
    seen = [each.policy for each in first.of(trioresil.PolicySeen)]
    assert seen == [pipeline, *parts[:-1], keyed["1"], parts[-1], keyed["2"]]
    assert [each.policy for each in second.of(trioresil.PolicySeen)] == [pipeline, *parts[:-1], keyed["1"], parts[-1]]


async def test_blocks_announce_too(autojump_clock: Any) -> None:
    parts = [Timeout(9), CircuitBreaker(), Bulkhead(2), TokenBucket(rate=100)]
    pipeline = Pipeline(*parts)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        for _ in range(3):
            async with pipeline:
                pass
    assert [each.policy for each in recorder.of(trioresil.PolicySeen)] == [pipeline, *parts]
    assert recorder.of(trioresil.CallFinished) == []


async def test_policies_are_told_apart_by_identity_when_they_are_announced() -> None:
    first, second = Unhashable("first"), Unhashable("second")
    pipeline = Pipeline(first, second)
    recorder = Recorder()

    class Announcing(Tracing):
        pass

    with trioresil.instrument(recorder):
        for each in (first, second, first):
            trioresil._instruments.announce(each)
        await pipeline.call(add, 1)
    assert [each.name for each in recorder.of(trioresil.PolicySeen)] == ["first", "second", "pipeline"]


# --- a policy of the user's own --------------------------------------------------------------------------------------


async def test_a_users_policy_has_all_forms_and_fits_into_a_pipeline() -> None:
    class Doubling(trioresil.abc.Policy):
        name = "doubling"

        def link(self, inner: Any) -> Any:
            async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
                return 2 * await inner(args, kwargs)

            return link

        def statistics(self) -> None:
            return None

    doubling = Doubling()
    assert await doubling.call(add, 2) == 6
    assert await doubling(add)(2, y=2) == 8
    assert await doubling.bind(add)(2, y=2) == 8
    assert await Pipeline(Timeout(5), doubling, Retry(on=OSError)).call(functools.partial(add, y=5), 5) == 20
    assert Pipeline(doubling).statistics().parts == (None,)
    with pytest.raises(TypeError, match="can't guard a block"):
        async with Pipeline(doubling):
            pytest.fail("entered")  # pragma: no cover


def test_a_policy_must_say_how_it_links_and_what_it_counts() -> None:
    with pytest.raises(TypeError, match="abstract"):
        trioresil.abc.Policy()  # type: ignore[abstract]
