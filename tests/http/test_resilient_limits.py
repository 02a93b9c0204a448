"""Bulkhead, bucket and the gate of a 429: who waits where, for how long, and when a place is free again."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, URL, Edge, answer, fails, hangs, options
from trioresil.testing import Recorder

pytestmark = BOTH

BREAKS_OFF = pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")  # of the library's own
NEAR = 1e-3  # the gate lets a million through in a second, one after the other


# -- the bulkhead holds until the body is closed ---------------------------------------------------------------------------------


async def test_open_body_counts_until_it_is_closed(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(2)
    transport = edge.scripted(answer(200, (b"x",) * 4, chunk_takes=1))
    async with edge.client(transport, bulkhead=lambda _: bulkhead) as client:
        async with client.stream("GET", URL) as response:
            assert bulkhead.statistics().inside == 1
            async for _ in response.aiter_bytes():
                assert bulkhead.statistics().inside == 1
            assert bulkhead.statistics().inside == 0  # read to its end it is closed
        assert bulkhead.statistics().inside == 0


@BREAKS_OFF
async def test_body_broken_off_half_way_gives_its_place_back_at_once(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)
    transport = edge.scripted(answer(200, (b"x",) * 4, chunk_takes=1))
    async with edge.client(transport, bulkhead=lambda _: bulkhead) as client:
        async with client.stream("GET", URL) as response:
            async for _ in response.aiter_bytes():
                break
            assert bulkhead.statistics().inside == 1
        assert bulkhead.statistics().inside == 0
        assert trio.current_time() == 1
        assert (await client.get(URL)).status_code == 200


async def test_body_that_breaks_gives_its_place_back(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)
    transport = edge.scripted(answer(200, b"half", breaks="ReadError"))
    async with edge.client(transport, bulkhead=lambda _: bulkhead) as client:
        for _ in range(3):
            with pytest.raises(edge.library.ReadError):
                await client.get(URL)
            assert bulkhead.statistics().inside == 0


async def test_place_is_given_back_even_if_closing_fails_or_is_cancelled(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)
    transport = edge.scripted(answer(200, b"x", close_takes=100))
    async with edge.client(transport, bulkhead=lambda _: bulkhead) as client:
        response = await client.send(client.build_request("GET", URL), stream=True)
        with trio.move_on_after(0.5):
            await response.aclose()
        assert bulkhead.statistics().inside == 0

    class Unclosable(type(edge.scripted())):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)

            async def fail() -> None:
                raise edge.error("CloseError")

            response.stream.aclose = fail
            return response

    async with edge.client(Unclosable(answer(200, b"x")), bulkhead=lambda _: bulkhead) as client:
        with pytest.raises(edge.library.CloseError):
            await client.get(URL)
    assert bulkhead.statistics().inside == 0


async def test_body_closed_twice_gives_one_place_back(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(2)
    transport = edge.scripted(answer(200, b"x"))
    resilient = edge.resilient(transport, bulkhead=lambda _: bulkhead)
    one = await resilient.handle_async_request(edge.request())
    two = await resilient.handle_async_request(edge.request())
    assert bulkhead.statistics().inside == 2
    await one.stream.aclose()
    await one.stream.aclose()
    assert bulkhead.statistics().inside == 1
    await two.stream.aclose()
    assert bulkhead.statistics().inside == 0


async def test_body_may_be_closed_by_another_task(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)
    async with edge.client(edge.scripted(answer(200, b"x")), bulkhead=lambda _: bulkhead) as client:
        response = await client.send(client.build_request("GET", URL), stream=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(response.aclose)
        assert bulkhead.statistics().inside == 0


@pytest.mark.parametrize(
    "step", [fails("ReadError"), fails("ConnectError"), fails(ValueError("x")), hangs()], ids=["r", "c", "v", "h"]
)
async def test_failed_attempt_gives_its_place_back(autojump_clock: MockClock, edge: Edge, step: Any) -> None:
    bulkhead = trioresil.Bulkhead(1)
    async with edge.client(edge.scripted(step), bulkhead=lambda _: bulkhead, attempt_timeout=2) as client:
        for _ in range(3):
            with pytest.raises((edge.library.TransportError, ValueError)):
                await client.get(URL)
            assert bulkhead.statistics().inside == 0


async def test_wait_between_attempts_takes_no_place(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)
    transport = edge.scripted(answer(503, b"x"), answer(200, b"other"), answer(200, b"mine"))
    seen: list[bytes] = []

    async def other(client: Any) -> None:
        await trio.sleep(0.5)
        assert bulkhead.statistics().inside == 0
        seen.append((await client.get(URL)).content)

    async with edge.client(transport, bulkhead=lambda _: bulkhead, retry=edge.retry()) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other, client)
            seen.append((await client.get(URL)).content)
    assert seen == [b"other", b"mine"]
    assert transport.sent_at == [0, 0.5, 1]


async def test_bulkhead_admits_no_more_than_its_limit_in_the_order_of_arrival(
    autojump_clock: MockClock, edge: Edge
) -> None:
    bulkhead = trioresil.Bulkhead(3)
    transport = edge.scripted(answer(200, b"x", takes=1))
    async with edge.client(transport, bulkhead=lambda _: bulkhead) as client:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(client.get, f"{URL}/{number}")
                await trio.testing.wait_all_tasks_blocked()
    assert transport.most_in_flight == 3
    assert sorted((each.at, each.url.rpartition("/")[2]) for each in transport.sent) == [
        (number // 3, str(number)) for number in range(10)
    ]


async def test_response_never_closed_gives_its_place_back_when_it_is_forgotten(
    autojump_clock: MockClock, edge: Edge
) -> None:
    """httpx's clients forget a response in many ways; a place that is lost for good would be the end of the origin."""
    bulkhead = trioresil.Bulkhead(2)
    async with edge.client(edge.scripted(answer(200, b"x")), bulkhead=lambda _: bulkhead) as client:
        for _ in range(5):
            response = await client.send(client.build_request("GET", URL), stream=True)
            with pytest.warns(ResourceWarning):  # noqa: PT031 - both lines are the forgetting
                del response
                gc.collect()
            await trio.testing.wait_all_tasks_blocked()  # it is given back in a step of its own
        assert bulkhead.statistics().inside == 0


