"""The circuit of each origin: what it counts, what it lets through, and how long it stays open."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, ORIGIN, URL, Edge, Failing, Queue, answer, fails, hangs, options
from trioresil import CircuitState
from trioresil._policies.circuit_breaker import checked_breaker
from trioresil.testing import Recorder

pytestmark = BOTH


def touchy(edge: Edge, **configuration: Any) -> trioresil.CircuitBreaker:
    """Return a breaker that opens at the first failure."""
    face = edge.face
    given = {"trip": trioresil.ConsecutiveFailures(1), "on": face.failed, "on_result": face.failed, "open_for": 1.0}
    return trioresil.CircuitBreaker(**{**given, **configuration})


async def verdict(edge: Edge, step: Any, *, method: str = "GET", limits: Any = None, **request: Any) -> str:
    """Return what a half-open circuit made of a call: good, failure or none."""
    breaker = touchy(edge)
    breaker.open(1)
    await trio.sleep(1)
    async with edge.client(edge.scripted(step), breaker=lambda _: breaker, **(limits or {})) as client:
        with trio.move_on_after(100):
            with contextlib.suppress(Exception, ExceptionGroup):
                await client.request(method, URL, **request)
    statistics = breaker.statistics()
    assert statistics.probes_out == 0
    assert statistics.inside == 0
    return {CircuitState.CLOSED: "good", CircuitState.OPEN: "failure", CircuitState.HALF_OPEN: "none"}[statistics.state]


# -- what counts --------------------------------------------------------------------------------------------------------------


async def test_every_status_has_its_verdict(autojump_clock: MockClock, edge: Edge) -> None:
    for status in [200, 204, 301, 304, 400, 401, 403, 404, 408, 409, 418, 425, 429, 499, 501]:
        assert await verdict(edge, answer(status)) == "good", status
    for status in [500, 502, 503, 504, 505, 507, 511, 599]:
        assert await verdict(edge, answer(status)) == "failure", status
    assert await verdict(edge, answer(429, retry_after=0)) == "good"


async def test_every_transport_error_has_its_verdict(autojump_clock: MockClock, edge: Edge) -> None:
    for name in [
        "ConnectError", "ConnectTimeout", "ReadError", "ReadTimeout", "WriteError", "WriteTimeout", "CloseError",
        "RemoteProtocolError", "ProxyError",
    ]:  # fmt: skip
        assert await verdict(edge, fails(name)) == "failure", name
    for name in ["PoolTimeout", "LocalProtocolError", "UnsupportedProtocol"]:
        assert await verdict(edge, fails(name)) == "none", name


@pytest.mark.parametrize("error", [ValueError("x"), Failing("x"), OSError("x"), ExceptionGroup("x", [ValueError("x")])])
async def test_error_that_is_not_the_client_librarys_is_no_verdict(
    autojump_clock: MockClock, edge: Edge, error: Exception
) -> None:
    assert await verdict(edge, fails(error)) == "none"


async def test_request_body_that_fails_is_no_verdict(autojump_clock: MockClock, edge: Edge) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"part"
        raise Failing

    assert await verdict(edge, answer(), method="PUT", content=broken()) == "none"


async def test_attempt_that_timed_out_in_flight_is_a_failure(autojump_clock: MockClock, edge: Edge) -> None:
    assert await verdict(edge, hangs(), limits={"attempt_timeout": 2.0}) == "failure"


async def test_total_time_out_in_flight_is_no_verdict(autojump_clock: MockClock, edge: Edge) -> None:
    """The total stands around the circuit, which sees a cancellation; also where one scope serves for both."""
    assert await verdict(edge, hangs(), limits={"total_timeout": 2.0}) == "none"
    assert await verdict(edge, hangs(), limits={"total_timeout": 2.0, "attempt_timeout": 3.0}) == "none"
    assert await verdict(edge, hangs(), limits={"total_timeout": 2.0, "attempt_timeout": 2.0}) == "none"
    assert await verdict(edge, hangs(), limits={"total_timeout": 3.0, "attempt_timeout": 2.0}) == "failure"


async def test_attempt_that_timed_out_in_the_pools_queue_is_no_verdict(autojump_clock: MockClock, edge: Edge) -> None:
    queue = Queue(seconds=1000, then=answer())
    assert await verdict(edge, queue, limits={"attempt_timeout": 2.0}) == "none"
    assert await verdict(edge, queue, limits={"total_timeout": 2.0}) == "none"


async def test_attempt_that_timed_out_while_connecting_is_a_failure_although_unstarted(
    autojump_clock: MockClock, edge: Edge
) -> None:
    """Nobody answers there, which is what a circuit is for; and nothing was sent, so a POST may be made again."""
    dial = Queue(seconds=1000, then=answer(), dials=True)
    assert await verdict(edge, dial, limits={"attempt_timeout": 2.0}) == "failure"
    assert await verdict(edge, dial, limits={"total_timeout": 2.0}) == "none"
    transport = edge.scripted(dial, answer(201))
    async with edge.client(transport, attempt_timeout=2, retry=edge.retry()) as client:
        assert (await client.post(URL)).status_code == 201
    assert len(transport.sent) == 1


async def test_cancelled_attempt_is_no_verdict(autojump_clock: MockClock, edge: Edge) -> None:
    assert await verdict(edge, hangs()) == "none"


async def test_our_own_limits_are_no_verdict(autojump_clock: MockClock, edge: Edge) -> None:
    full, empty = trioresil.Bulkhead(1, max_wait=0), trioresil.TokenBucket(rate=0.001, max_wait=0)
    async with full:
        assert await verdict(edge, answer(), limits={"bulkhead": lambda _: full}) == "none"
    empty.acquire_nowait()
    assert await verdict(edge, answer(), limits={"bucket": lambda _: empty}) == "none"
    waiting = trioresil.Bulkhead(1)
    async with waiting:

        async def other() -> None:
            assert await verdict(edge, answer(), limits={"bulkhead": lambda _: waiting, "total_timeout": 2.0}) == "none"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)


async def test_more_tokens_than_the_bucket_holds_is_a_mistake_and_no_verdict(
    autojump_clock: MockClock, edge: Edge
) -> None:
    bucket = trioresil.TokenBucket(rate=1, capacity=2)
    limits = {"bucket": lambda _: bucket}
    assert await verdict(edge, answer(), limits=limits, extensions=options(tokens=3)) == "none"


async def test_body_that_breaks_later_is_no_failure(autojump_clock: MockClock, edge: Edge) -> None:
    """The answer's head was good; what follows is between the body and its reader."""
    assert await verdict(edge, answer(200, b"half", breaks="ReadError")) == "good"


