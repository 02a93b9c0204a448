"""Total and attempt time-outs: which fires, what it covers, and what it never touches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, URL, Edge, Queue, answer, fails, hangs, options
from trioresil._links import passage
from trioresil.testing import Recorder

pytestmark = BOTH


async def timed_out(edge: Edge, client: Any, method: str = "GET", **request: Any) -> Any:
    """Return the TimedOutError of a call."""
    with pytest.raises(edge.face.TimedOutError) as caught:
        await client.request(method, URL, **request)
    return caught.value


@pytest.mark.parametrize(("total", "attempt", "fires"), [(3, 5, 3), (5, 3, 3), (math.inf, 3, 3), (3, math.inf, 3)])
async def test_the_shorter_fires_at_its_instant(
    autojump_clock: MockClock, edge: Edge, total: float, attempt: float, fires: float
) -> None:
    transport = edge.scripted(hangs())
    async with edge.client(transport, total_timeout=total, attempt_timeout=attempt) as client:
        error = await timed_out(edge, client)
    assert trio.current_time() == fires
    assert error.seconds == fires
    assert error.started is not False
    assert transport.sent[0].outcome == "cancelled"
    assert transport.in_flight == 0


async def test_both_due_together_the_total_is_named(autojump_clock: MockClock, edge: Edge) -> None:
    """As everywhere, the outer of two: it is the one that no retry could outlast."""
    recorder = Recorder()
    transport = edge.scripted(hangs())
    with trioresil.instrument(recorder):
        async with edge.client(transport, total_timeout=3, attempt_timeout=3, retry=edge.retry()) as client:
            error = await timed_out(edge, client)
    (event,) = recorder.of(trioresil.TimedOut)
    assert event.name == error.policy
    names = {event.name}
    recorder.clear()
    with trioresil.instrument(recorder):
        async with edge.client(edge.scripted(hangs()), total_timeout=3) as client:
            await timed_out(edge, client)
        async with edge.client(edge.scripted(hangs()), attempt_timeout=3) as client:
            await timed_out(edge, client)
    total, attempt = recorder.of(trioresil.TimedOut)
    assert total.name in names
    assert attempt.name not in names
    assert len(transport.sent) == 1


async def test_total_in_a_later_attempt_is_the_totals(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503), hangs())
    async with edge.client(transport, total_timeout=3, attempt_timeout=2.5, retry=edge.retry()) as client:
        error = await timed_out(edge, client)
    assert trio.current_time() == 3
    assert error.seconds == 3
    assert error.started is True
    assert transport.sent_at == [0, 1]


async def test_attempt_timeout_starts_anew_with_each_attempt(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(hangs())
    async with edge.client(transport, total_timeout=30, attempt_timeout=2, retry=edge.retry(max_attempts=3)) as client:
        error = await timed_out(edge, client)
    assert transport.sent_at == [0, 3, 6]
    assert trio.current_time() == 8
    assert error.seconds == 2


async def test_total_covers_attempts_and_waits(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, takes=1))
    async with edge.client(transport, total_timeout=4.5, retry=edge.retry(max_attempts=9)) as client:
        error = await timed_out(edge, client)
    assert transport.sent_at == [0, 2, 4]
    assert trio.current_time() == 4.5
    assert error.started is True


@pytest.mark.parametrize("kind", ["bulkhead", "bucket", "gate"])
async def test_queues_stand_outside_the_attempt_timeout_and_inside_the_total(
    autojump_clock: MockClock, edge: Edge, kind: str
) -> None:
    bulkhead = trioresil.Bulkhead(1)
    bucket = trioresil.TokenBucket(rate=0.2)
    transport = edge.scripted(answer(200, takes=1))
    limits: dict[str, Any] = {}
    if kind == "bulkhead":
        limits = {"bulkhead": lambda _: bulkhead}
    elif kind == "bucket":
        limits = {"bucket": lambda _: bucket}
        bucket.acquire_nowait()
    else:
        transport = edge.scripted(answer(429, retry_after=5), answer(200, takes=1))

    async with edge.client(transport, attempt_timeout=2, **limits) as client:
        if kind == "gate":
            assert (await client.get(URL)).status_code == 429
        async with trio.open_nursery() as nursery:
            if kind == "bulkhead":
                nursery.start_soon(_hold, bulkhead, 5)
                await trio.testing.wait_all_tasks_blocked()
            assert (await client.get(URL)).status_code == 200
        assert trio.current_time() == pytest.approx(6, abs=1e-4)

    async with edge.client(transport, total_timeout=2, **limits) as client:
        began = trio.current_time()
        if kind == "gate":
            transport._steps[:] = [answer(429, retry_after=5), answer(200)]
            assert (await client.get(URL)).status_code == 429
        sent = len(transport.sent)
        async with trio.open_nursery() as nursery:
            if kind == "bulkhead":
                nursery.start_soon(_hold, bulkhead, 5)
                await trio.testing.wait_all_tasks_blocked()
            if kind == "bucket":
                await bucket.acquire()
                began = trio.current_time()
            error = await timed_out(edge, client, "POST")
            assert trio.current_time() == began + 2
            nursery.cancel_scope.cancel()
    assert error.started is False
    assert len(transport.sent) == sent


async def _hold(bulkhead: trioresil.Bulkhead, seconds: float) -> None:
    async with bulkhead:
        await trio.sleep(seconds)


async def test_time_out_in_a_queue_after_an_attempt_has_started(autojump_clock: MockClock, edge: Edge) -> None:
    """The first attempt was sent, so the call has started, wherever the time runs out."""
    bulkhead = trioresil.Bulkhead(1)
    transport = edge.scripted(answer(503))
    async with edge.client(transport, total_timeout=4, retry=edge.retry(), bulkhead=lambda _: bulkhead) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hold_at, bulkhead, 0.5, 100)
            error = await timed_out(edge, client)
            nursery.cancel_scope.cancel()
    assert trio.current_time() == 4
    assert error.started is True


async def _hold_at(bulkhead: trioresil.Bulkhead, instant: float, seconds: float) -> None:
    await trio.sleep_until(instant)
    await _hold(bulkhead, seconds)


async def test_time_out_in_the_transports_own_queue_is_unstarted_if_that_says_so(
    autojump_clock: MockClock, edge: Edge
) -> None:
    for tells, started in ((True, False), (False, None)):
        for limit in ("total_timeout", "attempt_timeout"):
            transport = edge.scripted(Queue(seconds=100, then=answer(), tells=tells))
            async with edge.client(transport, **{limit: 2.0}) as client:
                error = await timed_out(edge, client)
            assert (error.started is False) is (started is False), limit
            assert transport.sent == []


@pytest.mark.parametrize(
    "limits", [{"attempt_timeout": 2.0}, {"total_timeout": 2.0}, {"attempt_timeout": 2.0, "total_timeout": 3.0}]
)
async def test_streamed_body_outlives_both_time_outs(
    autojump_clock: MockClock, edge: Edge, limits: dict[str, float]
) -> None:
    transport = edge.scripted(answer(200, (b"x",) * 20, takes=1, chunk_takes=1))
    async with edge.client(transport, retry=edge.retry(), **limits) as client:
        async with client.stream("GET", URL) as response:
            assert trio.current_time() == 1
            assert b"".join([part async for part in response.aiter_bytes()]) == b"x" * 20
    assert trio.current_time() == 21


async def test_body_of_get_is_read_by_the_client_after_the_time_outs(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(200, (b"x",) * 20, chunk_takes=1))
    async with edge.client(transport, retry=edge.retry(), attempt_timeout=2, total_timeout=3) as client:
        assert (await client.get(URL)).content == b"x" * 20
    assert trio.current_time() == 20


async def test_body_of_a_retried_attempt_outlives_them_too(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503), answer(200, (b"x",) * 20, chunk_takes=1))
    async with edge.client(transport, retry=edge.retry(), attempt_timeout=2, total_timeout=3) as client:
        assert (await client.get(URL)).content == b"x" * 20
    assert trio.current_time() == 21


async def test_late_answer_is_still_an_answer(autojump_clock: MockClock, edge: Edge) -> None:
    """The transport doesn't notice that the time is up: its work is done, so it is returned."""

    class Deaf(type(edge.scripted())):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            with trio.CancelScope(shield=True):
                return await super().handle_async_request(request)

    for limit in ("attempt_timeout", "total_timeout"):
        transport = Deaf(answer(200, b"late", takes=5))
        async with edge.client(transport, **{limit: 2.0}) as client:
            response = await client.get(URL)
        assert response.content == b"late"
        assert transport.open == []


