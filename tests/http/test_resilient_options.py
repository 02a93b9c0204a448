"""Options of a transport and of a single request: what is taken, what is refused, and when."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, URL, Edge, answer, fails, hangs, options

pytestmark = BOTH


@pytest.mark.parametrize(
    "wrong",
    [
        {"total_timeot": 3}, {"timeout": 3}, {"total_timeout": 3, "Idempotent": True}, {"": 1}, {"bulkhead": False},
    ],
)  # fmt: skip
async def test_unknown_key_is_refused_before_anything_is_sent(
    autojump_clock: MockClock, edge: Edge, wrong: dict[str, Any]
) -> None:
    transport = edge.scripted()
    async with edge.client(transport, retry=edge.retry(on=Exception)) as client:
        with pytest.raises(TypeError) as caught:
            await client.get(URL, extensions=options(**wrong))
    unknown = next(key for key in wrong if key != "total_timeout")
    assert repr(unknown) in str(caught.value) or unknown in str(caught.value)
    assert transport.sent == []


async def test_message_names_the_keys_that_there_are(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.client(edge.scripted()) as client:
        with pytest.raises(TypeError) as caught:
            await client.get(URL, extensions=options(total_timeot=3))
    for key in ("total_timeout", "attempt_timeout", "idempotent", "retry", "breaker", "tokens"):
        assert key in str(caught.value)


@pytest.mark.parametrize("wrong", ["x", 5, [("retry", False)], {1: 2}])
async def test_something_else_than_a_dict_is_refused(autojump_clock: MockClock, edge: Edge, wrong: Any) -> None:
    transport = edge.scripted()
    async with edge.client(transport) as client:
        with pytest.raises(TypeError):
            await client.get(URL, extensions={"trioresil": wrong})
    assert transport.sent == []


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("total_timeout", 0, ValueError), ("total_timeout", -1, ValueError), ("total_timeout", math.nan, ValueError),
        ("total_timeout", "3", TypeError), ("total_timeout", True, TypeError),
        ("attempt_timeout", 0, ValueError), ("attempt_timeout", -1, ValueError), ("attempt_timeout", "3", TypeError),
        ("idempotent", 1, TypeError), ("idempotent", "yes", TypeError),
        ("retry", 0, TypeError), ("retry", "no", TypeError), ("breaker", 0, TypeError), ("breaker", "no", TypeError),
        ("tokens", -1, ValueError), ("tokens", math.nan, ValueError), ("tokens", "3", TypeError), ("tokens", True, TypeError),
    ],
)  # fmt: skip
async def test_wrong_value_is_refused_by_name_before_anything_is_sent(
    autojump_clock: MockClock, edge: Edge, key: str, value: object, kind: type[Exception]
) -> None:
    transport = edge.scripted()
    bucket = trioresil.TokenBucket(rate=1, capacity=5)
    breaker = trioresil.CircuitBreaker()
    async with edge.client(transport, bucket=lambda _: bucket, breaker=lambda _: breaker) as client:
        with pytest.raises(kind, match=key):
            await client.get(URL, extensions=options(**{key: value}))
    assert transport.sent == []
    assert bucket.statistics().tokens == 5


async def test_no_options_and_empty_options_are_the_same(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL, extensions=options())).status_code == 200


async def test_retry_can_be_switched_off_for_a_request(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503), answer(503), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        assert (await client.get(URL, extensions=options(retry=False))).status_code == 503
        assert (await client.get(URL, extensions=options(retry=True))).status_code == 200


async def test_switches_that_are_on_need_nothing_to_switch(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.client(edge.scripted()) as client:
        response = await client.get(URL, extensions=options(retry=False, breaker=False, tokens=3, idempotent=True))
        assert response.status_code == 200


async def test_retry_switched_off_pays_nothing_into_the_budget(autojump_clock: MockClock, edge: Edge) -> None:
    budget = trioresil.RetryBudget(ratio=1, min_per_second=0)
    async with edge.client(edge.scripted(answer(503)), retry=edge.retry(budget=budget)) as client:
        await client.get(URL, extensions=options(retry=False))
    assert budget.statistics().withdrawn == 0


async def test_options_are_inherited_by_redirects(autojump_clock: MockClock, edge: Edge) -> None:
    moved = answer(307, headers={"Location": "https://api.example/there"})
    transport = edge.scripted(moved, hangs())
    async with edge.client(transport, total_timeout=50) as client:
        with pytest.raises(edge.face.TimedOutError) as caught:
            await client.get(URL, follow_redirects=True, extensions=options(attempt_timeout=2))
    assert caught.value.seconds == 2
    assert trio.current_time() == 2


async def test_options_are_inherited_by_rounds_of_an_authentication(autojump_clock: MockClock, edge: Edge) -> None:
    challenge = answer(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'})
    transport = edge.scripted(challenge, fails("ReadError"), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        auth = edge.library.DigestAuth("u", "p")
        response = await client.post(URL, auth=auth, extensions=options(idempotent=True))
    assert response.status_code == 200
    assert len(transport.sent) == 3


async def test_other_extensions_are_passed_on(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted()
    trace = object()
    async with edge.client(transport) as client:
        await client.get(URL, extensions={**options(retry=False), "sni_hostname": "x", "mine": trace}, timeout=7)
    assert transport.sent[0].extensions["sni_hostname"] == "x"
    assert transport.sent[0].extensions["mine"] is trace
    assert transport.sent[0].extensions["timeout"] == {"connect": 7, "read": 7, "write": 7, "pool": 7}


async def test_users_options_are_left_as_they_are(autojump_clock: MockClock, edge: Edge) -> None:
    given = options(idempotent=True, total_timeout=3)
    before = {**given, "trioresil": dict(given["trioresil"])}
    transport = edge.scripted(answer(503), answer())
    async with edge.client(transport, retry=edge.retry()) as client:
        await client.post(URL, extensions=given)
        await client.post(URL, extensions=given)
    assert given == before


# -- the transport's own -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value", "kind"),
    [
        ("total_timeout", 0, ValueError), ("total_timeout", -1, ValueError), ("total_timeout", "3", TypeError),
        ("total_timeout", True, TypeError), ("total_timeout", math.nan, ValueError),
        ("attempt_timeout", 0, ValueError), ("attempt_timeout", math.nan, ValueError), ("attempt_timeout", "3", TypeError),
        ("retry", 3, TypeError), ("retry", "often", TypeError), ("retry", trioresil.Timeout(1), TypeError),
        ("breaker", 3, TypeError), ("bulkhead", 3, TypeError), ("bucket", 3, TypeError),
        ("deadline_header", "", ValueError), ("deadline_header", 3, TypeError), ("attempt_header", 3, TypeError),
    ],
)  # fmt: skip
def test_wrong_argument_is_refused_by_name(edge: Edge, argument: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=argument):
        edge.resilient(edge.scripted(), **{argument: value})


@pytest.mark.parametrize("wrong", [None, 5, "https://api.example", object()])
def test_something_that_is_no_transport_is_refused(edge: Edge, wrong: Any) -> None:
    with pytest.raises(TypeError, match="transport"):
        edge.resilient(wrong)


def test_synchronous_transport_is_refused(edge: Edge) -> None:
    with pytest.raises(TypeError, match="transport"):
        edge.resilient(edge.library.HTTPTransport())


def test_unknown_argument_is_refused(edge: Edge) -> None:
    with pytest.raises(TypeError):
        edge.resilient(edge.scripted(), retries=3)


async def test_transport_is_entered_left_and_closed_with_the_client(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted()
    async with edge.client(transport) as client:
        assert transport.entered == 1
        await client.get(URL)
    assert transport.closed == 1


async def test_transport_is_closed_by_aclose(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted()
    client = edge.client(transport)
    await client.get(URL)
    await client.aclose()
    assert transport.closed == 1


async def test_transport_is_a_transport_of_its_library(autojump_clock: MockClock, edge: Edge) -> None:
    assert isinstance(edge.resilient(edge.scripted()), edge.library.AsyncBaseTransport)


async def test_admission_can_be_closed_and_waited_for(autojump_clock: MockClock, edge: Edge) -> None:
    """It is Drainable: calls and bodies under way go on, new ones are refused."""
    resilient = edge.resilient(edge.scripted(answer(200, (b"x",) * 3, takes=1, chunk_takes=1)))
    assert isinstance(resilient, trioresil.abc.Drainable)
    async with edge.library.AsyncClient(transport=resilient, timeout=None) as client:
        await resilient.wait_drained()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, URL)
            await trio.sleep(0.5)
            resilient.close_admission()
            with pytest.raises(trioresil.RejectedError) as caught:
                await client.get(URL)
            assert isinstance(caught.value, edge.library.TransportError)
            assert caught.value.retry_after is None
            await resilient.wait_drained()
            assert trio.current_time() == 4


async def test_statistics_tell_what_it_has_done(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503), answer(429, retry_after=5), answer(200, b"x"))
    resilient = edge.resilient(
        transport,
        retry=edge.retry(),
        breaker=lambda origin: trioresil.CircuitBreaker(name=origin),
        bulkhead=lambda origin: trioresil.Bulkhead(3, name=origin),
        name="api",
    )
    assert resilient.statistics().origins == ()
    response = await resilient.handle_async_request(edge.request())
    told = resilient.statistics()
    assert (told.name, told.requests, told.retries, told.closed) == ("api", 1, 2, False)
    assert told.inside == 1
    (origin,) = told.origins
    assert origin.origin == "https://api.example"
    assert origin.breaker.state is trioresil.CircuitState.CLOSED
    assert origin.bulkhead.inside == 1
    assert origin.bucket is None
    await response.stream.aclose()
    assert resilient.statistics().inside == 0
    assert resilient.statistics().origins[0].bulkhead.inside == 0
    resilient.close_admission()
    assert resilient.statistics().closed is True
    assert "api" in repr(resilient)


async def test_statistics_tell_of_a_pause_and_who_waits(autojump_clock: MockClock, edge: Edge) -> None:
    for bucket in (None, lambda _: trioresil.TokenBucket(rate=100, capacity=100)):
        resilient = edge.resilient(edge.scripted(answer(429, retry_after=5), answer(200)), bucket=bucket)
        await (await resilient.handle_async_request(edge.request())).aclose()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_sent_and_closed, resilient, edge)
            await trio.sleep(2)
            (origin,) = resilient.statistics().origins
            assert origin.waiting == 3
            assert origin.paused_for == pytest.approx(3)
        (origin,) = resilient.statistics().origins
        assert (origin.waiting, origin.paused_for) == (0, 0)


async def _sent_and_closed(resilient: Any, edge: Edge) -> None:
    await (await resilient.handle_async_request(edge.request())).aclose()


async def test_retry_may_be_another_one_for_a_request(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503))
    async with edge.client(transport) as client:
        await client.get(URL, extensions=options(retry=edge.retry(max_attempts=4)))
    assert len(transport.sent) == 4


async def test_works_around_the_librarys_own_transport(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.client(
        edge.library.MockTransport(lambda request: edge.library.Response(200, text="mocked"))
    ) as client:
        assert (await client.get(URL)).text == "mocked"


async def test_mock_transports_answers_are_retried_like_others(autojump_clock: MockClock, edge: Edge) -> None:
    """Their bodies are in memory: streams that are no scripted ones."""
    statuses = [503, 429, 200]

    def handler(request: Any) -> Any:
        return edge.library.Response(statuses.pop(0), text="mocked", headers={"Retry-After": "1"})

    async with edge.client(edge.library.MockTransport(handler), retry=edge.retry()) as client:
        response = await client.post(URL, json={"a": 1}, headers={"Idempotency-Key": "k"})
    assert response.status_code == 200
    assert response.json if False else response.text == "mocked"
