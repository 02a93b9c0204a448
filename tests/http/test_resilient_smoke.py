"""The client as a whole on loopback: what only the pool and the policies together can show."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

import trioresil
from tests.http._raw_server import RawServer
from tests.http._scripted import BOTH, Edge
from tests.http._servers import BlackHole

pytestmark = BOTH


@pytest.mark.slow
async def test_host_that_never_answers_a_connection_opens_its_circuit(edge: Edge) -> None:
    """Nothing was sent, so a POST may be made again; but it is the other side that failed, not a queue of ours."""
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(2))
    options: dict[str, Any] = {"attempt_timeout": 0.2, "trust_env": False, "breaker": lambda _: breaker}
    retry = trioresil.Retry(on=Exception, max_attempts=2, backoff=[0])
    with BlackHole() as hole, trio.fail_after(20):
        async with edge.face.open_client(**options, retry=retry) as client:
            with pytest.raises(edge.face.TimedOutError) as caught:
                await client.post(hole.url)
            assert caught.value.started is False
            assert breaker.state is trioresil.CircuitState.OPEN
            with pytest.raises(edge.face.CircuitOpenError):
                await client.get(hole.url)


async def test_opened_client_tells_of_its_transport_and_leaves_nothing_behind(
    edge: Edge, nursery: trio.Nursery
) -> None:
    server = await RawServer().start(nursery)
    opened = edge.face.open_client(trust_env=False, bulkhead=lambda _: trioresil.Bulkhead(1))
    with trio.fail_after(20):
        async with opened as client:
            for reused in (False, True):
                report = (await client.get(server.url)).extensions["trioresil"]
                assert (report.attempts, report.waited, report.reused) == (1, 0.0, reused)
            statistics = opened.transport.statistics()
            assert (statistics.requests, statistics.retries, statistics.inside) == (2, 0, 0)
            (origin,) = statistics.origins
            assert origin.origin == server.url.rstrip("/")
            assert origin.bulkhead.inside == 0
            opened.transport.close_admission()
            with pytest.raises(edge.face.PoolClosedError):
                await client.get(server.url)
            await opened.transport.wait_drained()
    nursery.cancel_scope.cancel()


async def test_proxies_of_the_environment_get_a_pool_and_the_policies(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "direct.example")
    retry = trioresil.Retry(on=Exception, max_attempts=2, backoff=[0])
    async with edge.face.open_client(retry=retry, total_timeout=math.inf) as client:
        proxied = client._transport_for_url(edge.library.URL("https://a.example"))
        direct = client._transport_for_url(edge.library.URL("https://direct.example"))
        assert type(proxied) is type(direct) is edge.face.ResilientTransport
        assert direct is client._transport
        assert proxied is not direct
        with pytest.raises(edge.library.ConnectError) as caught:
            await client.get("https://a.example")
        assert any("gave up after 2 attempts" in note for note in caught.value.__notes__)