async def test_group_of_transport_errors_is_a_failure(autojump_clock: MockClock, edge: Edge) -> None:
    group = ExceptionGroup("two addresses", [edge.error("ConnectError"), edge.error("ConnectTimeout")])
    assert await verdict(edge, fails(group)) == "failure"


async def test_breaker_with_a_law_of_its_own_is_asked_by_that(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, on=edge.library.ReadError, on_result=lambda response: response.status_code == 404)
    for step, state in ((answer(500), "closed"), (fails("ConnectError"), "closed"), (answer(404), "open")):
        transport = edge.scripted(step)
        async with edge.client(transport, breaker=lambda _: breaker) as client:
            with contextlib.suppress(edge.library.ConnectError):
                await client.get(URL)
        assert breaker.state.value == state


async def test_every_attempt_counts_by_itself(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(3))
    transport = edge.scripted(answer(503), fails("ReadError"), answer(200))
    async with edge.client(transport, retry=edge.retry(), breaker=lambda _: breaker) as client:
        assert (await client.get(URL)).status_code == 200
        transport._steps[:] = [answer(500)]
        await client.get(URL)
        await client.get(URL)
        assert breaker.state is CircuitState.CLOSED
        await client.get(URL)
        assert breaker.state is CircuitState.OPEN


# -- rejections ---------------------------------------------------------------------------------------------------------------


async def test_rejection_comes_out_at_once_whatever_the_retry_says(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge)
    transport = edge.scripted()
    retry = edge.retry(on=Exception, on_result=lambda _: True, delay_hint=None)
    async with edge.client(transport, retry=retry, breaker=lambda _: breaker) as client:
        breaker.open(7)
        with pytest.raises(edge.face.CircuitOpenError) as caught:
            await client.get(URL)
        assert (caught.value.retry_after, caught.value.started) == (7, False)
        with breaker.isolated(), pytest.raises(edge.face.CircuitIsolatedError):
            await client.get(URL)
    assert trio.current_time() == 0
    assert transport.sent == []
    assert breaker.statistics().rejected == 2