async def test_error_that_comes_late_is_the_real_error(autojump_clock: MockClock, edge: Edge) -> None:
    class Deaf(type(edge.scripted())):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            with trio.CancelScope(shield=True):
                return await super().handle_async_request(request)

    error = edge.error("ReadError")
    async with edge.client(Deaf(fails(error, takes=5)), total_timeout=2) as client:
        with pytest.raises(edge.library.ReadError) as caught:
            await client.get(URL)
    assert caught.value is error


async def test_deadline_of_the_users_own_is_not_claimed(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(hangs())
    async with edge.client(transport, total_timeout=5, attempt_timeout=4, retry=edge.retry()) as client:
        with trio.move_on_after(3) as scope:
            await client.get(URL)
        assert scope.cancelled_caught
        with pytest.raises(trio.TooSlowError) as caught, trio.fail_after(3):
            await client.get(URL)
    assert not isinstance(caught.value, trioresil.TimedOutError)
    assert trio.current_time() == 6


@pytest.mark.parametrize("limit", ["total_timeout", "attempt_timeout"])
async def test_client_librarys_own_time_outs_pass_as_they_are(
    autojump_clock: MockClock, edge: Edge, limit: str
) -> None:
    error = edge.error("ReadTimeout")
    async with edge.client(edge.scripted(fails(error)), **{limit: 5.0}) as client:
        with pytest.raises(edge.library.ReadTimeout) as caught:
            await client.get(URL)
    assert caught.value is error


async def test_time_out_during_the_drain_is_the_totals(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, (b"x",) * 9, chunk_takes=0.25), answer())
    retry = edge.retry(backoff=[0.1])
    async with edge.client(transport, retry=retry, total_timeout=0.5) as client:
        error = await timed_out(edge, client)
    assert trio.current_time() == 0.5
    assert error.seconds == 0.5
    assert error.started is True
    assert transport.open == []
    assert len(transport.sent) == 1


