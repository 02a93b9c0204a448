"""What ResilientTransport sends again, when, and what comes out in the end."""

from __future__ import annotations

import contextlib
import gzip
import math
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, URL, Answer, Edge, Failing, Queue, answer, fails, hangs, options
from trioresil.testing import Recorder, quick

pytestmark = BOTH

KIB = 1024
KEY = {"Idempotency-Key": "k-1"}
ANY_METHOD = [*map(fails, ["ConnectError", "ConnectTimeout", "ProxyError"]), answer(429), answer(429, retry_after=1)]
IDEMPOTENT_ONLY = [
    *map(fails, ["ReadError", "ReadTimeout", "WriteError", "WriteTimeout", "CloseError", "RemoteProtocolError"]),
    *map(answer, [408, 502, 503, 504]),
]
NEVER = [
    *map(fails, ["LocalProtocolError", "UnsupportedProtocol", "DecodingError", "TooManyRedirects"]),
    *map(answer, [200, 204, 301, 304, 400, 401, 403, 404, 409, 410, 413, 418, 422, 423, 425, 500, 501, 505, 507, 511]),
]
STEP = {"ids": lambda step: str(getattr(step, "error", None) or step.status) + "!" * bool(getattr(step, "headers", 0))}


async def attempts_of(edge: Edge, step: Any, method: str, **request: Any) -> int:
    """Return how often a request is sent if everything is answered so."""
    transport = edge.scripted(step)
    async with edge.client(transport, retry=edge.retry(max_attempts=3)) as client:
        with contextlib.suppress(edge.library.RequestError):
            await client.request(method, URL, **request)
    return len(transport.sent)


# -- what is sent again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ANY_METHOD, **STEP)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "PATCH", "SPAM"])
async def test_what_the_server_never_got_or_refused_is_sent_again_by_any_method(
    autojump_clock: MockClock, edge: Edge, step: Any, method: str
) -> None:
    assert await attempts_of(edge, step, method) == 3


@pytest.mark.parametrize("step", IDEMPOTENT_ONLY, **STEP)
async def test_what_the_server_may_have_done_is_sent_again_by_idempotent_methods_only(
    autojump_clock: MockClock, edge: Edge, step: Any
) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"):
        assert await attempts_of(edge, step, method) == 3, method
    for method in ("POST", "PATCH", "CONNECT", "SPAM"):
        assert await attempts_of(edge, step, method) == 1, method


@pytest.mark.parametrize("step", IDEMPOTENT_ONLY, **STEP)
async def test_idempotency_key_makes_a_post_worth_repeating(autojump_clock: MockClock, edge: Edge, step: Any) -> None:
    assert await attempts_of(edge, step, "POST", headers=KEY, content=b"order") == 3


@pytest.mark.parametrize("step", IDEMPOTENT_ONLY, **STEP)
async def test_users_word_makes_a_post_worth_repeating_and_a_get_not(
    autojump_clock: MockClock, edge: Edge, step: Any
) -> None:
    assert await attempts_of(edge, step, "POST", extensions=options(idempotent=True), content=b"order") == 3
    assert await attempts_of(edge, step, "GET", extensions=options(idempotent=False)) == 1


@pytest.mark.parametrize("step", NEVER, **STEP)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_final_answers_and_hopeless_errors_are_not_sent_again(
    autojump_clock: MockClock, edge: Edge, step: Any, method: str
) -> None:
    assert await attempts_of(edge, step, method, headers=KEY) == 1


async def test_attempt_that_timed_out_in_flight_is_sent_again_only_if_idempotent(
    autojump_clock: MockClock, edge: Edge
) -> None:
    for method, sent in (("GET", 2), ("POST", 1)):
        transport = edge.scripted(hangs(), answer())
        async with edge.client(transport, retry=edge.retry(), attempt_timeout=2) as client:
            try:
                assert (await client.request(method, URL)).status_code == 200
                assert transport.sent_at == [0, 3]
            except edge.face.TimedOutError:
                pass
        assert len(transport.sent) == sent
        await trio.sleep(-trio.current_time() % 1)
        if method == "GET":
            break
    transport = edge.scripted(hangs(), answer())
    async with edge.client(transport, retry=edge.retry(), attempt_timeout=2) as client:
        with pytest.raises(edge.face.TimedOutError):
            await client.post(URL)
    assert len(transport.sent) == 1


async def test_attempt_that_timed_out_in_the_pools_queue_is_sent_again_by_any_method(
    autojump_clock: MockClock, edge: Edge
) -> None:
    transport = edge.scripted(Queue(seconds=math.inf, then=answer()), answer(201))
    async with edge.client(transport, retry=edge.retry(), attempt_timeout=2) as client:
        assert (await client.post(URL, content=b"order")).status_code == 201
    assert transport.sent_at == [3]