async def test_rejection_while_a_probe_is_out_comes_out_at_once_too(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge)
    transport = edge.scripted(answer(200, takes=5))
    async with edge.client(transport, retry=edge.retry(), breaker=lambda _: breaker) as client:
        breaker.open(1)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(edge.face.CircuitOpenError) as caught:
                await client.get(URL)
            assert caught.value.retry_after is None
            assert trio.current_time() == 1


async def test_after_an_earlier_attempt_a_probe_that_is_out_is_waited_for(
    autojump_clock: MockClock, edge: Edge
) -> None:
    """Its outcome will be there in a moment; so the call waits for its back-off, and then gets in."""
    breaker = touchy(edge, open_for=0.5)
    probe = answer(200, takes=1)
    transport = edge.scripted(fails("ReadError"), probe, answer(200, b"mine"))
    async with edge.client(
        transport, retry=edge.retry(backoff=[1.0], max_attempts=4), breaker=lambda _: breaker
    ) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_get_at, client, 0.75)
            response = await client.get(URL)
    assert response.content == b"mine"
    assert transport.sent_at == [0, 0.75, 2]
    assert breaker.state is CircuitState.CLOSED


async def _get_at(client: Any, instant: float) -> None:
    await trio.sleep_until(instant)
    await client.get(URL)


async def test_open_circuit_met_by_a_retry_gives_the_earlier_answer(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, open_for=50)
    transport = edge.scripted(answer(503, b"sorry"))
    async with edge.client(transport, retry=edge.retry(max_attempts=5), breaker=lambda _: breaker) as client:
        response = await client.get(URL)
    assert (response.status_code, response.content) == (503, b"sorry")
    assert len(transport.sent) == 1
    assert trio.current_time() <= 1
    assert transport.open == []


async def test_open_circuit_met_by_a_retry_gives_the_earlier_error(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, open_for=50)
    error = edge.error("ReadError")
    async with edge.client(edge.scripted(fails(error)), retry=edge.retry(), breaker=lambda _: breaker) as client:
        with pytest.raises(edge.library.ReadError) as caught:
            await client.get(URL)
    assert caught.value is error


async def test_isolated_circuit_met_by_a_retry_is_not_waited_for(autojump_clock: MockClock, edge: Edge) -> None:
    """It has no retry_after either, but no probe is out: nothing but a hand will open it."""
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))

    def script(request: Any, number: int) -> Any:
        breaker.isolate()
        return answer(503, b"sorry")

    transport = edge.scripted(script)
    async with edge.client(transport, retry=edge.retry(max_attempts=5), breaker=lambda _: breaker) as client:
        assert (await client.get(URL)).content == b"sorry"
    assert len(transport.sent) == 1
    assert trio.current_time() == 1


async def test_rejection_is_a_checkpoint(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge)
    breaker.open(1)
    async with edge.client(edge.scripted(), breaker=lambda _: breaker) as client:
        with trio.testing.assert_checkpoints(), pytest.raises(edge.face.CircuitOpenError):
            await client.get(URL)


async def test_rejection_is_an_event(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, name="api")
    breaker.open(1)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with edge.client(edge.scripted(), breaker=lambda _: breaker) as client:
            with pytest.raises(edge.face.CircuitOpenError):
                await client.get(URL)
    (event,) = recorder.of(trioresil.CallRejected)
    assert event.policy is breaker


async def test_breaker_that_only_reports_rejects_nothing(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, enforce=False)
    transport = edge.scripted(answer(500))
    async with edge.client(transport, breaker=lambda _: breaker) as client:
        for _ in range(3):
            assert (await client.get(URL)).status_code == 500
    assert breaker.state is CircuitState.OPEN


# -- 503 with Retry-After --------------------------------------------------------------------------------------------------------


async def test_503_with_retry_after_opens_for_just_that_long(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99), open_for=1000)
    transport = edge.scripted(answer(503, retry_after=5), answer(200))
    async with edge.client(transport, breaker=lambda _: breaker) as client:
        assert (await client.get(URL)).status_code == 503
        assert breaker.state is CircuitState.OPEN
        await trio.sleep(4.75)
        with pytest.raises(edge.face.CircuitOpenError) as caught:
            await client.post(URL)
        assert caught.value.retry_after == 0.25
        await trio.sleep(0.25)
        assert (await client.get(URL)).status_code == 200
    assert breaker.state is CircuitState.CLOSED


