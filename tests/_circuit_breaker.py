"""What the tests of the breaker share: calls of which the outcome is known, and breakers in each state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest
import trio

import trioresil
from trioresil import CircuitBreaker, CircuitState

CLOSED, OPEN, HALF_OPEN, ISOLATED = (
    CircuitState.CLOSED,
    CircuitState.OPEN,
    CircuitState.HALF_OPEN,
    CircuitState.ISOLATED,
)


async def succeed(result: Any = None, *, after: float = 0.0) -> Any:
    if after:
        await trio.sleep(after)
    return result


async def fail(error: BaseException | None = None, *, after: float = 0.0) -> NoReturn:
    if after:
        await trio.sleep(after)
    raise error or OSError("the service is down")


async def fail_times(breaker: CircuitBreaker, times: int = 1) -> None:
    """Make calls that fail."""
    for _ in range(times):
        with pytest.raises(OSError, match="the service is down"):
            await breaker.call(fail)


async def open_circuit(breaker: CircuitBreaker) -> CircuitBreaker:
    """Trip a breaker by the fewest failures."""
    while breaker.state is CLOSED:
        await fail_times(breaker)
    return breaker


async def half_open(breaker: CircuitBreaker) -> CircuitBreaker:
    """Trip a breaker and wait until a probe may be made."""
    await open_circuit(breaker)
    with trio.fail_after(70_000):  # rather than to hang
        await breaker.wait_admittable()
    return breaker


async def rejection(breaker: CircuitBreaker) -> trioresil.CircuitOpenError:
    """Return the error that a call is rejected with; its function must not be entered."""
    entered = False

    async def enter() -> None:
        nonlocal entered
        entered = True

    with pytest.raises(trioresil.CircuitOpenError) as caught:
        await breaker.call(enter)
    assert not entered
    return caught.value


def one_failure(**configuration: Any) -> CircuitBreaker:
    """Return a breaker that one failure opens for 8 seconds, if nothing else is said."""
    settings = {"trip": trioresil.ConsecutiveFailures(1), "open_for": 8.0, "name": "search", **configuration}
    return CircuitBreaker(**settings)


class NotFoundError(Exception):
    """Of the other side, which is well."""


Use = Callable[[CircuitBreaker, Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def by_call(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await breaker.call(fn)


async def by_decorator(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await breaker(fn)()


async def by_block(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    async with breaker:
        return await fn()


async def by_admit(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    with breaker.admit():
        return await fn()


every_form = pytest.mark.parametrize("use", [by_call, by_decorator, by_block, by_admit])