async def test_attempt_that_timed_out_in_a_queue_that_says_nothing_may_have_been_sent(
    autojump_clock: MockClock, edge: Edge
) -> None:
    transport = edge.scripted(Queue(seconds=math.inf, then=answer(), tells=False), answer(201))
    async with edge.client(transport, retry=edge.retry(), attempt_timeout=2) as client:
        with pytest.raises(edge.face.TimedOutError) as caught:
            await client.post(URL, content=b"order")
    assert caught.value.started is not False
    assert transport.sent == []


@pytest.mark.parametrize("error", [ValueError("x"), Failing("x"), OSError("x"), trio.ClosedResourceError("x")])
async def test_what_is_not_the_client_librarys_error_comes_out_at_once(
    autojump_clock: MockClock, edge: Edge, error: Exception
) -> None:
    transport = edge.scripted(fails(error))
    async with edge.client(transport, retry=edge.retry()) as client:
        with pytest.raises(type(error)) as caught:
            await client.get(URL)
    assert caught.value is error
    assert len(transport.sent) == 1
    assert trio.current_time() == 0


async def test_group_is_sent_again_only_if_every_leaf_may_be(autojump_clock: MockClock, edge: Edge) -> None:
    good = ExceptionGroup("two addresses", [edge.error("ConnectError"), edge.error("ConnectTimeout")])
    transport = edge.scripted(fails(good), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.post(URL)).status_code == 200
    bad = ExceptionGroup("mixed", [edge.error("ConnectError"), edge.error("ReadError")])
    transport = edge.scripted(fails(bad), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        with pytest.raises(ExceptionGroup) as caught:
            await client.post(URL)
    assert caught.value is bad
    assert len(transport.sent) == 1
    transport = edge.scripted(fails(bad), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200


async def test_without_a_retry_everything_comes_out_at_once(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, retry_after=1))
    async with edge.client(transport) as client:
        assert (await client.get(URL)).status_code == 503
    assert transport.sent_at == [0]


# -- bodies -------------------------------------------------------------------------------------------------------------


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("step", [answer(503), answer(429), fails("ReadError"), fails("ConnectError")], **STEP)
async def test_bytes_form_and_json_are_sent_again_as_they_were(
    autojump_clock: MockClock, edge: Edge, step: Any
) -> None:
    for body in ({"content": b"order"}, {"json": {"a": 1}}, {"data": {"a": "1"}}, {"files": {"f": b"file"}}, {}):
        transport = edge.scripted(step, step, answer())
        async with edge.client(transport, retry=edge.retry()) as client:
            assert (await client.put(URL, **body)).status_code == 200
        bodies = {each.body for each in transport.sent if each.body is not None}
        assert len(bodies) == 1
        assert bool(bodies.pop()) is bool(body)


@pytest.mark.parametrize("step", [answer(503), answer(429), fails("ReadError")], **STEP)
async def test_stream_that_was_read_is_not_sent_again(autojump_clock: MockClock, edge: Edge, step: Any) -> None:
    transport = edge.scripted(step, answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        try:
            assert (await client.put(URL, content=chunks(b"a", b"b"))).status_code == step.status
        except edge.library.ReadError:
            assert step == fails("ReadError")
    assert [each.body for each in transport.sent] == [b"ab"]
    assert trio.current_time() == 0


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_stream_that_nobody_began_to_read_is_sent_again(
    autojump_clock: MockClock, edge: Edge, method: str
) -> None:
    transport = edge.scripted(fails("ConnectError"), fails("ConnectTimeout"), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.request(method, URL, content=chunks(b"a", b"b"))).status_code == 200
    assert [each.body for each in transport.sent] == [None, None, b"ab"]


async def test_users_request_keeps_its_own_stream(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.client(edge.scripted(fails("ConnectError"), answer()), retry=edge.retry()) as client:
        request = client.build_request("PUT", URL, content=chunks(b"a"))
        stream = request.stream
        await client.send(request)
        assert request.stream is stream


async def test_stream_of_which_only_nothing_was_read_counts_as_begun(autojump_clock: MockClock, edge: Edge) -> None:
    """It was asked for its first part and gave none: nobody knows whether it can be asked again."""
    transport = edge.scripted(answer(503), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.put(URL, content=chunks())).status_code == 503
    assert len(transport.sent) == 1


@pytest.mark.parametrize("after", [0, 1])
async def test_stream_that_fails_is_not_sent_again_and_its_error_comes_out(
    autojump_clock: MockClock, edge: Edge, after: int
) -> None:
    error = Failing("the file is gone")

    async def broken() -> AsyncIterator[bytes]:
        for _ in range(after):
            yield b"part"
        raise error

    transport = edge.scripted(answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        with pytest.raises(Failing) as caught:
            await client.put(URL, content=broken(), headers=KEY)
    assert caught.value is error
    assert len(transport.sent) == 1
    assert not getattr(error, "__notes__", [])


async def test_stream_that_fails_with_the_client_librarys_error_is_not_sent_again(
    autojump_clock: MockClock, edge: Edge
) -> None:
    """A body that forwards a download, say, fails with a ReadError of its own: it has been read, so that's the end."""

    async def forwarded() -> AsyncIterator[bytes]:
        yield b"part"
        raise edge.error("ReadError")

    transport = edge.scripted(answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        with pytest.raises(edge.library.ReadError):
            await client.put(URL, content=forwarded())
    assert len(transport.sent) == 1


# -- the user's own word --------------------------------------------------------------------------------------------------


async def test_users_on_and_https_law_must_agree_on_an_error(autojump_clock: MockClock, edge: Edge) -> None:
    asked: list[Exception] = []

    def never(error: Exception) -> bool:
        asked.append(error)
        return False

    transport = edge.scripted(fails("ConnectError"))
    async with edge.client(transport, retry=edge.retry(on=never)) as client:
        with pytest.raises(edge.library.ConnectError) as caught:
            await client.get(URL)
    assert len(transport.sent) == 1
    assert asked == [caught.value]
    transport = edge.scripted(fails("ReadError"))
    async with edge.client(transport, retry=edge.retry(on=Exception)) as client:
        with pytest.raises(edge.library.ReadError):
            await client.post(URL)
    assert len(transport.sent) == 1


async def test_users_on_may_be_classes(autojump_clock: MockClock, edge: Edge) -> None:
    for on, sent in ((edge.library.ConnectError, 3), (edge.library.TimeoutException, 1), (OSError, 1)):
        transport = edge.scripted(fails("ConnectError"))
        async with edge.client(transport, retry=edge.retry(on=on, max_attempts=3)) as client:
            with pytest.raises(edge.library.ConnectError):
                await client.get(URL)
        assert len(transport.sent) == sent, on


async def test_users_on_result_and_https_law_must_agree_on_an_answer(autojump_clock: MockClock, edge: Edge) -> None:
    asked: list[Any] = []

    def only_429(response: Any) -> bool:
        asked.append(response.status_code)
        return bool(response.status_code == 429)

    transport = edge.scripted(answer(429), answer(503), answer())
    async with edge.client(transport, retry=edge.retry(on_result=only_429)) as client:
        assert (await client.get(URL)).status_code == 503
    assert asked == [429, 503]
    transport = edge.scripted(answer(404), answer())
    async with edge.client(transport, retry=edge.retry(on_result=lambda response: True)) as client:
        assert (await client.get(URL)).status_code == 404
    assert len(transport.sent) == 1


async def test_user_is_asked_about_an_outcome_that_knows_its_request(autojump_clock: MockClock, edge: Edge) -> None:
    asked: list[tuple[str, str]] = []

    def note(outcome: Any) -> bool:
        asked.append((outcome.request.method, str(outcome.request.url)))
        return True

    transport = edge.scripted(answer(503), fails("ReadError"), answer(429))
    retry = edge.retry(on=note, on_result=note, max_attempts=4)
    async with edge.client(transport, retry=retry) as client:
        await client.put(URL)
    assert set(asked) == {("PUT", URL)}
    assert len(asked) >= 3


async def test_users_delay_hint_is_asked_and_obeyed(autojump_clock: MockClock, edge: Edge) -> None:
    asked: list[Any] = []

    def hint(outcome: Any) -> float | None:
        asked.append(outcome)
        return 7.0 if isinstance(outcome, Exception) else 3.0

    transport = edge.scripted(fails("ConnectError"), answer(503), answer())
    async with edge.client(transport, retry=edge.retry(delay_hint=hint)) as client:
        await client.get(URL)
    assert transport.sent_at == [0, 7, 10]
    assert isinstance(asked[0], edge.library.ConnectError)
    assert asked[1].status_code == 503


async def test_users_delay_hint_of_none_leaves_the_backoff(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(404), answer(503), answer(503), answer())
    async with edge.client(transport, retry=edge.retry(delay_hint=lambda outcome: None, backoff=[2, 4])) as client:
        await client.get(URL)
        await client.get(URL)
    assert transport.sent_at == [0, 0, 2, 6]


async def test_retry_after_counts_where_the_users_delay_hint_has_none(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, retry_after=7), answer())
    async with edge.client(transport, retry=edge.retry(delay_hint=lambda outcome: None)) as client:
        await client.get(URL)
    assert transport.sent_at == [0, 7]


# -- when -----------------------------------------------------------------------------------------------------------------


async def test_backoff_is_followed_item_by_item(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(fails("ConnectError"))
    async with edge.client(transport, retry=edge.retry(backoff=[1, 2, 4], max_attempts=6)) as client:
        with pytest.raises(edge.library.ConnectError):
            await client.get(URL)
    assert transport.sent_at == [0, 1, 3, 7, 11, 15]
    assert trio.current_time() == 15


async def test_backoffs_jitter_is_the_retrys_own_chance(autojump_clock: MockClock, edge: Edge) -> None:
    backoff = trioresil.exponential(1, max=30)
    delays = backoff.delays(random.Random(5))
    transport = edge.scripted(fails("ConnectError"))
    async with edge.client(
        transport, retry=edge.retry(backoff=backoff, max_attempts=5, rng=random.Random(5))
    ) as client:
        with pytest.raises(edge.library.ConnectError):
            await client.get(URL)
    expected = [0.0]
    for _ in range(4):
        expected.append(expected[-1] + next(delays))
    assert transport.sent_at == expected


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_waited_for_in_place_of_the_backoff(
    autojump_clock: MockClock, edge: Edge, status: int
) -> None:
    transport = edge.scripted(answer(status, retry_after=5), answer())
    async with edge.client(transport, retry=edge.retry(backoff=[100])) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent_at == [0, 5] or (status == 429 and transport.sent_at == [0, 5.000001])


async def test_retry_after_is_never_cut_short_and_spread_by_half_of_it(autojump_clock: MockClock, edge: Edge) -> None:
    rng = random.Random(9)
    transport = edge.scripted(answer(503, retry_after=8), answer())
    retry = edge.retry(backoff=trioresil.exponential(1, jitter="full"), rng=random.Random(9))
    async with edge.client(transport, retry=retry) as client:
        await client.get(URL)
    candidates = [8 * (1 + rng.random() / 2) for _ in range(2)]  # a draw of the backoff's may come first
    assert transport.sent_at[1] in candidates
    assert 8 <= transport.sent_at[1] <= 12


@pytest.mark.parametrize("status", [429, 503])
async def test_hint_beyond_max_hint_ends_the_call_at_once_with_the_answer(
    autojump_clock: MockClock, edge: Edge, status: int
) -> None:
    transport = edge.scripted(answer(status, b"later", retry_after=61), answer())
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with edge.client(transport, retry=edge.retry()) as client:
            response = await client.get(URL)
    assert (response.status_code, response.content) == (status, b"later")
    assert len(transport.sent) == 1
    assert trio.current_time() == 0
    assert [each.reason for each in recorder.of(trioresil.RetryGaveUp)] == ["hint"]


async def test_hint_of_exactly_max_hint_is_waited_for(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, retry_after=6), answer())
    async with edge.client(transport, retry=edge.retry(max_hint=6)) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent_at == [0, 6]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon", ""])
async def test_nonsense_in_retry_after_leaves_the_backoff(
    autojump_clock: MockClock, edge: Edge, status: int, text: str
) -> None:
    transport = edge.scripted(answer(status, retry_after=text), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent_at == [0, 1]


async def test_date_in_retry_after_counts_from_the_answers_date(autojump_clock: MockClock, edge: Edge) -> None:
    date, until = "Mon, 23 Nov 2026 12:00:00 GMT", "Mon, 23 Nov 2026 12:00:09 GMT"
    transport = edge.scripted(answer(503, retry_after=until, headers={"Date": date}), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        await client.get(URL)
    assert transport.sent_at == [0, 9]


@pytest.mark.parametrize("around", [0.5, 1.0])
async def test_no_backoff_beyond_the_deadline_around_the_call(
    autojump_clock: MockClock, edge: Edge, around: float
) -> None:
    """The real outcome at once, instead of a time-out later."""
    transport = edge.scripted(answer(503, b"sorry"), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        with trio.fail_after(around):
            response = await client.get(URL)
        assert (response.status_code, response.content) == (503, b"sorry")
        assert trio.current_time() == 0
        with pytest.raises(edge.library.ConnectError), trio.fail_after(around):
            transport.add(fails("ConnectError"))
            await client.get(URL)
            await client.get(URL)
    assert trio.current_time() == 0


async def test_no_backoff_beyond_the_total_timeout(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(fails("ConnectError", 1))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with edge.client(transport, retry=edge.retry(backoff=[2], max_attempts=9), total_timeout=5.5) as client:
            with pytest.raises(edge.library.ConnectError) as caught:
                await client.get(URL)
    assert transport.sent_at == [0, 3]
    assert trio.current_time() == 4
    assert [each.reason for each in recorder.of(trioresil.RetryGaveUp)] == ["deadline"]
    assert any("gave up after 2 attempts and 2 s of waiting" in note for note in caught.value.__notes__)


async def test_just_enough_time_for_another_attempt_is_used(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(fails("ConnectError"), answer())
    async with edge.client(transport, retry=edge.retry(), total_timeout=1.25) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent_at == [0, 1]


async def test_quick_waits_for_nothing(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(fails("ConnectError"), answer(503, retry_after=30), answer(503), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        with quick():
            assert (await client.get(URL)).status_code == 200
    assert transport.sent_at == [0, 0, 0, 0]


@pytest.mark.parametrize("status", [429, 503])
async def test_quick_shuts_neither_gate_nor_circuit_for_a_hint(
    autojump_clock: MockClock, edge: Edge, status: int
) -> None:
    """Else the next attempt, which is made at once, would be held up or rejected."""
    bucket = trioresil.TokenBucket(rate=1, capacity=9)
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(9))
    for limits in ({}, {"bucket": lambda _: bucket}):
        transport = edge.scripted(answer(status, retry_after=30), answer())
        async with edge.client(transport, retry=edge.retry(), breaker=lambda _: breaker, **limits) as client:
            with quick():
                assert (await client.get(URL)).status_code == 200
        assert transport.sent_at == [0, 0]


async def test_quick_bounds_the_attempts(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, b"x"))
    async with edge.client(transport, retry=edge.retry()) as client:
        with quick(max_attempts=2):
            assert (await client.get(URL)).status_code == 503
    assert transport.sent_at == [0, 0]
    assert transport.open == []


# -- closing before the wait ------------------------------------------------------------------------------------------------


def large(status: int, size: int, **rest: Any) -> Answer:
    """An answer whose body comes in parts of 1 KiB, the last one perhaps shorter."""
    parts = (b"x" * KIB,) * (size // KIB) + ((b"x" * (size % KIB),) if size % KIB else ())
    return answer(status, parts, **rest)


@pytest.mark.parametrize("size", [0, 1, 1000, 63 * KIB, 64 * KIB])
async def test_answer_is_drained_and_closed_before_the_wait(autojump_clock: MockClock, edge: Edge, size: int) -> None:
    transport = edge.scripted(large(503, size), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200
    first = transport.sent[0]
    assert first.bytes_read == size
    assert first.closed_at == 0
    assert transport.sent_at == [0, 1]
    assert transport.open == []


@pytest.mark.parametrize("size", [64 * KIB + 1, 66 * KIB, 1000 * KIB])
async def test_no_more_than_64_kib_are_drained(autojump_clock: MockClock, edge: Edge, size: int) -> None:
    transport = edge.scripted(large(503, size), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200
    assert 64 * KIB <= transport.sent[0].bytes_read <= 65 * KIB
    assert transport.sent[0].closed_at == 0
    assert transport.sent_at == [0, 1]


async def test_draining_takes_no_longer_than_a_second(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, (b"x",) * 100, chunk_takes=0.375), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent[0].bytes_read == 2
    assert transport.sent[0].closed_at == 1


async def test_closing_takes_no_longer_than_a_second(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, close_takes=1000), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent[0].closed_at == 1
    assert transport.sent_at[1] <= 2


async def test_closing_is_shielded_from_cancellation(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, close_takes=0.5), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        with trio.CancelScope() as scope:
            scope.cancel_called  # noqa: B018
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_at, scope, 0.25)
                await client.get(URL)
    assert scope.cancelled_caught
    assert transport.sent[0].closed_at == 0.5
    assert len(transport.sent) == 1


async def _cancel_at(scope: trio.CancelScope, instant: float) -> None:
    await trio.sleep_until(instant)
    scope.cancel()


async def test_body_that_breaks_while_it_is_drained_is_closed_and_no_error(
    autojump_clock: MockClock, edge: Edge
) -> None:
    transport = edge.scripted(answer(503, b"half", breaks="ReadError"), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent[0].closed_at == 0


async def test_last_answer_is_handed_over_unread(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503, b"one"), answer(503, b"two"))
    async with edge.client(transport, retry=edge.retry(max_attempts=2)) as client:
        async with client.stream("GET", URL) as response:
            assert response.status_code == 503
            assert transport.sent[1].bytes_read == 0
            assert transport.sent[1].closed_at is None
            assert await response.aread() == b"two"
    assert transport.open == []
    assert [each.stream.closings for each in transport.sent] == [1, 1]


@pytest.mark.parametrize("why", ["hint", "deadline", "budget", "method", "user"])
async def test_answer_that_ends_the_call_early_is_handed_over_unread(
    autojump_clock: MockClock, edge: Edge, why: str
) -> None:
    budget = trioresil.RetryBudget(ratio=0.001, min_per_second=0)
    hint = 100 if why == "hint" else None
    transport = edge.scripted(answer(503, b"one", retry_after=hint), answer())
    retry = edge.retry(budget=budget if why == "budget" else None, on_result=lambda _: why != "user")
    async with edge.client(transport, retry=retry, total_timeout=0.5 if why == "deadline" else math.inf) as client:
        async with client.stream("POST" if why == "method" else "GET", URL) as response:
            assert response.status_code == 503
            assert transport.sent[0].bytes_read == 0
            assert transport.sent[0].closed_at is None
            assert await response.aread() == b"one"
    assert len(transport.sent) == 1


# -- rejected after an answer -------------------------------------------------------------------------------------------------


def shut_after(answers: int) -> Any:
    """Return a bulkhead factory whose bulkhead admits nobody after so many requests."""
    bulkhead = trioresil.Bulkhead(1, name="seats")

    class Script:
        def __init__(self) -> None:
            self.bulkhead = bulkhead

        def __call__(self, request: Any, number: int) -> Any:
            if number >= answers:
                bulkhead.close_admission()
            return answer(
                503,
                gzip.compress(b"sorry %d" % number, mtime=0),
                headers={"Content-Encoding": "gzip", "X-Number": str(number)},
                extensions={"http_version": b"HTTP/1.0", "reason_phrase": b"Gone Fishing"},
            )

    return Script()


@pytest.mark.parametrize("answers", [1, 2])
async def test_call_that_ends_in_a_rejection_returns_a_copy_of_the_last_answer(
    autojump_clock: MockClock, edge: Edge, answers: int
) -> None:
    script = shut_after(answers)
    transport = edge.scripted(script)
    retry = edge.retry(max_attempts=4)
    async with edge.client(transport, retry=retry, bulkhead=lambda _: script.bulkhead) as client:
        response = await client.get(URL)
    assert response.status_code == 503
    assert response.headers["X-Number"] == str(answers)
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.text == f"sorry {answers}"
    assert response.http_version == "HTTP/1.0"
    assert response.reason_phrase == "Gone Fishing"
    assert response.request.url == URL
    assert response.extensions["trioresil"].attempts >= answers
    assert response.is_closed
    assert len(transport.sent) == answers
    assert transport.open == []


@pytest.mark.parametrize(("size", "copied"), [(64 * KIB - 1, True), (64 * KIB, True), (64 * KIB + 1, False)])
async def test_answer_of_64_kib_is_copied_and_no_longer_one(
    autojump_clock: MockClock, edge: Edge, size: int, copied: bool
) -> None:
    bulkhead = trioresil.Bulkhead(1, name="seats")

    def script(request: Any, number: int) -> Any:
        bulkhead.close_admission()
        return large(503, size)

    async with edge.client(edge.scripted(script), retry=edge.retry(), bulkhead=lambda _: bulkhead) as client:
        if copied:
            assert len((await client.get(URL)).content) == size
        else:
            with pytest.raises(edge.face.BulkheadFullError):
                await client.get(URL)


async def test_copy_can_be_streamed_raw_like_any_answer(autojump_clock: MockClock, edge: Edge) -> None:
    script = shut_after(1)
    async with edge.client(edge.scripted(script), retry=edge.retry(), bulkhead=lambda _: script.bulkhead) as client:
        async with client.stream("GET", URL) as response:
            raw = b"".join([part async for part in response.aiter_raw()])
    assert gzip.decompress(raw) == b"sorry 1"


async def test_answer_to_head_is_wholly_drained_whatever_its_length_says(autojump_clock: MockClock, edge: Edge) -> None:
    """Its Content-Length is that of a body which isn't sent."""
    bulkhead = trioresil.Bulkhead(1, name="seats")

    def script(request: Any, number: int) -> Any:
        bulkhead.close_admission()
        return answer(503, headers={"Content-Length": "1000000"})

    async with edge.client(edge.scripted(script), retry=edge.retry(), bulkhead=lambda _: bulkhead) as client:
        response = await client.head(URL)
    assert response.status_code == 503
    assert response.headers["Content-Length"] == "1000000"


async def test_body_that_says_it_is_too_long_need_not_be_read_at_all(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(large(503, 65 * KIB, headers={"Content-Length": str(65 * KIB)}), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL)).status_code == 200
    assert transport.sent[0].bytes_read <= 65 * KIB
    assert transport.sent[0].closed_at == 0


async def test_answer_not_wholly_drained_cannot_be_copied(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1, name="seats")

    def script(request: Any, number: int) -> Any:
        bulkhead.close_admission()
        return large(503, 65 * KIB)

    transport = edge.scripted(script)
    async with edge.client(transport, retry=edge.retry(), bulkhead=lambda _: bulkhead) as client:
        with pytest.raises(edge.face.BulkheadFullError) as caught:
            await client.get(URL)
    assert caught.value.started is True
    assert any("503" in note for note in caught.value.__notes__)
    assert len(transport.sent) == 1
    assert transport.open == []


async def test_answer_whose_body_broke_cannot_be_copied(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1, name="seats")

    def script(request: Any, number: int) -> Any:
        bulkhead.close_admission()
        return answer(503, b"half", breaks="ReadError")

    async with edge.client(edge.scripted(script), retry=edge.retry(), bulkhead=lambda _: bulkhead) as client:
        with pytest.raises(edge.face.BulkheadFullError) as caught:
            await client.get(URL)
    assert caught.value.started is True
    assert any("503" in note for note in caught.value.__notes__)


async def test_call_that_ends_in_a_rejection_after_an_error_raises_that_error(
    autojump_clock: MockClock, edge: Edge
) -> None:
    bulkhead = trioresil.Bulkhead(1, name="seats")
    error = edge.error("ReadError")

    def script(request: Any, number: int) -> Any:
        bulkhead.close_admission()
        return fails(error)

    transport = edge.scripted(script)
    async with edge.client(transport, retry=edge.retry(), bulkhead=lambda _: bulkhead) as client:
        with pytest.raises(edge.library.ReadError) as caught:
            await client.get(URL)
    assert caught.value is error
    assert len(transport.sent) == 1


async def test_call_that_was_only_rejected_raises_the_rejection_unstarted(
    autojump_clock: MockClock, edge: Edge
) -> None:
    bulkhead = trioresil.Bulkhead(1, name="seats")
    bulkhead.close_admission()
    transport = edge.scripted()
    async with edge.client(transport, retry=edge.retry(), bulkhead=lambda _: bulkhead) as client:
        with pytest.raises(edge.face.BulkheadFullError) as caught:
            await client.get(URL)
    assert caught.value.started is False
    assert transport.sent == []


# -- what is told -----------------------------------------------------------------------------------------------------------


async def test_budget_is_paid_into_by_calls_and_out_of_by_retries_429_too(
    autojump_clock: MockClock, edge: Edge
) -> None:
    for step in (answer(429), answer(429, retry_after=1), answer(503), fails("ConnectError")):
        budget = trioresil.RetryBudget(ratio=1, min_per_second=0, window=1000)
        transport = edge.scripted(step)
        async with edge.client(transport, retry=edge.retry(budget=budget, max_attempts=9)) as client:
            for calls, sent in ((1, 2), (2, 4)):
                raised: Exception | None = None
                try:
                    assert (await client.get(URL)).status_code == step.status
                except edge.library.ConnectError as error:
                    raised = error
                assert raised is None or any("budget is spent" in note for note in raised.__notes__)
                assert len(transport.sent) == sent
                assert budget.statistics().withdrawn == calls
        assert budget.statistics() == trioresil.RetryBudgetStatistics(available=0.0, withdrawn=2, refused=2)


async def test_budget_is_not_touched_by_what_could_not_be_retried_anyway(autojump_clock: MockClock, edge: Edge) -> None:
    budget = trioresil.RetryBudget(ratio=1, min_per_second=0, window=1000)
    async with edge.client(edge.scripted(answer(503, retry_after=100)), retry=edge.retry(budget=budget)) as client:
        await client.get(URL)
        await client.post(URL)
        with trio.fail_after(0.5):
            await client.get(URL)
    assert budget.statistics() == trioresil.RetryBudgetStatistics(available=3.0, withdrawn=0, refused=0)


async def test_error_that_comes_out_is_the_last_ones_with_a_note(autojump_clock: MockClock, edge: Edge) -> None:
    first, last = edge.error("ConnectError"), edge.error("ReadTimeout")
    async with edge.client(edge.scripted(fails(first), fails(last)), retry=edge.retry(max_attempts=2)) as client:
        with pytest.raises(edge.library.ReadTimeout) as caught:
            await client.get(URL)
    assert caught.value is last
    (note,) = last.__notes__
    assert note.startswith("trioresil: retry 'retry' gave up after 2 attempts and 1 s of waiting")
    assert "attempt 1: ConnectError" in note
    assert not getattr(first, "__notes__", [])


async def test_note_and_event_keep_the_last_ten_errors(autojump_clock: MockClock, edge: Edge) -> None:
    recorder = Recorder()
    transport = edge.scripted(answer(503), fails("ConnectError"))
    with trioresil.instrument(recorder):
        async with edge.client(transport, retry=edge.retry(max_attempts=20)) as client:
            with pytest.raises(edge.library.ConnectError) as caught:
                await client.get(URL)
    (note,) = caught.value.__notes__
    assert [line.split(":")[0].strip() for line in note.splitlines()[1:]] == [f"attempt {n}" for n in range(10, 20)]
    (event,) = recorder.of(trioresil.RetryGaveUp)
    assert len(event.errors) == 10
    assert event.errors[-1] is caught.value


async def test_answers_among_the_attempts_are_no_errors(autojump_clock: MockClock, edge: Edge) -> None:
    recorder = Recorder()
    transport = edge.scripted(answer(503), fails("ConnectError"), answer(502))
    with trioresil.instrument(recorder):
        async with edge.client(transport, retry=edge.retry(max_attempts=3)) as client:
            assert (await client.get(URL)).status_code == 502
    (event,) = recorder.of(trioresil.RetryGaveUp)
    assert [type(each) for each in event.errors] == [edge.library.ConnectError]


async def test_first_error_that_is_final_has_no_note(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.client(edge.scripted(fails("ReadError")), retry=edge.retry()) as client:
        with pytest.raises(edge.library.ReadError) as caught:
            await client.post(URL)
    assert not getattr(caught.value, "__notes__", [])


async def test_events_tell_each_retry_and_the_end(autojump_clock: MockClock, edge: Edge) -> None:
    recorder = Recorder()
    transport = edge.scripted(answer(503, retry_after=3), fails("ReadError"), answer(503))
    with trioresil.instrument(recorder):
        async with edge.client(transport, retry=edge.retry(max_attempts=3, name="api")) as client:
            await client.get(URL)
    one, two = recorder.of(trioresil.RetryScheduled)
    assert (one.name, one.attempt, one.delay, one.error, one.result.status_code) == ("api", 1, 3.0, None, 503)
    assert (two.attempt, two.delay, two.result) == (2, 1.0, None)
    assert isinstance(two.error, edge.library.ReadError)
    (end,) = recorder.of(trioresil.RetryGaveUp)
    assert (end.reason, end.attempts, end.waited, end.error) == ("attempts", 3, 4.0, None)


async def test_no_events_of_retrying_when_all_is_well(autojump_clock: MockClock, edge: Edge) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with edge.client(edge.scripted(answer(404)), retry=edge.retry()) as client:
            await client.get(URL)
    assert not [each for each in recorder.events if isinstance(each, (trioresil.RetryScheduled, trioresil.RetryGaveUp))]


async def test_redirects_pass_one_by_one(autojump_clock: MockClock, edge: Edge) -> None:
    moved = answer(307, headers={"Location": "https://api.example/there"})
    transport = edge.scripted(answer(503), moved, answer(503), answer(200, b"here"))
    async with edge.client(transport, retry=edge.retry(max_attempts=2)) as client:
        response = await client.get(URL, follow_redirects=True)
    assert response.status_code == 200
    assert [each.url.rpartition("/")[2] for each in transport.sent] == ["items", "items", "there", "there"]
    assert response.extensions["trioresil"].attempts == 2
    assert response.history[0].extensions["trioresil"].attempts == 2


async def test_rounds_of_an_authentication_pass_one_by_one(autojump_clock: MockClock, edge: Edge) -> None:
    challenge = answer(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'})
    transport = edge.scripted(answer(503), challenge, answer(503), answer(200))
    async with edge.client(transport, retry=edge.retry(max_attempts=2)) as client:
        response = await client.get(URL, auth=edge.library.DigestAuth("u", "p"))
    assert response.status_code == 200
    assert ["authorization" in each.headers for each in transport.sent] == [False, False, True, True]


async def test_body_that_breaks_after_the_head_is_never_sent_again(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(200, b"half", breaks="RemoteProtocolError"), answer(200, b"whole"))
    async with edge.client(transport, retry=edge.retry()) as client:
        with pytest.raises(edge.library.RemoteProtocolError):
            await client.get(URL)
    assert len(transport.sent) == 1
    assert transport.open == []
