"""The policies of each origin: found by name, remembered while they may matter, and never two of a kind for one origin."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, ORIGIN, Edge, answer

pytestmark = [BOTH, pytest.mark.slow]


async def test_origin_in_use_is_never_made_twice_however_many_others_come(
    autojump_clock: MockClock, edge: Edge
) -> None:
    """A body is open, so its origin's only seat is taken, also after more origins than are remembered."""
    made: list[str] = []

    def factory(origin: str) -> trioresil.Bulkhead:
        made.append(origin)
        return trioresil.Bulkhead(1, max_wait=0, name=origin)

    resilient = edge.resilient(edge.scripted(answer(200, b"x")), bulkhead=factory)
    response = await resilient.handle_async_request(edge.request())
    for number in range(1100):
        other = await resilient.handle_async_request(edge.request("GET", f"https://{number}.example"))
        await other.stream.aclose()
    with pytest.raises(edge.face.BulkheadFullError):
        await resilient.handle_async_request(edge.request())
    await response.stream.aclose()
    assert made.count(ORIGIN) == 1


async def test_origins_last_used_are_the_ones_remembered(autojump_clock: MockClock, edge: Edge) -> None:
    made: list[str] = []

    def factory(origin: str) -> trioresil.CircuitBreaker:
        made.append(origin)
        return trioresil.CircuitBreaker(name=origin)

    resilient = edge.resilient(edge.scripted(), breaker=factory)

    async def send(url: str) -> None:
        await (await resilient.handle_async_request(edge.request("GET", url))).aclose()

    await send(ORIGIN)
    for number in range(1500):
        await send(f"https://{number}.example")
        if number % 500 == 0:
            await send(ORIGIN)
    await send(ORIGIN)
    await send("https://0.example")
    assert made.count(ORIGIN) == 1
    assert made.count("https://0.example") == 2
    assert len(resilient.statistics().origins) <= 1024
