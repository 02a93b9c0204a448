"""Wrong arguments, of every policy and public function: refused at once, by a message with the argument's name and value."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import attrs
import pytest
import trio

import trioresil
import trioresil.testing
from tests._ids import shown
from trioresil import (
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailures,
    FailureRatio,
    FailuresOf,
    Fallback,
    Keyed,
    Pipeline,
    Retry,
    RetryBudget,
    SlowRatio,
    Timeout,
    TokenBucket,
)

NAN = math.nan
INF = math.inf


async def stand_in(*args: Any) -> None:
    raise AssertionError("called")  # pragma: no cover


def generator(*args: Any) -> Iterator[int]:
    yield 1  # pragma: no cover


async def async_generator(*args: Any) -> AsyncIterator[int]:
    yield 1  # pragma: no cover


# What an argument of each kind refuses.
NO_NUMBERS: list[Any] = [True, False, "1", None, [1], 1j, stand_in]
SECONDS = [NAN, -1, -INF, -0.001, *NO_NUMBERS]
SECONDS_ABOVE_ZERO = [0, 0.0, *SECONDS]
FINITE = [INF, NAN]
RATIO = [0, -0.5, 1.001, INF, NAN, *NO_NUMBERS]
COUNT = [0, -1, 1.5, 2.0, NAN, *NO_NUMBERS]
NAMES: list[Any] = ["", None, 5, b"name", ["name"], True]
FUNCTIONS: list[Any] = [5, "len", True, [len], generator, async_generator, stand_in]
OPTIONAL_FUNCTIONS = FUNCTIONS  # None means: not given
ON: list[Any] = [
    None,
    5,
    "OSError",
    OSError(),
    (),
    [OSError],
    (OSError, 5),
    (OSError, (ValueError,)),
    int,
    BaseException,
    KeyboardInterrupt,
    trio.Cancelled,
    (OSError, trio.Cancelled),
    BaseExceptionGroup,
    generator,
    async_generator,
    stand_in,
]
BACKOFFS: list[Any] = [
    5,
    0.5,
    True,
    "0.1",
    b"12",
    {0.1: 1},
    {0.1},
    [],
    (),
    iter([0.1]),
    generator(),
    map(float, [1]),
    stand_in,
    [-1],
    [0.1, NAN],
    [INF],
    ["1"],
    [True],
    [None],
    trioresil.abc.Backoff,
]
CHANCE: list[Any] = [5, "seed", True, 0.5, stand_in]

BUCKET = TokenBucket(rate=1, capacity=2)

REFUSED: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "Retry(on)": (lambda value: Retry(on=value), ON),
    "Retry(max_attempts)": (lambda value: Retry(on=OSError, max_attempts=value), [*COUNT, -INF]),
    "Retry(backoff)": (lambda value: Retry(on=OSError, backoff=value), BACKOFFS),
    "Retry(budget)": (lambda value: Retry(on=OSError, budget=value), [5, True, "b", RetryBudget, 0.2]),
    "Retry(on_result)": (lambda value: Retry(on=OSError, on_result=value), OPTIONAL_FUNCTIONS),
    "Retry(delay_hint)": (lambda value: Retry(on=OSError, delay_hint=value), OPTIONAL_FUNCTIONS),
    "Retry(max_hint)": (lambda value: Retry(on=OSError, max_hint=value), SECONDS),
    "Retry(rng)": (lambda value: Retry(on=OSError, rng=value), CHANCE),
    "Retry(name)": (lambda value: Retry(on=OSError, name=value), NAMES),
    "Retry.replace(max_attempts)": (lambda value: Retry(on=OSError).replace(max_attempts=value), COUNT),
    "RetryBudget(ratio)": (lambda value: RetryBudget(ratio=value), RATIO),
    "RetryBudget(min_per_second)": (lambda value: RetryBudget(min_per_second=value), [INF, *SECONDS]),
    "RetryBudget(window)": (lambda value: RetryBudget(window=value), [INF, *SECONDS_ABOVE_ZERO]),
    "Timeout(seconds)": (Timeout, SECONDS_ABOVE_ZERO),
    "Timeout(name)": (lambda value: Timeout(1, name=value), NAMES),
    "Timeout.replace(seconds)": (lambda value: Timeout(1).replace(seconds=value), SECONDS_ABOVE_ZERO),
    "CircuitBreaker(trip)": (
        lambda value: CircuitBreaker(trip=value),
        [5, "5", True, ConsecutiveFailures, stand_in, [ConsecutiveFailures(5)], 0.5],
    ),
    "CircuitBreaker(open_for)": (
        lambda value: CircuitBreaker(open_for=value),
        [0, 0.0, -1, NAN, True, False, None, "30", [], [-1], ["1"], iter([1.0]), generator(), {1: 1}, stand_in],
    ),
    "CircuitBreaker(probes)": (lambda value: CircuitBreaker(probes=value), [*COUNT, INF]),
    "CircuitBreaker(successes_to_close)": (lambda value: CircuitBreaker(successes_to_close=value), [*COUNT, INF]),
    "CircuitBreaker(probe_lease)": (lambda value: CircuitBreaker(probe_lease=value), SECONDS_ABOVE_ZERO),
    "CircuitBreaker(on)": (lambda value: CircuitBreaker(on=value), ON),
    "CircuitBreaker(on_result)": (lambda value: CircuitBreaker(on_result=value), OPTIONAL_FUNCTIONS),
    "CircuitBreaker(enforce)": (lambda value: CircuitBreaker(enforce=value), [0, 1, None, "yes", []]),
    "CircuitBreaker(rng)": (lambda value: CircuitBreaker(rng=value), CHANCE),
    "CircuitBreaker(name)": (lambda value: CircuitBreaker(name=value), NAMES),
    "CircuitBreaker.enforce": (lambda value: setattr(CircuitBreaker(), "enforce", value), [0, 1, None, "yes"]),
    "CircuitBreaker.open(seconds)": (lambda value: CircuitBreaker().open(value), SECONDS_ABOVE_ZERO),
    "CircuitBreaker.restore(snapshot)": (CircuitBreaker.restore, [None, 5, "open", {}, {"state": "ajar"}]),
    "Bulkhead(limit)": (Bulkhead, [-1, 1.5, NAN, -INF, *NO_NUMBERS]),
    "Bulkhead(max_waiting)": (lambda value: Bulkhead(1, max_waiting=value), [-1, 1.5, NAN, *NO_NUMBERS]),
    "Bulkhead(max_wait)": (lambda value: Bulkhead(1, max_wait=value), SECONDS),
    "Bulkhead(name)": (lambda value: Bulkhead(1, name=value), NAMES),
    "Bulkhead.limit": (lambda value: setattr(Bulkhead(1), "limit", value), [-1, 1.5, NAN, *NO_NUMBERS]),
    "TokenBucket(rate)": (lambda value: TokenBucket(rate=value), SECONDS_ABOVE_ZERO),
    "TokenBucket(capacity)": (lambda value: TokenBucket(rate=1, capacity=value), [*FINITE, *SECONDS_ABOVE_ZERO]),
    "TokenBucket(cost)": (lambda value: TokenBucket(rate=1, cost=value), OPTIONAL_FUNCTIONS),
    "TokenBucket(max_wait)": (lambda value: TokenBucket(rate=1, max_wait=value), SECONDS),
    "TokenBucket(name)": (lambda value: TokenBucket(rate=1, name=value), NAMES),
    "TokenBucket.rate": (lambda value: setattr(TokenBucket(rate=1), "rate", value), SECONDS_ABOVE_ZERO),
    "TokenBucket.acquire_nowait(tokens)": (BUCKET.acquire_nowait, [2.5, INF, *SECONDS_ABOVE_ZERO]),
    "TokenBucket.adjust(tokens)": (BUCKET.adjust, [INF, -INF, NAN, *NO_NUMBERS]),
    "TokenBucket.pause(seconds)": (BUCKET.pause, [INF, *SECONDS]),
    "Fallback(on)": (lambda value: Fallback(stand_in, on=value), ON),
    "Fallback(on_result)": (lambda value: Fallback(stand_in, on=OSError, on_result=value), OPTIONAL_FUNCTIONS),
    "Fallback(name)": (lambda value: Fallback(stand_in, on=OSError, name=value), NAMES),
    "Pipeline(name)": (lambda value: Pipeline(name=value), NAMES),
    "Keyed(factory)": (Keyed, [None, *FUNCTIONS]),
    "Keyed(key)": (lambda value: Keyed(len, key=value), OPTIONAL_FUNCTIONS),  # type: ignore[arg-type,type-var]
    "Keyed(max_keys)": (lambda value: Keyed(len, max_keys=value), [*COUNT, INF]),  # type: ignore[arg-type,type-var]
    "Keyed(name)": (lambda value: Keyed(len, name=value), NAMES),  # type: ignore[arg-type,type-var]
    "ConsecutiveFailures(n)": (ConsecutiveFailures, [*COUNT, INF]),
    "FailuresOf(k)": (lambda value: FailuresOf(value, of=5), [*COUNT, INF]),
    "FailuresOf(of)": (lambda value: FailuresOf(1, of=value), [*COUNT, INF]),
    "FailureRatio(ratio)": (lambda value: FailureRatio(value, window=3), RATIO),
    "FailureRatio(window)": (lambda value: FailureRatio(0.5, window=value), [INF, *SECONDS_ABOVE_ZERO]),
    "FailureRatio(min_calls)": (lambda value: FailureRatio(0.5, window=3, min_calls=value), [*COUNT, INF]),
    "SlowRatio(ratio)": (lambda value: SlowRatio(value, slower_than=1, window=3), RATIO),
    "SlowRatio(slower_than)": (lambda value: SlowRatio(0.5, slower_than=value, window=3), [INF, *SECONDS]),
    "SlowRatio(window)": (lambda value: SlowRatio(0.5, slower_than=1, window=value), [INF, *SECONDS_ABOVE_ZERO]),
    "SlowRatio(min_calls)": (lambda value: SlowRatio(0.5, slower_than=1, window=3, min_calls=value), [*COUNT, INF]),
    "constant(delay)": (trioresil.constant, [INF, *SECONDS]),
    "linear(initial)": (lambda value: trioresil.linear(value, 1, 5), [INF, *SECONDS]),
    "linear(step)": (lambda value: trioresil.linear(1, value, 5), [INF, *SECONDS]),
    "linear(max)": (lambda value: trioresil.linear(1, 1, value), SECONDS),
    "exponential(initial)": (lambda value: trioresil.exponential(initial=value), [INF, *SECONDS]),
    "exponential(factor)": (lambda value: trioresil.exponential(factor=value), [0.9, 0, -1, INF, NAN, *NO_NUMBERS]),
    "exponential(max)": (lambda value: trioresil.exponential(max=value), SECONDS),
    "exponential(jitter)": (
        lambda value: trioresil.exponential(jitter=value),
        ["fuller", "", None, True, -0.1, 1.1, NAN, INF, [0.5]],
    ),
    "quick(max_attempts)": (trioresil.testing.quick, [0, -1, 1.5, NAN, True, "1", [1]]),
}
ROWS = [(what, value) for what, (_, values) in REFUSED.items() for value in values]


@pytest.mark.parametrize(("what", "value"), ROWS, ids=lambda part: part if isinstance(part, str) else shown(part)[:40])
def test_a_wrong_argument_is_refused_at_once_by_a_message_that_names_it_and_its_value(what: str, value: Any) -> None:
    make = REFUSED[what][0]
    argument = what.partition("(")[2].rstrip(")") or what.partition(".")[2]

    def attempt() -> None:
        with pytest.raises((TypeError, ValueError)) as caught:
            make(value)
        message = str(caught.value)
        assert argument in message
        assert _shown(what, value) in message, message

    if what.startswith("TokenBucket.") or what == "CircuitBreaker.open(seconds)":  # a method that reads the clock
        run_in_trio(attempt)
    else:
        attempt()


def run_in_trio(fn: Callable[[], None]) -> None:
    async def main() -> None:
        fn()

    trio.run(main)


def _shown(what: str, value: Any) -> str:
    """Return what a message has to say of a value: its repr, or that of the part that is wrong."""
    if isinstance(value, (list, tuple)) and value:
        return repr(value[-1]) if not isinstance(value[-1], type) else value[-1].__name__
    if value == ():
        return "()" if "backoff" in what else "empty tuple"
    if isinstance(value, type):
        return value.__name__
    return repr(value)


def test_a_value_of_the_wrong_type_is_a_type_error_and_one_out_of_range_a_value_error() -> None:
    for wrong in NO_NUMBERS:
        with pytest.raises(TypeError):
            Timeout(wrong)
        with pytest.raises(TypeError):
            ConsecutiveFailures(wrong)
    for out_of_range in (0, -1, NAN):
        with pytest.raises(ValueError, match="seconds must be a number of seconds > 0, not"):
            Timeout(out_of_range)
    with pytest.raises(ValueError, match="n must be a whole number >= 1, not 0"):
        ConsecutiveFailures(0)


@pytest.mark.parametrize(
    ("build", "needle"),
    [
        (lambda: Retry(), "'on'"),
        (lambda: Fallback(stand_in), "'on'"),
        (lambda: TokenBucket(), "'rate'"),
        (lambda: Bulkhead(), "'limit'"),
        (lambda: Timeout(), "'seconds'"),
        (lambda: Keyed(), "'factory'"),
        (lambda: Retry(OSError), "positional"),
        (lambda: CircuitBreaker(ConsecutiveFailures(5)), "positional"),
        (lambda: TokenBucket(5), "positional"),
        (lambda: Timeout(5, "name"), "positional"),
        (lambda: Bulkhead(5, 5), "positional"),
        (lambda: Keyed(len, len), "positional"),
        (lambda: RetryBudget(0.2), "positional"),
    ],
)
def test_what_is_required_has_no_default_and_configuration_is_keyword_only(build: Any, needle: str) -> None:
    with pytest.raises(TypeError, match=needle):
        build()


def test_every_argument_of_every_policy_is_in_the_table() -> None:
    missing = []
    for policy in (Retry, RetryBudget, Timeout, CircuitBreaker, Bulkhead, TokenBucket, Fallback, Pipeline, Keyed):
        for argument in inspect.signature(policy).parameters.values():
            anything = argument.name == "default" or argument.kind is argument.VAR_POSITIONAL
            if not anything and f"{policy.__name__}({argument.name})" not in REFUSED:
                missing.append(f"{policy.__name__}({argument.name})")  # a comprehension of this is worse
    assert missing == []


def test_alternatives_and_their_absence_are_checked() -> None:
    for wrong in (None, 5, "stand_in"):
        with pytest.raises(TypeError, match=f"an async function is wanted, not {wrong!r}"):
            Fallback(wrong, on=OSError)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator function"):
        Fallback(async_generator, on=OSError)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pass stand_in, without"):
        Fallback(stand_in(), on=OSError)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="twice"):
        Fallback(stand_in, stand_in, on=OSError)
    with pytest.raises(ValueError, match="alternative or a default"):
        Fallback(on=OSError)


@pytest.mark.parametrize("tokens", [2.5, INF, 0, -1, NAN, *NO_NUMBERS], ids=shown)
async def test_wrong_numbers_of_tokens_are_refused_by_every_way_to_take_them(tokens: Any) -> None:
    bucket = TokenBucket(rate=1, capacity=2, name="mine")
    priced = TokenBucket(rate=1, capacity=2, cost=lambda: tokens)
    for take in (bucket.acquire, lambda tokens: trioresil.acquire_all((bucket, tokens))):
        with pytest.raises((TypeError, ValueError)) as caught:
            await take(tokens)
        assert f"not {tokens!r}" in str(caught.value)
        assert "tokens" in str(caught.value)
    if tokens == 0 and tokens is not False:
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        await Pipeline(Retry(on=Exception, max_attempts=2, backoff=[0]), priced).call(stand_in)
    assert "the result of cost must be" in str(caught.value)


async def test_acquire_all_takes_pairs_of_different_buckets() -> None:
    for wrong in (BUCKET, (BUCKET,), (BUCKET, 1, 1), [BUCKET, 1], (1, BUCKET), None):
        with pytest.raises(TypeError) as caught:
            await trioresil.acquire_all(wrong)  # type: ignore[arg-type]
        assert str(caught.value).endswith(f"pairs of a TokenBucket and a number of tokens, not {wrong!r}")
    with pytest.raises(ValueError, match="twice"):
        await trioresil.acquire_all((BUCKET, 1), (BUCKET, 1))
    with pytest.raises(ValueError, match="at least one"):
        await trioresil.acquire_all()


class Deaf:
    pass


@pytest.mark.parametrize(
    "wrong",
    [None, 5, "log", Deaf(), Deaf, trioresil.testing.Recorder, attrs.make_class("Odd", ["record"])(5)],
    ids=shown,
)
async def test_what_can_not_record_is_no_instrument(wrong: Any) -> None:
    for install in (trioresil.instrument, trioresil.instrument_run):
        with pytest.raises(TypeError) as caught:
            install(trioresil.testing.Recorder(), wrong)
        assert str(caught.value) == f"an instrument must be an object with a record(event) method, not {wrong!r}"
    assert trioresil._instruments.installed == 0
