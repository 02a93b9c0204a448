"""What the tests of the breaker share: calls of which the outcome is known, and breakers in each state."""

from __future__ import annotations

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
