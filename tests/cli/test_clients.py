"""The resilient client of the demo does what the demo says of it; on a virtual clock, against a scripted transport."""

from __future__ import annotations

import httpx
import pytest
import trio

import trioresil
from trioresil.cli._demo.clients import (
    Answer,
    ResilientClient,
    bare,
    delay_hint,
    is_transient,
    retry_after,
    says_unhealthy,
)
from trioresil.cli._demo.events import EventCounter


class Server:
    """Answers by a script: a status, a response, an error, or None to hang; the last repeats."""

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.requests = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.requests += 1
        what = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if what is None:
            await trio.sleep_forever()
        if isinstance(what, Exception):
            raise what
        return what if isinstance(what, httpx.Response) else httpx.Response(what)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://items.example")


def unavailable(seconds: str) -> httpx.Response:
    return httpx.Response(503, headers={"Retry-After": seconds})


async def test_the_bare_call_lets_every_failure_through() -> None:
    server = Server(200, 503, httpx.ReadError("reset"))
    call = bare(server.client())
    assert await call("a") == Answer("a")
    with pytest.raises(httpx.HTTPStatusError):
        await call("a")
    with pytest.raises(httpx.ReadError):
        await call("a")


async def test_a_reset_a_503_and_a_hang_are_retried(autojump_clock) -> None:
    for trouble in (httpx.ReadError("reset"), 503, None):
        server = Server(trouble, 200)
        assert await ResilientClient(server.client(), 40).call("a") == Answer("a")
        assert server.requests == 2


async def test_a_404_is_neither_retried_nor_a_sign_of_illness(autojump_clock) -> None:
    server = Server(404)
    client = ResilientClient(server.client(), 40)
    for _ in range(30):
        with pytest.raises(httpx.HTTPStatusError):
            await client.call("a")
    assert server.requests == 30
    assert client.breaker.state is trioresil.CircuitState.CLOSED


async def test_in_an_outage_the_last_answer_comes_from_the_cache_with_its_age(autojump_clock) -> None:
    server = Server(200, None)
    client = ResilientClient(server.client(), 40)
    await client.call("a")
    await trio.sleep(10)
    answer = await client.call("a")
    assert (answer.item, answer.fresh) == ("a", False)
    assert 10 < answer.age <= 12.5


async def test_without_a_cached_answer_the_error_comes_out(autojump_clock) -> None:
    server = Server(httpx.ReadError("reset"))
    with pytest.raises(httpx.ReadError):
        await ResilientClient(server.client(), 40).call("a")


async def test_an_outage_opens_the_circuit_and_then_costs_nobody_any_time(autojump_clock) -> None:
    server = Server(200, httpx.ConnectError("refused"))
    client = ResilientClient(server.client(), 40)
    await client.call("a")
    while client.breaker.state is trioresil.CircuitState.CLOSED:
        await client.call("a")
    asked, now = server.requests, trio.current_time()
    assert not (await client.call("a")).fresh
    assert trio.current_time() == now
    assert server.requests == asked <= 40


async def test_a_503_that_says_when_opens_the_circuit_for_exactly_so_long(autojump_clock) -> None:
    server = Server(200, unavailable("1"), 200)
    client = ResilientClient(server.client(), 40)
    await client.call("a")
    counter = EventCounter(trio.current_time)
    with trioresil.instrument(counter):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "a")
            await trio.testing.wait_all_tasks_blocked()
            assert client.breaker.state is trioresil.CircuitState.OPEN
            assert client.breaker.statistics().remaining == 1.0
    told = [what for _, what in counter.circuit_log]
    assert told == ["circuit opened for 1 s: by Retry-After", "circuit closed: a probe succeeded"]
    assert server.requests == 3


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("0", 0.0), ("", None), ("soon", None), ("-1", None), ("1.5", None)]
)
def test_retry_after_is_read_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after(unavailable(value)) == seconds


def test_only_an_error_response_gives_a_hint() -> None:
    request = httpx.Request("GET", "http://items.example")
    error = httpx.HTTPStatusError("503", request=request, response=unavailable("1"))
    assert delay_hint(error) == 1.0
    assert delay_hint(httpx.ReadError("reset")) is None
    assert delay_hint(trioresil.TimedOutError("attempt", 0.7, started=True)) is None


def test_a_rejection_is_not_worth_waiting_for() -> None:
    rejected = trioresil.CircuitOpenError("items", 0.5)
    assert not is_transient(rejected)
    assert not says_unhealthy(rejected)


async def test_the_counter_counts_an_opening_once_however_often_it_is_made_longer(autojump_clock) -> None:
    breaker = trioresil.CircuitBreaker()
    counter = EventCounter(trio.current_time)
    with trioresil.instrument(counter):
        breaker.open(1)
        breaker.open(2)
        await trio.sleep(2)
        await breaker.call(trio.lowlevel.checkpoint)
        breaker.open(1)
    told = [what for _, what in counter.circuit_log]
    assert told == [
        "circuit opened for 1 s: by Retry-After, then 2 s by Retry-After",
        "circuit closed: a probe succeeded",
        "circuit opened for 1 s: by Retry-After",
    ]
    assert counter.circuit_opened == 2
    assert counter.of(trioresil.CircuitClosed) == 1