# -- the bucket ---------------------------------------------------------------------------------------------------------------


async def test_bucket_paces_what_is_sent(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=2, capacity=2)
    transport = edge.scripted()
    async with edge.client(transport, bucket=lambda _: bucket) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client.get, URL)
    assert transport.sent_at == [0, 0, 0.5, 1, 1.5, 2]


async def test_every_attempt_takes_tokens(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=0.25, capacity=1)
    transport = edge.scripted(fails("ConnectError"), answer(503), answer())
    async with edge.client(transport, bucket=lambda _: bucket, retry=edge.retry()) as client:
        await client.get(URL)
    assert transport.sent_at == [0, 4, 8]
    assert bucket.statistics().granted == 3


async def test_request_may_cost_more_tokens_or_none(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=1, capacity=10)
    transport = edge.scripted()
    async with edge.client(transport, bucket=lambda _: bucket) as client:
        await client.get(URL, extensions=options(tokens=8))
        await client.get(URL, extensions=options(tokens=4))
        await client.get(URL, extensions=options(tokens=0))
        await client.get(URL, extensions=options(tokens=0.5))
    assert transport.sent_at == [0, 2, 2, 2.5]


async def test_impossible_number_of_tokens_is_refused_and_nothing_sent(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=1, capacity=10)
    transport = edge.scripted()
    async with edge.client(transport, bucket=lambda _: bucket, retry=edge.retry(on=Exception)) as client:
        with pytest.raises(ValueError, match="capacity"):
            await client.get(URL, extensions=options(tokens=11))
    assert transport.sent == []
    assert trio.current_time() == 0
    assert bucket.statistics().tokens == 10


