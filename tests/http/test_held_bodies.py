"""An answer's body that holds a permit, when nobody closes it: what is given back, and in which step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from tests.http._scripted import BOTH, Edge, answer

pytestmark = [BOTH, pytest.mark.filterwarnings("ignore:.*an answer was never closed:ResourceWarning")]


def transport_of(edge: Edge, bulkhead: trioresil.Bulkhead) -> Any:
    return edge.face.ResilientTransport(edge.scripted(answer(200, b"x")), bulkhead=lambda _origin: bulkhead)


async def test_collected_answer_gives_its_permit_back(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)
    transport = transport_of(edge, bulkhead)
    response = await transport.handle_async_request(edge.request())
    assert bulkhead.statistics().inside == 1
    del response
    await wait_all_tasks_blocked()
    assert bulkhead.statistics().inside == 0


async def test_collector_that_comes_in_the_middle_of_a_hand_over_lets_nobody_in_too_many(
    autojump_clock: MockClock, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector runs at any allocation, so in the middle of a CapacityLimiter's step too."""
    bulkhead = trioresil.Bulkhead(2)
    transport = transport_of(edge, bulkhead)
    thrown_away = [await transport.handle_async_request(edge.request())]
    closed = await transport.handle_async_request(edge.request())
    lot = bulkhead._limiter._lot
    unpark: Callable[..., Any] = lot.unpark

    def unpark_after_the_collector(**count: Any) -> Any:
        thrown_away.clear()
        return unpark(**count)

    monkeypatch.setattr(type(lot), "unpark", lambda _self, **count: unpark_after_the_collector(**count))
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            response = await transport.handle_async_request(edge.request())
            await trio.sleep(1)
            await response.aclose()

        for _ in range(4):
            nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        await closed.aclose()
        await wait_all_tasks_blocked()
        assert bulkhead.statistics().inside == 2
    assert bulkhead.statistics().inside == 0
