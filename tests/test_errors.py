"""The errors: their tree, their messages, and that nothing is lost when they are pickled or copied."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import trio

import trioresil
from trioresil import (
    BulkheadFullError,
    CheckFailedError,
    CircuitIsolatedError,
    CircuitOpenError,
    LeaseLostError,
    PoolClosedError,
    PoolFullError,
    RateLimitedError,
    RejectedError,
    RestartLimitError,
    SharedStateError,
    SharedStateUnavailableError,
    TimedOutError,
    TrioresilError,
)
from trioresil import _errors as errors

PUBLIC = [
    RejectedError,
    CircuitOpenError,
    CircuitIsolatedError,
    RateLimitedError,
    BulkheadFullError,
    PoolFullError,
    PoolClosedError,
    RestartLimitError,
    TimedOutError,
    CheckFailedError,
    SharedStateError,
    SharedStateUnavailableError,
    LeaseLostError,
]


def test_the_tree() -> None:
    parents = {
        TrioresilError: Exception,
        RejectedError: TrioresilError,
        CircuitOpenError: RejectedError,
        CircuitIsolatedError: CircuitOpenError,
        RateLimitedError: RejectedError,
        BulkheadFullError: RejectedError,
        PoolFullError: RejectedError,
        PoolClosedError: RejectedError,
        RestartLimitError: TrioresilError,
        TimedOutError: TrioresilError,
        CheckFailedError: TrioresilError,
        SharedStateError: TrioresilError,
        SharedStateUnavailableError: SharedStateError,
        LeaseLostError: SharedStateError,
    }
    assert issubclass(SharedStateUnavailableError, RejectedError)
    assert {kind: kind.__mro__[1] for kind in parents} == parents
    assert set(parents) == {
        value for value in vars(trioresil).values() if isinstance(value, type) and issubclass(value, Exception)
    }


def test_a_time_out_is_also_trios_too_slow_error_and_a_rejection_is_not() -> None:
    assert issubclass(TimedOutError, trio.TooSlowError)
    assert not issubclass(RejectedError, trio.TooSlowError)
    assert not issubclass(TimedOutError, (TimeoutError, RejectedError))


async def test_except_too_slow_error_catches_a_timeouts_error(autojump_clock: Any) -> None:
    with pytest.raises(trio.TooSlowError) as caught:
        await trioresil.Timeout(3, name="search").call(trio.sleep, 4)
    assert type(caught.value) is TimedOutError
    assert str(caught.value) == "search: timed out after 3 s"


def rate_limited(retry_after: float | None, max_wait: float | None) -> RateLimitedError:
    error = RateLimitedError("api", retry_after)
    error.max_wait = max_wait
    return error


def bulkhead_full(reason: str) -> BulkheadFullError:
    error = BulkheadFullError("db")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RejectedError("search"), "search: rejected"),
        (RejectedError("search", 2.5), "search: rejected, try again in 2.5 s"),
        (CircuitOpenError("search", 12.5), "search: the circuit is open, next probe in 12.5 s"),
        (CircuitOpenError("search", 0.0), "search: the circuit is open, next probe in 0 s"),
        (CircuitOpenError("search", 1 / 3), "search: the circuit is open, next probe in 0.3333 s"),
        (CircuitOpenError("search", 86_400.5), "search: the circuit is open, next probe in 86400 s"),
        (CircuitOpenError("search", 1000.0), "search: the circuit is open, next probe in 1000 s"),
        (CircuitOpenError("search", float("inf")), "search: the circuit is open, next probe in inf s"),
        (
            CircuitOpenError("search"),
            "search: the circuit is half-open and its probes are out; their outcome decides",
        ),
        (CircuitIsolatedError("search"), "search: the circuit is isolated, until it is released"),
        (rate_limited(3.5, 2), "api: rate limit reached: the wait would be 3.5 s, longer than max_wait=2"),
        (rate_limited(3.5, None), "api: rate limit reached: the wait would be 3.5 s"),
        (rate_limited(None, None), "api: rate limit reached: the wait would be unknown"),
        (BulkheadFullError("db"), "db: every permit is taken"),
        (bulkhead_full("admission is closed"), "db: admission is closed"),
        (RestartLimitError("sup", "c", 1, 60.0), "sup: child 'c' ended again after 1 restart within 60 s"),
        (RestartLimitError("sup", "c", 0, 60.0), "sup: child 'c' ended again after 0 restarts within 60 s"),
        (RestartLimitError("sup", "c", 3, 0.5), "sup: child 'c' ended again after 3 restarts within 0.5 s"),
        (TimedOutError("total", 30), "total: timed out after 30 s"),
        (TimedOutError("total", 0.25, started=True), "total: timed out after 0.25 s"),
        (TimedOutError("total", 7200, started=False), "total: timed out after 7200 s before the call was started"),
    ],
)
def test_the_message_is_made_of_the_attributes(error: TrioresilError, message: str) -> None:
    assert str(error) == message
    assert repr(error) == f"{type(error).__name__}({message!r})"


def full(kind: type[Any]) -> Any:
    error = kind("search", 2.5)
    error.started = True
    error.max_wait, error.reason = 1.5, "because"
    error.status = 503  # a user's own
    error.add_note("first")
    error.add_note("second")
    return error


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_pickling_and_copying_keep_everything(kind: type[Any]) -> None:
    error = full(kind)
    pickled = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for other in (*pickled, copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind
        assert other is not error
        assert vars(other) == vars(error)
        assert other.args == error.args == ("search",)
        assert str(other) == str(error)
        assert other.__notes__ == ["first", "second"]
        assert (other.policy, other.started, other.status) == ("search", True, 503)


def test_a_changed_attribute_changes_the_message() -> None:
    error = CircuitOpenError("search", 5)
    error.retry_after = 7
    error.policy = "index"
    assert str(error) == "index: the circuit is open, next probe in 7 s"


def test_a_rejection_is_unstarted_unless_it_says_otherwise_and_of_a_time_out_nobody_knows() -> None:
    assert all(kind("x").started is False for kind in PUBLIC if issubclass(kind, RejectedError))
    assert RejectedError("x", started=True).started is True
    assert TimedOutError("x").started is None


class Own(TrioresilError):
    """An error of a user's policy, which sets nothing."""