async def test_notes_tell_which_attempt_was_in_flight(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(fails("ConnectError"), hangs())
    async with edge.client(transport, retry=edge.retry(), total_timeout=3) as client:
        error = await timed_out(edge, client)
    assert any("attempt 2" in note and "ConnectError" in note for note in error.__notes__)


@pytest.mark.parametrize(
    ("first", "started"),
    [(answer(503), True), (fails("ReadError"), True), (Queue(seconds=100, then=answer()), False)],
    ids=["answered", "failed", "queued"],
)
async def test_cancelled_wait_between_attempts_knows_whether_one_had_started(
    autojump_clock: MockClock, edge: Edge, first: Any, started: bool
) -> None:
    """What passes tells it to whatever stands around, as to a Timeout of somebody else's."""
    passed: list[BaseException] = []
    async with edge.client(
        edge.scripted(first, answer()), retry=edge.retry(backoff=[5.0]), attempt_timeout=2
    ) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_at, scope, 4)
                try:
                    await client.get(URL)
                except BaseException as exc:
                    passed.append(exc)
                    raise
    assert trio.current_time() == 4
    assert passage(passed[0]).started is started
    (note,) = passage(passed[0]).notes
    assert "attempt 2" in note
    assert "was being waited for" in note


async def test_cancelled_second_attempt_has_started_wherever_it_waits(autojump_clock: MockClock, edge: Edge) -> None:
    passed: list[BaseException] = []
    transport = edge.scripted(answer(503), Queue(seconds=100, then=answer()))
    async with edge.client(transport, retry=edge.retry()) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_at, scope, 4)
                try:
                    await client.get(URL)
                except BaseException as exc:
                    passed.append(exc)
                    raise
    assert passage(passed[0]).started is True


async def _cancel_at(scope: trio.CancelScope, instant: float) -> None:
    await trio.sleep_until(instant)
    scope.cancel()


async def test_nothing_of_the_cancellation_is_left_in_the_error(autojump_clock: MockClock, edge: Edge) -> None:
    for limit in ("total_timeout", "attempt_timeout"):
        async with edge.client(edge.scripted(hangs()), **{limit: 2.0}) as client:
            error = await timed_out(edge, client)
        assert not isinstance(error.__context__, trio.Cancelled)
        assert not isinstance(error.__cause__, trio.Cancelled)


async def test_event_tells_of_each_time_out(autojump_clock: MockClock, edge: Edge) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with edge.client(edge.scripted(hangs()), attempt_timeout=2, retry=edge.retry(max_attempts=2)) as client:
            await timed_out(edge, client)
    assert [each.seconds for each in recorder.of(trioresil.TimedOut)] == [2, 2]
    assert all(each.started is not False for each in recorder.of(trioresil.TimedOut))


