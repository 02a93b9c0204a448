"""What `response.extensions["trioresil"]` tells of the way an answer came."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, URL, Edge, answer, fails
from trioresil._http._report import CallReport

pytestmark = BOTH


async def report(edge: Edge, *steps: Any, **configuration: Any) -> Any:
    async with edge.client(edge.scripted(*steps), **configuration) as client:
        response = await client.get(URL)
    return response.extensions["trioresil"]


async def test_one_attempt_at_once(autojump_clock: MockClock, edge: Edge) -> None:
    assert await report(edge, answer()) == CallReport(attempts=1, waited=0.0, reused=None)


async def test_attempts_and_waits_add_up(autojump_clock: MockClock, edge: Edge) -> None:
    told = await report(edge, answer(503, takes=9), fails("ReadError"), answer(), retry=edge.retry(backoff=[1, 2]))
    assert told == CallReport(attempts=3, waited=3.0, reused=None)


async def test_hint_counts_as_waited(autojump_clock: MockClock, edge: Edge) -> None:
    told = await report(edge, answer(503, retry_after=7), answer(), retry=edge.retry())
    assert (told.attempts, told.waited) == (2, 7.0)


async def test_last_failed_answer_has_a_report_too(autojump_clock: MockClock, edge: Edge) -> None:
    told = await report(edge, answer(503), retry=edge.retry(max_attempts=3))
    assert (told.attempts, told.waited) == (3, 2.0)


async def test_copy_of_the_last_answer_has_a_report_too(autojump_clock: MockClock, edge: Edge) -> None:
    bulkhead = trioresil.Bulkhead(1)

    def script(request: Any, number: int) -> Any:
        bulkhead.close_admission()
        return answer(503, b"sorry", extensions={"trioresil": CallReport(reused=True), "mine": 5})

    async with edge.client(
        edge.scripted(script), retry=edge.retry(max_attempts=2), bulkhead=lambda _: bulkhead
    ) as client:
        response = await client.get(URL)
    assert response.extensions["trioresil"].reused is True
    assert response.extensions["mine"] == 5


@pytest.mark.parametrize("reused", [True, False, None])
async def test_reuse_is_what_the_transport_says(autojump_clock: MockClock, edge: Edge, reused: bool | None) -> None:
    inner = answer(200, extensions={"trioresil": CallReport(attempts=7, waited=7.0, reused=reused)})
    assert await report(edge, inner) == CallReport(attempts=1, waited=0.0, reused=reused)


@pytest.mark.parametrize("foreign", ["x", None, {"reused": True}, 5])
async def test_foreign_extension_of_that_name_is_no_error(autojump_clock: MockClock, edge: Edge, foreign: Any) -> None:
    told = await report(edge, answer(200, extensions={"trioresil": foreign}))
    assert told == CallReport(attempts=1, waited=0.0, reused=None)


async def test_other_extensions_stay(autojump_clock: MockClock, edge: Edge) -> None:
    stream = object()
    step = answer(200, extensions={"http_version": b"HTTP/2", "network_stream": stream, "reason_phrase": b"Fine"})
    async with edge.client(edge.scripted(step)) as client:
        response = await client.get(URL)
    assert response.http_version == "HTTP/2"
    assert response.extensions["network_stream"] is stream
    assert response.reason_phrase == "Fine"


async def test_report_cannot_be_changed(autojump_clock: MockClock, edge: Edge) -> None:
    told = await report(edge, answer())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        told.attempts = 5


async def test_class_is_public(autojump_clock: MockClock, edge: Edge) -> None:
    assert type(await report(edge, answer())) is edge.face.CallReport


async def test_each_redirect_has_its_own(autojump_clock: MockClock, edge: Edge) -> None:
    moved = answer(307, headers={"Location": "/there"})
    transport = edge.scripted(answer(503), moved, answer(503), answer(503), answer(200))
    async with edge.client(transport, retry=edge.retry(max_attempts=3)) as client:
        response = await client.get(URL, follow_redirects=True)
    (first,) = response.history
    assert first.extensions["trioresil"] == CallReport(attempts=2, waited=1.0)
    assert response.extensions["trioresil"] == CallReport(attempts=3, waited=2.0)


async def test_429_retries_count(autojump_clock: MockClock, edge: Edge) -> None:
    told = await report(edge, answer(429, retry_after=5), answer(), retry=edge.retry())
    assert told.attempts == 2
    assert told.waited == pytest.approx(5, abs=1e-3)


async def test_wait_in_limits_of_its_own_is_no_wait_between_attempts(autojump_clock: MockClock, edge: Edge) -> None:
    bucket = trioresil.TokenBucket(rate=0.5)
    bucket.acquire_nowait()
    told = await report(edge, answer(), bucket=lambda _: bucket)
    assert trio.current_time() == 2
    assert told == CallReport(attempts=1, waited=0.0)