async def test_tokens_are_waited_for_with_a_place_in_the_bulkhead(autojump_clock: MockClock, edge: Edge) -> None:
    """Bulkhead first, then the bucket: who waits for tokens is one of those inside."""
    bulkhead, bucket = trioresil.Bulkhead(1), trioresil.TokenBucket(rate=1)
    bucket.acquire_nowait()
    async with edge.client(edge.scripted(), bulkhead=lambda _: bulkhead, bucket=lambda _: bucket) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            await trio.testing.wait_all_tasks_blocked()
            assert bulkhead.statistics().inside == 1
            assert bucket.statistics().waiting == 1


async def test_breaker_is_asked_before_anything_is_queued_for(autojump_clock: MockClock, edge: Edge) -> None:
    breaker, bulkhead = trioresil.CircuitBreaker(), trioresil.Bulkhead(1)
    breaker.open(5)
    async with edge.client(edge.scripted(), breaker=lambda _: breaker, bulkhead=lambda _: bulkhead) as client, bulkhead:
        with pytest.raises(edge.face.CircuitOpenError):
            await client.get(URL)
    assert trio.current_time() == 0


@pytest.mark.parametrize("kind", ["bulkhead", "bucket", "breaker"])
async def test_each_origin_has_its_own_limits(autojump_clock: MockClock, edge: Edge, kind: str) -> None:
    made: list[str] = []

    def factory(origin: str) -> Any:
        made.append(origin)
        if kind == "bulkhead":
            return trioresil.Bulkhead(1, name=origin)
        return (
            trioresil.TokenBucket(rate=0.5, name=origin) if kind == "bucket" else trioresil.CircuitBreaker(name=origin)
        )

    transport = edge.scripted(answer(200, takes=1))
    async with edge.client(transport, **{kind: factory}) as client:
        async with trio.open_nursery() as nursery:
            for host in "abc":
                nursery.start_soon(client.get, f"https://{host}.example")
    assert sorted(made) == ["https://a.example", "https://b.example", "https://c.example"]
    assert transport.sent_at == [0, 0, 0]


@pytest.mark.parametrize("kind", ["bulkhead", "bucket", "breaker"])
def test_one_object_for_all_origins_is_refused(edge: Edge, kind: str) -> None:
    one = {
        "bulkhead": trioresil.Bulkhead(1), "bucket": trioresil.TokenBucket(rate=1), "breaker": trioresil.CircuitBreaker(),
    }[kind]  # fmt: skip
    with pytest.raises(TypeError, match=kind):
        edge.resilient(edge.scripted(), **{kind: one})


@pytest.mark.parametrize("kind", ["bulkhead", "bucket", "breaker"])
async def test_factory_that_makes_something_else_is_a_mistake_that_names_it(
    autojump_clock: MockClock, edge: Edge, kind: str
) -> None:
    transport = edge.scripted()
    for wrong in (5, object(), trioresil.Timeout(1)):
        async with edge.client(
            transport, retry=edge.retry(on=Exception), **{kind: lambda _, wrong=wrong: wrong}
        ) as client:
            with pytest.raises(TypeError):
                await client.get(URL)
    assert transport.sent == []


# -- 429 with a bucket ----------------------------------------------------------------------------------------------------------


async def start_all(client: Any, tasks: int, outcomes: list[tuple[float, int]], **request: Any) -> None:
    async def one() -> None:
        response = await client.request("POST", URL, **request)
        outcomes.append((trio.current_time(), response.status_code))

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(one)


def limited_until(instant: float, retry_after: object = 5) -> Any:
    """A server that is well again at an instant, and says so."""

    def script(request: Any, number: int) -> Any:
        if trio.current_time() < instant:
            return answer(429, b"slow down", retry_after=retry_after)
        return answer(200)

    return script


