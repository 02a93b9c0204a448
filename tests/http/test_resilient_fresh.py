"""After a connection has fallen silent the next attempt asks for one that was heard of since."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.http._scripted import BOTH, URL, Edge, Step, answer, fails, hangs

pytestmark = BOTH
SINCE = "trioresil.heard_after"


@pytest.mark.parametrize("silence", [hangs(), fails("ReadTimeout"), fails("WriteTimeout")])
async def test_retry_after_a_silence_asks_for_a_connection_that_was_heard_of_since(
    autojump_clock: MockClock, edge: Edge, silence: Step
) -> None:
    transport = edge.scripted(silence, answer(503), answer(200))
    async with edge.client(transport, attempt_timeout=2, retry=edge.retry(max_attempts=3)) as client:
        response = await client.get(URL, extensions={"mine": 1})
    first, second, third = transport.sent
    assert SINCE not in first.extensions
    assert second.extensions[SINCE] == third.extensions[SINCE] == first.at
    assert [each.extensions["mine"] for each in transport.sent] == [1, 1, 1]
    assert SINCE not in response.request.extensions  # which a redirect would inherit


@pytest.mark.parametrize(
    "failure", [answer(503), fails("ReadError"), fails("ConnectTimeout"), fails("ConnectError"), fails("PoolTimeout")]
)
async def test_retry_after_another_failure_takes_what_is_there(
    autojump_clock: MockClock, edge: Edge, failure: Step
) -> None:
    transport = edge.scripted(failure, answer(200))
    async with edge.client(transport, retry=edge.retry()) as client:
        await client.get(URL)
    assert [SINCE in each.extensions for each in transport.sent] == [False, False]
