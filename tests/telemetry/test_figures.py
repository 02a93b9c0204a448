"""What the statistics of the HTTP edge come to, and of classes that are somebody else's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

import trioresil
from tests.telemetry.test_prometheus import Scraped
from trioresil._http._client_tls import ClientTLSStatistics
from trioresil._http._pool_statistics import PoolOriginStatistics, PoolTransportStatistics
from trioresil.httpx import PoolTransport, ResilientTransport
from trioresil.telemetry import PrometheusInstrument
from trioresil.telemetry._figures import SIMPLE, figures_of


class Saying:
    """A service whose statistics are what they are set to."""

    name = "it"

    def __init__(self, statistics: Any) -> None:
        self.said = statistics

    def statistics(self) -> Any:
        return self.said


def origin(**numbers: int) -> PoolOriginStatistics:
    names = [each.name for each in attrs.fields(PoolOriginStatistics) if each.name != "last_error"]
    return PoolOriginStatistics(**{**dict.fromkeys(names, 0), **numbers}, last_error=None)


def pool(origins: dict[str, PoolOriginStatistics]) -> PoolTransportStatistics:
    counts: dict[str, Any] = dict.fromkeys(("open", "in_use", "idle", "connecting", "waiting", "requests"), 0)
    return PoolTransportStatistics(name="it", max_connections=100, closed=False, origins=origins, **counts)


def test_counters_of_origins_are_added_up_and_survive_one_that_is_forgotten() -> None:
    scraped, seen = Scraped(), []
    saying = Saying(pool({}))
    scraped.instrument.watch(saying)
    for origins in ({}, {"a": 3, "b": 4}, {"a": 5}, {"a": 5, "b": 1}):
        saying.said = pool({name: origin(requests=requests) for name, requests in origins.items()})
        seen.append(scraped.values()["http_pool_requests_total{policy=it}"])
    assert seen == [0, 7, 9, 10]
    assert scraped.values()["http_pool_limit{policy=it}"] == 100


def test_the_end_of_a_certificate_is_a_timestamp() -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    statistics = ClientTLSStatistics(name="it", generation=2, valid_until=until, failures=1, last_error=None)
    saying, scraped = Saying(statistics), Scraped()
    scraped.instrument.watch(saying)
    values = scraped.values()
    assert values["client_tls_valid_until_timestamp_seconds{policy=it}"] == 1893456000
    assert values["client_tls_failures_total{policy=it}"] == 1


async def test_a_transport_shows_its_requests_retries_and_who_is_held_back(autojump_clock: MockClock) -> None:
    answers = iter([503, 200, 429, 200, 200])

    class Scripted(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            status = next(answers)
            headers = {"Retry-After": "20"} if status == 429 else {}
            return httpx.Response(status, headers=headers, request=request)

    scraped = Scraped()
    transport = ResilientTransport(Scripted(), name="api")
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client, trio.open_nursery() as nursery:
        with trioresil.instrument(scraped.instrument):
            await client.get("https://a.example/")
            assert scraped.values()["http_held_back{policy=api}"] == 0
            nursery.start_soon(client.get, "https://a.example/")
            await trio.sleep(1)
            nursery.start_soon(client.get, "https://a.example/")
            await trio.sleep(1)
            values = scraped.values()
    assert values["http_requests_total{policy=api}"] == 3
    assert values["http_retries_total{policy=api}"] == 1
    assert values["http_inside{policy=api}"] == 2
    assert values["http_held_back{policy=api}"] == 1
    assert values["http_pause_remaining_seconds{policy=api}"] == pytest.approx(18)  # a random wait was before it
    assert values["retry_budget_withdrawn_total{policy=api-retry}"] == 2
    assert values["circuit_breaker_state{policy=https://a.example,state=closed}"] == 1
    assert values["call_duration_seconds_count{outcome=success,policy=api}"] == 1


def test_a_pool_of_http_connections_is_there_before_its_first_request() -> None:
    scraped, transport = Scraped(), PoolTransport(name="wire")
    scraped.instrument.watch(transport)
    values = scraped.values()
    assert values["http_pool_in_use{policy=wire}"] == 0
    assert values["http_pool_connect_failed_total{policy=wire}"] == 0


def test_statistics_of_somebody_elses_class_have_no_figures() -> None:
    for name in SIMPLE:
        kind = type(name, (), {"__module__": "elsewhere", "limit": 1})
        assert list(figures_of(kind())) == []
    assert list(figures_of(None)) == []
    assert "0 policies" in repr(PrometheusInstrument(CollectorRegistry()))