@pytest.mark.parametrize("rate", [8, 64])
async def test_fifty_tasks_told_429_all_succeed_at_the_buckets_rate(
    autojump_clock: MockClock, edge: Edge, rate: int
) -> None:
    bucket = trioresil.TokenBucket(rate=rate, capacity=50)
    transport = edge.scripted(limited_until(5))
    outcomes: list[tuple[float, int]] = []
    async with edge.client(
        transport, bucket=lambda _: bucket, retry=edge.retry(backoff=trioresil.exponential())
    ) as client:
        await start_all(client, 50, outcomes)
    assert transport.sent_at == [0] * 50 + [5 + (number + 1) / rate for number in range(50)]
    assert outcomes == [(5 + (number + 1) / rate, 200) for number in range(50)]


@pytest.mark.parametrize("jittered", [True, False])
async def test_fifty_tasks_told_429_all_succeed_spread_by_the_hints_jitter(
    autojump_clock: MockClock, edge: Edge, jittered: bool
) -> None:
    backoff = trioresil.exponential(jitter="full" if jittered else "none")
    transport = edge.scripted(limited_until(5))
    outcomes: list[tuple[float, int]] = []
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(1))
    retry = edge.retry(backoff=backoff, rng=random.Random(1))
    async with edge.client(transport, retry=retry, breaker=lambda _: breaker) as client:
        await start_all(client, 50, outcomes)
    again = transport.sent_at[50:]
    assert transport.sent_at[:50] == [0] * 50
    assert len(again) == 50
    assert [status for _, status in outcomes] == [200] * 50
    assert min(again) >= 5
    if jittered:
        rng = random.Random(1)
        draws = [rng.random() for _ in range(400)]
        assert max(again) <= 7.5 + NEAR
        assert len({round(each, 4) for each in again}) >= 49
        assert any(sorted(5 * (1 + each / 2) for each in picked) == pytest.approx(again, abs=NEAR)
                   for picked in (draws[:50], draws[:100:2], draws[1:100:2]))  # fmt: skip
    else:
        assert max(again) <= 5 + NEAR


