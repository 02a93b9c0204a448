"""What a user may implement: a policy in few lines has every form, and the protocols are only shapes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import trio

import trioresil
from trioresil import Bulkhead, CircuitBreaker, Fallback, Pipeline, Retry, Timeout, TokenBucket
from trioresil.testing import Recorder


class Logged(trioresil.abc.Policy):
    """As in the documentation of Policy."""

    name = "logged"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.linked = 0

    def link(self, inner: Any) -> Any:
        self.linked += 1

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            self.calls.append((args, dict(kwargs)))
            return await inner(args, kwargs)

        return link

    def statistics(self) -> int:
        return len(self.calls)


async def fetch(url: str, *, retries: int = 0) -> str:
    """Fetch a page."""
    await trio.lowlevel.checkpoint()
    return f"{url} {retries}"


async def test_link_is_all_that_a_policy_needs() -> None:
    logged = Logged()
    assert await logged.call(fetch, "a") == "a 0"
    assert await logged.call(functools.partial(fetch, retries=1), "b") == "b 1"
    assert await logged(fetch)("c", retries=2) == "c 2"
    assert await logged.bind(fetch)("d") == "d 0"
    assert logged.calls == [(("a",), {}), (("b",), {}), (("c",), {"retries": 2}), (("d",), {})]
    assert logged.stateful


async def test_link_is_called_once_for_each_chain() -> None:
    logged = Logged()
    decorated = Pipeline(Timeout(5), logged)(fetch)
    for _ in range(3):
        await decorated("a")
    assert logged.linked == 1
    for _ in range(3):
        await logged.call(fetch, "a")
    assert logged.linked == 4


async def test_a_users_policy_stands_anywhere_in_a_pipeline() -> None:
    for place in range(6):
        logged = Logged()
        parts: list[trioresil.abc.Policy] = [
            Timeout(9),
            Retry(on=Exception),
            CircuitBreaker(),
            Bulkhead(1),
            TokenBucket(rate=9),
        ]
        parts.insert(place, logged)
        assert await Pipeline(*parts).call(fetch, "a") == "a 0"
        assert logged.calls == [(("a",), {})]


async def test_a_users_policy_may_refuse_as_ours_do(autojump_clock: Any) -> None:
    class Closed(Logged):
        def link(self, inner: Any) -> Any:
            async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
                raise trioresil.RejectedError("closed", 0.5)

            return link

    breaker = CircuitBreaker(trip=trioresil.ConsecutiveFailures(1))
    pipeline = Pipeline(breaker, Retry(on=trioresil.RejectedError, max_attempts=3, backoff=[9]), Closed())
    with pytest.raises(trioresil.RejectedError) as caught:
        await pipeline.call(fetch, "a")
    assert caught.value.started is False
    assert breaker.state is trioresil.CircuitState.CLOSED
    assert trio.current_time() == 1.0  # twice its retry_after, which is not jittered, for a list is not


async def test_a_users_guard_with_a_block_fits_into_a_pipelines_block() -> None:
    class Guard(Logged):
        async def __aenter__(self) -> None:
            self.calls.append(("in",))

        async def __aexit__(self, *_: object) -> None:
            self.calls.append(("out",))

    guard = Guard()
    async with Pipeline(Timeout(5), guard, Bulkhead(1)):
        guard.calls.append(("body",))
    assert guard.calls == [("in",), ("body",), ("out",)]


def test_a_policy_without_link_or_statistics_can_not_be_made() -> None:
    for missing in ("link", "statistics"):
        kind = type("Partial", (Logged,), {missing: trioresil.abc.Policy.__dict__[missing]})
        with pytest.raises(TypeError, match=missing):
            kind()


def test_instruments_and_drainables_are_shapes() -> None:
    assert isinstance(Recorder(), trioresil.abc.Instrument)
    assert isinstance(Bulkhead(1), trioresil.abc.Drainable)
    for other in (object(), Timeout(5)):
        assert not isinstance(other, trioresil.abc.Instrument)
        assert not isinstance(other, trioresil.abc.Drainable)
    assert issubclass(Fallback, trioresil.abc.Policy)


async def test_bind_checks_for_no_cancellation_and_call_and_decorator_do() -> None:
    calls: list[str] = []

    async def note(form: str) -> None:
        calls.append(form)

    for policy in (Logged(), Timeout(5), Pipeline(Bulkhead(1))):
        for form, fn in (
            ("call", functools.partial(policy.call, note)),
            ("decorator", policy(note)),
            ("bind", policy.bind(note)),
        ):
            with trio.CancelScope() as scope:
                scope.cancel()
                await fn(form)
    assert calls == ["bind"] * 3
