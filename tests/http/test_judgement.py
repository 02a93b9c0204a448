"""What may be sent again, and what counts against the other side: both tables in full."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, URL, Edge, Failing, answer, fails

pytestmark = BOTH

METHODS = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY", "POST", "PATCH", "CONNECT", "SPAM"]
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"}
UNMADE = ["ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"]
BROKEN = ["ReadError", "ReadTimeout", "WriteError", "WriteTimeout", "CloseError", "RemoteProtocolError"]
HOPELESS = ["LocalProtocolError", "UnsupportedProtocol", "DecodingError", "TooManyRedirects"]
STATUSES = range(100, 700)


def of_request(edge: Edge, outcome: Any, method: str, **headers: str) -> Any:
    outcome.request = edge.request(method, headers=headers)
    return outcome


def expected_again(status: int, again: bool) -> bool:
    """The law, once more and plainly."""
    return status == 429 or (again and status in {408, 502, 503, 504})


# -- what may be sent again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", [False, True])
def test_answers_that_are_worth_another_request(edge: Edge, method: str, key: bool) -> None:
    headers = {"Idempotency-Key": "k"} if key else {}
    request = edge.request(method, headers=headers)
    again = method in IDEMPOTENT or key
    worth = [status for status in STATUSES if edge.face.transient(edge.response(status, request))]
    assert worth == [status for status in STATUSES if expected_again(status, again)]


def test_answer_of_an_unknown_request_counts_as_not_idempotent(edge: Edge) -> None:
    assert [status for status in STATUSES if edge.face.transient(edge.response(status))] == [429]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", [False, True])
def test_errors_that_are_worth_another_request(edge: Edge, method: str, key: bool) -> None:
    headers = {"Idempotency-Key": "k"} if key else {}
    again = method in IDEMPOTENT or key
    for name in UNMADE:
        assert edge.face.transient(of_request(edge, edge.error(name), method, **headers)) is True, name
    for name in BROKEN:
        assert edge.face.transient(of_request(edge, edge.error(name), method, **headers)) is again, name
    for name in HOPELESS:
        assert edge.face.transient(of_request(edge, edge.error(name), method, **headers)) is False, name


def test_error_of_an_unknown_request_counts_as_not_idempotent(edge: Edge) -> None:
    assert [name for name in [*UNMADE, *BROKEN, *HOPELESS] if edge.face.transient(edge.error(name))] == UNMADE


@pytest.mark.parametrize("key", ["idempotency-key", "IDEMPOTENCY-KEY"])
def test_the_keys_name_may_be_in_any_case(edge: Edge, key: str) -> None:
    assert edge.face.transient(of_request(edge, edge.error("ReadError"), "POST", **{key: "k"})) is True


def test_methods_are_compared_in_capitals(edge: Edge) -> None:
    """The client library makes capitals of a method, so there is nothing else to compare."""
    assert edge.face.transient(of_request(edge, edge.error("ReadError"), "get")) is True


@pytest.mark.parametrize("started", [False, True, None])
def test_time_out_is_as_a_connection_never_made_only_if_it_never_started(edge: Edge, started: bool | None) -> None:
    for method in METHODS:
        error = of_request(edge, edge.face.TimedOutError("attempt", 1.0, started=started), method)
        assert edge.face.transient(error) is (started is False or method in IDEMPOTENT)
    assert edge.face.transient(edge.face.TimedOutError("attempt", 1.0, started=started)) is (started is False)


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), Failing("x"), KeyError(), RuntimeError("x")])
def test_what_is_not_the_client_librarys_is_not_worth_it(edge: Edge, error: Exception) -> None:
    assert edge.face.transient(error) is False


def test_empty_key_is_none(edge: Edge) -> None:
    assert edge.face.transient(of_request(edge, edge.error("ReadError"), "POST", **{"Idempotency-Key": ""})) is False


def test_group_is_judged_by_all_of_its_leaves(edge: Edge) -> None:
    def group(*names: str) -> Any:
        return ExceptionGroup("addresses", [edge.error(name) for name in names])

    transient, failed = edge.face.transient, edge.face.failed
    assert transient(group("ConnectError", "ConnectTimeout")) is True
    assert transient(group("ConnectError", "ReadError")) is False
    assert failed(group("ConnectError", "ReadError")) is True
    assert failed(group("ConnectError", "PoolTimeout")) is False
    assert failed(ExceptionGroup("mixed", [edge.error("ConnectError"), ValueError("x")])) is False
    assert transient(ExceptionGroup("mixed", [edge.error("ConnectError"), ValueError("x")])) is False
    assert transient(ExceptionGroup("nested", [group("ConnectError"), edge.error("ConnectError")])) is True


def test_status_error_is_judged_as_its_response(edge: Edge) -> None:
    for method, status in itertools.product(["GET", "POST"], [200, 404, 429, 500, 501, 503]):
        request = edge.request(method)
        response = edge.response(status, request)
        error = edge.library.HTTPStatusError("status", request=request, response=response)
        assert edge.face.transient(error) is expected_again(status, method == "GET")


def test_circuits_rejection_is_never_worth_another_request(edge: Edge) -> None:
    for error in (
        edge.face.CircuitOpenError("c", 1.0),
        edge.face.CircuitIsolatedError("c"),
        trioresil.CircuitOpenError("c", 1.0),
    ):
        assert edge.face.transient(error) is False


def test_closed_pool_is_not_worth_another_request(edge: Edge) -> None:
    assert edge.face.transient(edge.face.PoolClosedError("pool")) is False


def test_errors_of_the_other_library_are_strangers(edge: Edge) -> None:
    other = Edge("httpx2" if edge.name == "httpx" else "httpx")
    assert edge.face.transient(other.error("ConnectError")) is False
    assert edge.face.failed(other.error("ConnectError")) is False


async def test_all_three_work_in_a_retry_of_the_users_around_a_plain_client(
    autojump_clock: MockClock, edge: Edge
) -> None:
    face = edge.face
    retry = trioresil.Retry(on=face.transient, on_result=face.transient, delay_hint=face.retry_after, backoff=[1.0])
    for method, sent_at in (("GET", [0, 1, 2, 5, 10]), ("POST", [0, 1])):
        transport = edge.scripted(
            fails("ConnectError"), fails("ReadError"), answer(503, retry_after=3), answer(429, retry_after=5), answer()
        )
        async with edge.library.AsyncClient(transport=transport) as client:
            began = trio.current_time()
            if method == "GET":
                assert (await retry.call(client.get, URL)).status_code == 200
            else:
                with pytest.raises(edge.library.ReadError):
                    await retry.call(client.post, URL)
        assert [each - began for each in transport.sent_at] == sent_at


async def test_failed_judges_for_a_breaker_of_the_users_around_a_plain_client(
    autojump_clock: MockClock, edge: Edge
) -> None:
    failed = edge.face.failed
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(2), on=failed, on_result=failed)
    steps = [answer(404), answer(500), answer(429), answer(503), fails("PoolTimeout"), answer(501), fails("ReadError")]
    async with edge.library.AsyncClient(transport=edge.scripted(*steps, answer(502))) as client:
        for number in range(8):
            assert breaker.state is trioresil.CircuitState.CLOSED, number
            with contextlib.suppress(edge.library.TransportError):
                await breaker.call(client.get, URL)
    assert breaker.state is trioresil.CircuitState.OPEN


# -- what counts against the other side --------------------------------------------------------------------------------


def test_server_errors_are_failures_and_all_other_answers_good(edge: Edge) -> None:
    failures = [status for status in STATUSES if edge.face.failed(edge.response(status))]
    assert failures == [status for status in range(500, 600) if status != 501]


@pytest.mark.parametrize("name", ["ConnectError", "ConnectTimeout", "ProxyError", *BROKEN])
def test_transport_errors_are_failures(edge: Edge, name: str) -> None:
    assert edge.face.failed(edge.error(name)) is True


@pytest.mark.parametrize("name", ["PoolTimeout", "LocalProtocolError", "UnsupportedProtocol"])
def test_what_says_nothing_of_the_other_side_is_no_failure(edge: Edge, name: str) -> None:
    assert edge.face.failed(edge.error(name)) is False


@pytest.mark.parametrize("started", [False, True, None])
def test_time_out_is_a_failure_if_it_may_have_started(edge: Edge, started: bool | None) -> None:
    assert edge.face.failed(edge.face.TimedOutError("attempt", 1.0, started=started)) is (started is not False)


def test_unstarted_rejections_are_no_failures(edge: Edge) -> None:
    face = edge.face
    for kind in (face.CircuitOpenError, face.BulkheadFullError, face.RateLimitedError, face.PoolClosedError):
        assert face.failed(kind("gate", 1.0)) is False, kind


def test_own_pool_closed_under_a_request_is_no_failure_of_the_other_side(edge: Edge) -> None:
    assert edge.face.failed(edge.face.PoolClosedError("pool", started=True)) is False


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), Failing("x")])
def test_strange_errors_are_no_failures(edge: Edge, error: Exception) -> None:
    assert edge.face.failed(error) is False


def test_status_error_fails_as_its_response(edge: Edge) -> None:
    request = edge.request()
    for status, expected in ((404, False), (429, False), (500, True), (501, False), (503, True)):
        response = edge.response(status, request)
        error = edge.library.HTTPStatusError("status", request=request, response=response)
        assert edge.face.failed(error) is expected


def test_both_work_as_on_and_on_result(edge: Edge) -> None:
    face = edge.face
    trioresil.CircuitBreaker(on=face.failed, on_result=face.failed)
    trioresil.Retry(on=face.transient, on_result=face.transient)