async def test_503_with_retry_after_opens_for_just_that_long_even_if_it_trips(
    autojump_clock: MockClock, edge: Edge
) -> None:
    """The failure that it is opens the circuit by itself; the server's word is then the better one."""
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(1), open_for=1000)
    transport = edge.scripted(answer(503, retry_after=5), answer(200))
    async with edge.client(transport, breaker=lambda _: breaker) as client:
        await client.get(URL)
        await trio.sleep(5)
        assert (await client.get(URL)).status_code == 200


async def test_call_that_was_told_503_waits_and_is_the_probe(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))
    transport = edge.scripted(answer(503, retry_after=5), answer(200))
    async with edge.client(transport, retry=edge.retry(), breaker=lambda _: breaker) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent_at == [0, 5]
    assert breaker.state is CircuitState.CLOSED


async def test_503_opens_for_no_longer_than_max_hint_and_the_call_gives_up(
    autojump_clock: MockClock, edge: Edge
) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))
    transport = edge.scripted(answer(503, retry_after=5000), answer(200))
    async with edge.client(transport, retry=edge.retry(max_hint=10), breaker=lambda _: breaker) as client:
        assert (await client.get(URL)).status_code == 503
        assert trio.current_time() == 0
        assert breaker.statistics().remaining == 10
    assert len(transport.sent) == 1


async def test_503_is_bounded_by_the_default_max_hint_without_a_retry(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))
    async with edge.client(edge.scripted(answer(503, retry_after=5000)), breaker=lambda _: breaker) as client:
        await client.get(URL)
    assert breaker.statistics().remaining == 60


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"])
async def test_503_with_nothing_or_nonsense_opens_nothing(autojump_clock: MockClock, edge: Edge, text: str) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))
    async with edge.client(edge.scripted(answer(503, retry_after=text)), breaker=lambda _: breaker) as client:
        assert (await client.get(URL)).status_code == 503
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("status", [429, 502, 504, 500, 200, 301])
async def test_retry_after_of_another_status_opens_nothing(autojump_clock: MockClock, edge: Edge, status: int) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))
    async with edge.client(edge.scripted(answer(status, retry_after=5)), breaker=lambda _: breaker) as client:
        await client.get(URL)
    assert breaker.state is CircuitState.CLOSED


async def test_dates_count_too(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))
    step = answer(503, retry_after="Mon, 23 Nov 2026 12:00:09 GMT", headers={"Date": "Mon, 23 Nov 2026 12:00:00 GMT"})
    async with edge.client(edge.scripted(step), breaker=lambda _: breaker) as client:
        await client.get(URL)
    assert breaker.statistics().remaining == 9