async def test_paused_origin_lets_newcomers_wait_in_order_at_its_gate(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(limited_until(5))
    async with edge.client(transport) as client:
        assert (await client.get(URL)).status_code == 429
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(client.get, f"{URL}/{number}")
                await trio.sleep(1)
    assert len(transport.sent) == 6
    assert [each.url.rpartition("/")[2] for each in transport.sent[1:]] == list("01234")
    assert all(5 <= each <= 5 + NEAR for each in transport.sent_at[1:])


async def test_gate_is_the_origins_own(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(429, retry_after=5), answer())
    async with edge.client(transport) as client:
        await client.get(URL)
        await client.get("https://other.example")
        assert trio.current_time() == 0
        await client.get(URL)
    assert transport.sent_at[:2] == [0, 0]
    assert 5 <= transport.sent_at[2] <= 5 + NEAR


async def test_gate_is_no_rejection_however_many_wait(autojump_clock: MockClock, edge: Edge) -> None:
    recorder = Recorder()
    transport = edge.scripted(limited_until(5))
    outcomes: list[tuple[float, int]] = []
    with trioresil.instrument(recorder):
        async with edge.client(transport) as client:
            await client.get(URL)
            await start_all(client, 300, outcomes)
    assert [status for _, status in outcomes] == [200] * 300
    assert not recorder.of(trioresil.CallRejected)
    assert min(transport.sent_at[1:]) >= 5
    assert max(transport.sent_at) <= 5 + NEAR


async def test_no_gate_before_the_first_429(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(200, takes=1))
    outcomes: list[tuple[float, int]] = []
    async with edge.client(transport) as client:
        await start_all(client, 100, outcomes)
    assert transport.sent_at == [0] * 100


async def test_bucket_with_a_max_wait_rejects_for_the_pause(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=1, capacity=2, max_wait=3)
    transport = edge.scripted(answer(429, retry_after=5))
    async with edge.client(transport, bucket=lambda _: bucket) as client:
        assert (await client.get(URL)).status_code == 429
        with pytest.raises(edge.face.RateLimitedError) as caught:
            await client.get(URL)
    assert caught.value.retry_after == 6
    assert trio.current_time() == 0


@pytest.mark.parametrize("with_bucket", [True, False])
@pytest.mark.parametrize("with_retry", [True, False])
async def test_pause_is_no_longer_than_max_hint_and_the_call_gives_up(
    autojump_clock: MockClock, edge: Edge, with_bucket: bool, with_retry: bool
) -> None:
    bucket = trioresil.TokenBucket(rate=1024, capacity=1)
    transport = edge.scripted(answer(429, b"later", retry_after=5000), answer())
    retry = edge.retry(max_hint=10) if with_retry else None
    async with edge.client(transport, bucket=(lambda _: bucket) if with_bucket else None, retry=retry) as client:
        response = await client.get(URL)
        assert (response.status_code, response.content) == (429, b"later")
        assert trio.current_time() == 0
        await client.get(URL)
    opens = 10 if with_retry else 60
    assert opens <= trio.current_time() <= opens + NEAR
    assert len(transport.sent) == 2


@pytest.mark.parametrize("with_bucket", [True, False])
async def test_hint_beyond_the_deadline_ends_the_call_at_once(
    autojump_clock: MockClock, edge: Edge, with_bucket: bool
) -> None:
    bucket = trioresil.TokenBucket(rate=1024, capacity=1)
    transport = edge.scripted(answer(429, b"later", retry_after=5), answer())
    limits: dict[str, Any] = {"bucket": lambda _: bucket} if with_bucket else {}
    async with edge.client(transport, retry=edge.retry(), total_timeout=4, **limits) as client:
        response = await client.get(URL)
        assert (response.status_code, response.content) == (429, b"later")
        assert trio.current_time() == 0
    assert len(transport.sent) == 1


@pytest.mark.parametrize("with_bucket", [True, False])
@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"])
async def test_429_with_nothing_or_nonsense_pauses_nothing(
    autojump_clock: MockClock, edge: Edge, with_bucket: bool, text: str
) -> None:
    bucket = trioresil.TokenBucket(rate=1, capacity=9)
    transport = edge.scripted(answer(429, retry_after=text), answer())
    limits: dict[str, Any] = {"bucket": lambda _: bucket} if with_bucket else {}
    async with edge.client(transport, **limits) as client:
        await client.get(URL)
        assert bucket.statistics().paused_for == 0
        await client.get(URL)
    assert transport.sent_at == [0, 0]


@pytest.mark.parametrize("status", [503, 502, 200, 301, 413])
async def test_retry_after_of_another_status_pauses_nothing(autojump_clock: MockClock, edge: Edge, status: int) -> None:
    transport = edge.scripted(answer(status, retry_after=5), answer())
    async with edge.client(transport) as client:
        await client.get(URL)
        await client.get(URL)
    assert transport.sent_at == [0, 0]


async def test_429_without_a_hint_is_retried_after_the_backoff(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=1, capacity=9)
    for limits in ({}, {"bucket": lambda _: bucket}):
        transport = edge.scripted(answer(429), answer())
        began = trio.current_time()
        async with edge.client(transport, retry=edge.retry(backoff=[3.0]), **limits) as client:
            assert (await client.post(URL)).status_code == 200
        assert transport.sent_at == [began, began + 3]


async def test_later_and_shorter_pause_does_not_open_the_gate_early(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(429, retry_after=9, takes=1), answer(429, retry_after=2, takes=2), answer())
    async with edge.client(transport) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(client.get, URL)
        assert trio.current_time() == 2
        await client.get(URL)
    assert 10 <= transport.sent_at[2] <= 10 + NEAR


async def test_later_and_longer_pause_keeps_those_at_the_gate_waiting(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(429, retry_after=2, takes=1), answer(429, retry_after=9, takes=2), answer())
    async with edge.client(transport) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(client.get, URL)
            await trio.sleep(1.5)
            nursery.start_soon(client.get, URL)
    assert 11 <= transport.sent_at[2] <= 11 + NEAR


async def test_cancelled_waiter_at_the_gate_holds_nobody_up(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(limited_until(5))
    async with edge.client(transport) as client:
        await client.get(URL)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1) as scope:
                await client.get(f"{URL}/gone")
            nursery.start_soon(client.get, f"{URL}/here")
        assert scope.cancelled_caught
    assert [each.url for each in transport.sent] == [URL, f"{URL}/here"]
    assert transport.sent_at[1] <= 5 + NEAR


async def test_pause_by_429_needs_no_retry_and_no_breaker(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(1), on_result=edge.face.failed)
    transport = edge.scripted(limited_until(5))
    async with edge.client(transport, breaker=lambda _: breaker) as client:
        await client.get(URL)
        await client.get(URL)
    assert breaker.state is trioresil.CircuitState.CLOSED


async def test_retry_of_429_with_a_bucket_pays_from_the_budget(autojump_clock: MockClock, edge: Edge) -> None:
    budget = trioresil.RetryBudget(ratio=1, min_per_second=0, window=1000)
    bucket = trioresil.TokenBucket(rate=8, capacity=50)
    transport = edge.scripted(answer(429, retry_after=1))
    async with edge.client(transport, bucket=lambda _: bucket, retry=edge.retry(budget=budget)) as client:
        assert (await client.get(URL)).status_code == 429
    assert len(transport.sent) == 2
    assert budget.statistics().withdrawn == 1


@pytest.mark.parametrize("how", ["option", "cost"])
async def test_request_that_costs_no_tokens_still_waits_for_the_hint(
    autojump_clock: MockClock, edge: Edge, how: str
) -> None:
    """It never stands in the bucket's queue, so it sleeps, as if there were none."""
    bucket = trioresil.TokenBucket(rate=8, capacity=50, cost=(lambda request: 0) if how == "cost" else None)
    transport = edge.scripted(answer(429, retry_after=5), answer())
    async with edge.client(transport, bucket=lambda _: bucket, retry=edge.retry()) as client:
        extensions = options(tokens=0) if how == "option" else {}
        assert (await client.get(URL, extensions=extensions)).status_code == 200
    assert transport.sent_at == [0, 5]


async def test_bucket_may_reckon_the_cost_from_the_request(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=1, capacity=10, cost=lambda request: len(request.content))
    transport = edge.scripted()
    async with edge.client(transport, bucket=lambda _: bucket) as client:
        await client.post(URL, content=b"12345678")
        await client.post(URL, content=b"1234")
        await client.post(URL)
        await client.post(URL, content=b"12345678", extensions=options(tokens=1))
    assert transport.sent_at == [0, 2, 2, 3]


async def test_gate_is_inside_the_bulkhead_and_inside_the_total(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(5)
    transport = edge.scripted(limited_until(5))
    async with edge.client(transport, bulkhead=lambda _: bulkhead, total_timeout=30) as client:
        await client.get(URL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            await trio.testing.wait_all_tasks_blocked()
            assert bulkhead.statistics().inside == 1
    assert bulkhead.statistics().inside == 0


async def test_streaming_request_body_waits_with_its_request(autojump_clock: MockClock, edge: Edge) -> None:
    """The body isn't touched before the gate opens."""
    touched: list[float] = []

    async def body() -> AsyncIterator[bytes]:
        touched.append(trio.current_time())
        yield b"x"

    transport = edge.scripted(limited_until(5))
    async with edge.client(transport) as client:
        await client.get(URL)
        await client.post(URL, content=body())
    assert len(touched) == 1
    assert 5 <= touched[0] <= 5 + NEAR
    assert transport.sent[1].body == b"x"
    assert math.isfinite(touched[0])