# -- the body's own ------------------------------------------------------------------------------------------------------


async def test_body_timeout_bounds_the_reading_from_the_head_on(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)
    transport = edge.scripted(answer(200, (b"x",) * 20, takes=2, chunk_takes=1))
    async with edge.client(transport, body_timeout=4.5, bulkhead=lambda _: bulkhead, retry=edge.retry()) as client:
        error = await timed_out(edge, client)
    assert trio.current_time() == 6.5
    assert error.seconds == 4.5
    assert error.started is True
    assert transport.sent[0].bytes_read == 4
    assert transport.open == []
    assert bulkhead.statistics().inside == 0
    assert len(transport.sent) == 1


async def test_body_timeout_counts_the_readers_own_pauses_too(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(200, (b"x",) * 3, chunk_takes=1))
    async with edge.client(transport, body_timeout=4) as client:
        with pytest.raises(edge.face.TimedOutError):
            async with client.stream("GET", URL) as response:
                async for _ in response.aiter_bytes():
                    await trio.sleep(2.5)
    assert transport.open == []


async def test_body_in_time_is_whole(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(200, (b"x",) * 3, chunk_takes=1))
    async with edge.client(transport, body_timeout=3.5) as client:
        assert (await client.get(URL)).content == b"xxx"
        with pytest.raises(edge.face.TimedOutError):
            await client.get(URL, extensions=options(body_timeout=2.5))


# -- per request -----------------------------------------------------------------------------------------------------------


async def test_request_may_say_its_own(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(hangs())
    async with edge.client(transport, total_timeout=9, attempt_timeout=8) as client:
        error = await timed_out(edge, client, extensions=options(attempt_timeout=2))
        assert (trio.current_time(), error.seconds) == (2, 2)
        error = await timed_out(edge, client, extensions=options(total_timeout=3))
        assert (trio.current_time(), error.seconds) == (5, 3)
        error = await timed_out(edge, client, extensions=options(total_timeout=20, attempt_timeout=math.inf))
        assert (trio.current_time(), error.seconds) == (25, 20)
        error = await timed_out(edge, client, extensions=options(total_timeout=math.inf))
        assert (trio.current_time(), error.seconds) == (33, 8)


# -- headers ---------------------------------------------------------------------------------------------------------------


async def test_deadline_left_and_number_of_the_attempt_can_be_sent(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, takes=0.5), answer(503, takes=0.5), answer())
    async with edge.client(
        transport, retry=edge.retry(), total_timeout=8, deadline_header="X-Deadline", attempt_header="X-Attempt"
    ) as client:
        await client.get(URL)
    assert [each.headers["x-attempt"] for each in transport.sent] == ["1", "2", "3"]
    assert [float(each.headers["x-deadline"]) for each in transport.sent] == [8, 6.5, 5]


async def test_deadline_sent_is_the_nearest_one(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted()
    async with edge.client(transport, total_timeout=8, attempt_timeout=3, deadline_header="X-Deadline") as client:
        await client.get(URL)
        with trio.fail_after(2):
            await client.get(URL)
    assert [float(each.headers["x-deadline"]) for each in transport.sent] == [3, 2]


async def test_no_deadline_is_not_sent(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted()
    async with edge.client(transport, deadline_header="X-Deadline") as client:
        await client.get(URL)
    assert "x-deadline" not in transport.sent[0].headers


async def test_nothing_is_sent_unasked(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted()
    async with edge.client(transport, retry=edge.retry(), total_timeout=8) as client:
        response = await client.get(URL)
    plain = edge.scripted()
    async with edge.library.AsyncClient(transport=plain) as client:
        await client.get(URL)
    assert transport.sent[0].headers == plain.sent[0].headers
    assert response.request.headers == transport.sent[0].headers


async def test_users_request_object_keeps_its_headers(autojump_clock: MockClock, edge: Edge) -> None:
    """It may be sent again, or be shown in a log: what was sent in one attempt must not stick to it twice."""
    transport = edge.scripted(answer(503), answer())
    async with edge.client(
        transport, retry=edge.retry(), total_timeout=8, deadline_header="X-Deadline", attempt_header="X-Attempt"
    ) as client:
        request = client.build_request("GET", URL)
        await client.send(request)
        await client.send(request)
    for sent in transport.sent:
        assert len(sent.request.headers.get_list("X-Attempt")) == 1
    assert [each.headers["x-attempt"] for each in transport.sent] == ["1", "2", "1"]