async def test_probe_told_503_opens_again_for_just_that_long(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = touchy(edge, open_for=1000)
    transport = edge.scripted(answer(503, retry_after=5), answer(200))
    async with edge.client(transport, breaker=lambda _: breaker) as client:
        breaker.open(1)
        await trio.sleep(1)
        await client.get(URL)
        assert breaker.statistics().remaining == 5
        await trio.sleep(5)
        assert (await client.get(URL)).status_code == 200
    assert breaker.state is CircuitState.CLOSED


async def test_longer_open_time_is_kept(autojump_clock: MockClock, edge: Edge) -> None:
    """Two calls were under way; the one with the shorter hint comes last."""
    breaker = touchy(edge, trip=trioresil.ConsecutiveFailures(99))
    transport = edge.scripted(answer(503, retry_after=9, takes=1), answer(503, retry_after=2, takes=2))
    async with edge.client(transport, breaker=lambda _: breaker) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(client.get, URL)
    assert breaker.statistics().remaining == 8


# -- one for each origin -------------------------------------------------------------------------------------------------------


async def test_factory_is_asked_once_for_each_origin_without_default_ports(
    autojump_clock: MockClock, edge: Edge
) -> None:
    asked: list[str] = []

    def factory(origin: str) -> trioresil.CircuitBreaker:
        asked.append(origin)
        return trioresil.CircuitBreaker(name=origin)

    async with edge.client(edge.scripted(), breaker=factory) as client:
        for url in [
            "https://a.example/x", "https://a.example:443/y", "https://A.example/z?q=1", "https://u:p@a.example/",
            "http://a.example/", "http://a.example:80/", "http://a.example:443/", "https://a.example:8443/",
            "https://[::1]/", "https://[::1]:8443/x", "https://bücher.example/",
        ]:  # fmt: skip
            await client.get(url)
    assert asked == [
        "https://a.example", "http://a.example", "http://a.example:443", "https://a.example:8443",
        "https://[::1]", "https://[::1]:8443", "https://xn--bcher-kva.example",
    ]  # fmt: skip


async def test_circuit_of_one_origin_does_not_open_anothers(autojump_clock: MockClock, edge: Edge) -> None:
    breakers = trioresil.Keyed(lambda origin: touchy(edge, name=origin))

    def script(request: Any, number: int) -> Any:
        return answer(500 if request.url.host == "bad.example" else 200)

    async with edge.client(edge.scripted(script), breaker=breakers) as client:
        assert (await client.get("https://bad.example")).status_code == 500
        with pytest.raises(edge.face.CircuitOpenError) as caught:
            await client.get("https://bad.example")
        assert (await client.get("https://good.example")).status_code == 200
    assert caught.value.policy == "https://bad.example"


async def test_keyed_that_the_user_keeps_is_the_one_in_use(autojump_clock: MockClock, edge: Edge) -> None:
    breakers = trioresil.Keyed(lambda origin: touchy(edge))
    transport = edge.scripted()
    async with edge.client(transport, breaker=breakers) as client:
        with breakers[ORIGIN].isolated(), pytest.raises(edge.face.CircuitIsolatedError):
            await client.get(URL)
        await client.get(URL)
    assert len(transport.sent) == 1


async def test_breaker_that_is_off_for_a_request_neither_rejects_nor_counts(
    autojump_clock: MockClock, edge: Edge
) -> None:
    breaker = touchy(edge)
    transport = edge.scripted(answer(500))
    async with edge.client(transport, breaker=lambda _: breaker) as client:
        await client.get(URL, extensions=options(breaker=False))
        assert breaker.state is CircuitState.CLOSED
        breaker.open(10)
        assert (await client.get(URL, extensions=options(breaker=False))).status_code == 500
    assert len(transport.sent) == 2


async def test_default_breaker_opens_when_half_of_twenty_calls_fail(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(500))
    resilient = edge.face.ResilientTransport(transport, retry=None)
    async with edge.library.AsyncClient(transport=resilient) as client:
        for number in range(20):
            assert (await client.get(URL)).status_code == 500, number
        with pytest.raises(edge.face.CircuitOpenError) as caught:
            await client.get(URL)
        assert caught.value.policy
        assert ORIGIN in str(caught.value)
        hint = caught.value.retry_after
        assert 0 < hint <= 7.5
        assert (await client.get("https://other.example")).status_code == 500
    assert len(transport.sent) == 21


@pytest.mark.parametrize(("failures", "state"), [(9, "closed"), (10, "open")])
async def test_default_breaker_opens_at_one_half_exactly(
    autojump_clock: MockClock, edge: Edge, failures: int, state: str
) -> None:
    transport = edge.scripted(*[answer(200)] * (20 - failures), *[answer(500)] * failures)
    resilient = edge.face.ResilientTransport(transport, retry=None)
    async with edge.library.AsyncClient(transport=resilient) as client:
        for _ in range(20):
            await client.get(URL)
    assert resilient.statistics().origins[0].breaker.state.value == state


async def test_default_breaker_stays_closed_while_more_than_half_is_well(autojump_clock: MockClock, edge: Edge) -> None:
    chance = random.Random(3)
    steps = [500] * 49 + [404] * 51
    chance.shuffle(steps)
    steps = [404] * 30 + steps
    transport = edge.scripted(*[answer(status) for status in steps])
    resilient = edge.face.ResilientTransport(transport, retry=None)
    async with edge.library.AsyncClient(transport=resilient) as client:
        for _ in steps:
            await client.get(URL)


async def test_check_let_in_without_a_verdict_neither_opens_nor_extends_the_circuit(
    autojump_clock: MockClock, edge: Edge
) -> None:
    breaker = touchy(edge)
    overload = [answer(503, retry_after=30) for _ in range(4)]
    async with edge.client(edge.scripted(*overload), retry=None, breaker=lambda _: breaker) as client:
        token = checked_breaker.set(breaker)  # as in a health check
        try:
            with breaker.isolated():
                assert (await client.get(URL)).status_code == 503
            assert breaker.state is CircuitState.CLOSED
            breaker.open(1)
            assert (await client.get(URL)).status_code == 503
            assert breaker.statistics().remaining == 1
            await trio.sleep(1)
            assert (await client.get(URL)).status_code == 503
            assert breaker.state is CircuitState.HALF_OPEN
            breaker.reset()
            assert (await client.get(URL)).status_code == 503  # ordinary traffic again
            assert breaker.statistics().remaining == 30
        finally:
            checked_breaker.reset(token)
