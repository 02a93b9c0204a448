"""The flaky service over real sockets: what it does is what a client meets, and it keeps count."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from trioresil.cli._demo.service import FlakyService
from trioresil.cli._demo.weather import Fate, Weather

pytestmark = pytest.mark.slow


class Scripted(Weather):
    """Weather with one fate for all."""

    def __init__(self, fate: Fate) -> None:
        super().__init__(1, 20.0)
        object.__setattr__(self, "only", fate)

    def fate(self, at: float, number: int) -> Fate:
        return self.only  # type: ignore[attr-defined]


@asynccontextmanager
async def serving(service: FlakyService) -> AsyncIterator[httpx.AsyncClient]:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(service.serve)
        async with httpx.AsyncClient(base_url=url, verify=False, trust_env=False) as client:
            yield client
        nursery.cancel_scope.cancel()


def innermost(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


async def test_an_answer_is_an_answer_and_is_counted() -> None:
    service = FlakyService(Scripted(Fate("answer", 0.001)), lambda: 9.0)
    async with serving(service) as client:
        response = await client.get("/items/a")
    assert response.json() == {"name": "a", "answered_at": 9.0}
    assert service.requests == 1
    assert service.by_weather == {"outage": 1}
    assert service.by_action == {"answer": 1}


async def test_a_reset_is_a_real_one() -> None:
    async with serving(FlakyService(Scripted(Fate("reset", 0.0)), lambda: 0.0)) as client:
        for _ in range(3):
            with pytest.raises(httpx.ReadError) as caught:
                await client.get("/items/a")
            cause = innermost(caught.value)
            assert isinstance(cause, OSError)
            assert cause.errno == errno.ECONNRESET


async def test_a_503_carries_its_retry_after() -> None:
    async with serving(FlakyService(Scripted(Fate("unavailable", 0.0, retry_after=3)), lambda: 0.0)) as client:
        response = await client.get("/items/a")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "3")


async def test_a_503_without_a_word_says_nothing() -> None:
    async with serving(FlakyService(Scripted(Fate("unavailable", 0.0)), lambda: 0.0)) as client:
        response = await client.get("/items/a")
    assert response.status_code == 503
    assert "Retry-After" not in response.headers


async def test_a_client_that_gives_up_is_not_served_on() -> None:
    seen: list[float] = []
    service = FlakyService(Scripted(Fate("answer", 60.0)), lambda: 1.5, seen.append)
    async with serving(service) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/items/a", timeout=0.05)
        with trio.fail_after(5):
            while service.waiting:
                await trio.lowlevel.checkpoint()
    assert seen == [1.5]


async def test_health_checks_are_not_counted() -> None:
    service = FlakyService(Weather(1, 20.0), lambda: 0.0)
    async with serving(service) as client:
        assert (await client.get("/health")).json() == {"healthy": True}
    assert service.requests == 0


async def test_two_instances_treat_the_same_requests_alike() -> None:
    outcomes: list[list[int | str]] = []
    for _ in range(2):
        async with serving(FlakyService(Weather(5, 20.0), lambda: 11.5)) as client:
            outcomes.append([(await client.get("/items/a")).status_code for _ in range(5)])
    assert outcomes == [[503] * 5] * 2
