"""What leaves a transport is trioresil's error and the client library's at once, by every test that a program may use."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import trio

import trioresil
from tests.http._scripted import BOTH, EDGES, URL, Edge, answer, fails, hangs

pytestmark = BOTH

BASES = {
    "CircuitOpenError": "ConnectError",
    "CircuitIsolatedError": "ConnectError",
    "BulkheadFullError": "PoolTimeout",
    "RateLimitedError": "PoolTimeout",
    "TimedOutError": "TimeoutException",
}
NAMES = pytest.mark.parametrize("name", [*BASES, "PoolClosedError"])


def new(edge: Edge, name: str) -> Any:
    error = getattr(edge.face, name)("search", 2.5)
    if name == "BulkheadFullError":
        error.reason = "every seat is taken"
    if name == "RateLimitedError":
        error.max_wait = 1.5
    return error


@pytest.mark.parametrize("name", BASES)
def test_error_is_both_ways_what_it_is_called(edge: Edge, name: str) -> None:
    error = new(edge, name)
    assert isinstance(error, getattr(trioresil, name))
    assert isinstance(error, getattr(edge.library, BASES[name]))
    assert isinstance(error, trioresil.TrioresilError)
    assert isinstance(error, edge.library.TransportError)
    assert isinstance(error, edge.library.RequestError)
    assert isinstance(error, edge.library.HTTPError)


def test_closed_pool_is_the_client_librarys_error_too(edge: Edge) -> None:
    error = new(edge, "PoolClosedError")
    assert isinstance(error, trioresil.PoolClosedError)
    assert isinstance(error, edge.library.TransportError)


def test_isolated_is_open_and_time_out_is_too_slow(edge: Edge) -> None:
    assert issubclass(edge.face.CircuitIsolatedError, edge.face.CircuitOpenError)
    assert issubclass(edge.face.TimedOutError, trio.TooSlowError)
    assert issubclass(edge.face.TimedOutError, TimeoutError) == issubclass(trio.TooSlowError, TimeoutError)


def test_classes_of_the_two_libraries_are_not_confused(edge: Edge) -> None:
    (other,) = (each for each in EDGES if each is not edge)
    for name in [*BASES, "PoolClosedError"]:
        assert not isinstance(new(edge, name), other.library.HTTPError)
        assert getattr(edge.face, name) is not getattr(other.face, name)


@NAMES
def test_message_and_numbers_are_the_cores(edge: Edge, name: str) -> None:
    error, core = new(edge, name), getattr(trioresil, name)("search", 2.5)
    if name == "BulkheadFullError":
        core.reason = "every seat is taken"
    if name == "RateLimitedError":
        core.max_wait = 1.5
    assert str(error) == str(core)
    assert repr(error) == repr(core)
    assert error.policy == "search"
    assert error.started is core.started
    assert getattr(error, "retry_after", None) == getattr(core, "retry_after", None)
    assert getattr(error, "seconds", None) == getattr(core, "seconds", None)


@NAMES
def test_class_says_where_users_import_it_from(edge: Edge, name: str) -> None:
    kind = getattr(edge.face, name)
    assert kind.__module__ == f"trioresil.{edge.name}"
    assert kind.__qualname__ == name


@NAMES
def test_error_survives_pickle_and_copy(edge: Edge, name: str) -> None:
    error = new(edge, name)
    error.started = True
    error.add_note("a note")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(error, protocol))
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin).keys() >= vars(error).keys()
        for attribute in ("policy", "started", "retry_after", "seconds", "max_wait", "reason", "__notes__"):
            assert getattr(twin, attribute, None) == getattr(error, attribute, None), attribute
    assert str(copy.copy(error)) == str(error)
    assert copy.copy(error).started is True


@NAMES
def test_request_is_refused_before_it_is_set_and_kept_after(edge: Edge, name: str) -> None:
    error = new(edge, name)
    with pytest.raises(RuntimeError):
        _ = error.request
    request = edge.request()
    error.request = request
    assert error.request is request


@NAMES
def test_keywords_work_as_in_the_core(edge: Edge, name: str) -> None:
    error = getattr(edge.face, name)("search", started=True)
    assert error.started is True


async def test_each_is_caught_by_the_client_librarys_own_except(edge: Edge, autojump_clock: Any) -> None:
    breaker = trioresil.CircuitBreaker(name=URL)
    bulkhead = trioresil.Bulkhead(1, max_wait=0, name="seats")
    bucket = trioresil.TokenBucket(rate=1, max_wait=0, name="pace")
    transport = edge.scripted(hangs())

    async def outcome(client: Any) -> Exception:
        try:
            await client.get(URL)
        except edge.library.HTTPError as exc:
            return exc
        raise AssertionError("nothing was raised")

    async with edge.client(transport, breaker=lambda _: breaker) as client:
        with breaker.isolated():
            isolated = await outcome(client)
        breaker.open(5)
        opened = await outcome(client)
    async with edge.client(edge.scripted(), bulkhead=lambda _: bulkhead) as client, bulkhead:
        full = await outcome(client)
    bucket.acquire_nowait()
    async with edge.client(edge.scripted(), bucket=lambda _: bucket) as client:
        limited = await outcome(client)
    async with edge.client(transport, attempt_timeout=2) as client:
        attempt = await outcome(client)
    async with edge.client(transport, total_timeout=3) as client:
        total = await outcome(client)
    face = edge.face
    kinds = [type(each) for each in (isolated, opened, full, limited, attempt, total)]
    assert kinds == [
        face.CircuitIsolatedError, face.CircuitOpenError, face.BulkheadFullError, face.RateLimitedError,
        face.TimedOutError, face.TimedOutError,
    ]  # fmt: skip
    for each in (isolated, opened, full, limited, attempt, total):
        assert str(each.request.url) == URL  # type: ignore[attr-defined]
    assert opened.retry_after == 5.0  # type: ignore[attr-defined]
    assert limited.retry_after == 1.0  # type: ignore[attr-defined]
    assert limited.max_wait == 0  # type: ignore[attr-defined]
    assert "nobody may wait" in str(full)
    assert (attempt.seconds, total.seconds) == (2, 3)  # type: ignore[attr-defined]
    assert [each.policy for each in (opened, full, limited)] == [URL, "seats", "pace"]  # type: ignore[attr-defined]


async def test_each_pickles_with_its_notes_when_it_has_been_through_a_client(edge: Edge, autojump_clock: Any) -> None:
    async with edge.client(edge.scripted(hangs()), attempt_timeout=2, retry=edge.retry(max_attempts=2)) as client:
        with pytest.raises(edge.face.TimedOutError) as caught:
            await client.get(URL)
    twin = pickle.loads(pickle.dumps(caught.value))
    assert twin.__notes__ == caught.value.__notes__
    assert str(twin) == str(caught.value)
    assert twin.started is caught.value.started is not False


async def test_errors_of_the_transport_come_out_as_the_same_object(edge: Edge, autojump_clock: Any) -> None:
    error = edge.error("ReadError")
    async with edge.client(edge.scripted(fails(error)), retry=edge.retry(max_attempts=1)) as client:
        with pytest.raises(edge.library.ReadError) as caught:
            await client.post(URL)
    assert caught.value is error
    assert caught.value.request.method == "POST"


async def test_answers_are_of_the_client_librarys_own_class(edge: Edge, autojump_clock: Any) -> None:
    async with edge.client(edge.scripted(answer(200, b"hello"))) as client:
        response = await client.get(URL)
    assert type(response) is edge.library.Response
    assert response.text == "hello"