def test_an_error_of_a_users_own_says_nothing_unless_it_is_told_to() -> None:
    assert Own("x").started is None
    assert not errors.is_unstarted(Own("x"))
    assert not errors.is_no_verdict(Own("x"))


def test_what_is_no_verdict() -> None:
    for error in (KeyboardInterrupt(), GeneratorExit(), BaseExceptionGroup("g", [KeyboardInterrupt()])):
        assert errors.is_no_verdict(error)
        assert not errors.is_unstarted(error)
    for unstarted in (
        RejectedError("x"),
        TimedOutError("x", started=False),
        ExceptionGroup("g", [RejectedError("x"), ExceptionGroup("h", [RejectedError("y")])]),
    ):
        assert errors.is_no_verdict(unstarted)
        assert errors.is_unstarted(unstarted)
    for verdict in (
        OSError(),
        RejectedError("x", started=True),
        TimedOutError("x", started=True),
        TimedOutError("x"),
        ExceptionGroup("g", [RejectedError("x"), OSError()]),
    ):
        assert not errors.is_no_verdict(verdict)
        assert not errors.is_unstarted(verdict)
    for mistake, builtin in (
        (errors.NotAwaitableError(), TypeError),
        (errors.WrongTokensError(), ValueError),
        (errors.NestingError(), RuntimeError),
    ):
        assert isinstance(mistake, builtin)
        assert errors.is_no_verdict(mistake)
        assert not errors.is_unstarted(mistake)


def test_durations_are_written_as_people_write_them() -> None:
    written = {0.0: "0 s", 0.00012345: "0.0001234 s", 1.5: "1.5 s", 999.94: "999.9 s", 999.96: "1000 s"}
    written |= {1000.0: "1000 s", 123_456.7: "123457 s", 1e6: "1000000 s"}
    assert {value: errors.in_seconds(value) for value in written} == written


def test_only_what_trio_says_outside_of_a_run_is_translated() -> None:
    own = RuntimeError("own")
    assert errors.outside_trio(own) is own
    for words in ("must be called from async context", "Cannot be used outside of a run context"):
        assert "trioresil runs on Trio" in str(errors.outside_trio(RuntimeError(words)))
