"""open_client: a real client of the library, resilient by default, with everything open to change."""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._scripted import BOTH, ORIGIN, URL, Edge, answer, fails, hangs, options
from trioresil.testing import Recorder

pytestmark = BOTH


async def test_gives_a_real_client_of_the_library(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.face.open_client(transport=edge.scripted(answer(200, b"hello"))) as client:
        assert isinstance(client, edge.library.AsyncClient)
        response = await client.get(URL)
        assert type(response) is edge.library.Response
        assert response.text == "hello"
        assert response.extensions["trioresil"].attempts == 1
    assert client.is_closed


async def test_what_a_client_takes_is_handed_on(autojump_clock: MockClock, edge: Edge) -> None:
    seen: list[str] = []

    async def hook(request: Any) -> None:
        seen.append(str(request.url))

    async with edge.face.open_client(
        transport=edge.scripted(answer(302, headers={"Location": "/there"}), answer(200, b"x")),
        base_url=ORIGIN,
        headers={"X-Mine": "1"},
        params={"q": "2"},
        cookies={"c": "3"},
        auth=("user", "pass"),
        follow_redirects=True,
        max_redirects=3,
        event_hooks={"request": [hook]},
        default_encoding="latin-1",
    ) as client:
        assert (await client.get("/items")).status_code == 200
        assert client.base_url == ORIGIN + "/" or str(client.base_url).rstrip("/") == ORIGIN
    assert [each.split("?")[0] for each in seen] == [URL, f"{ORIGIN}/there"]


async def test_given_transport_is_wrapped_and_closed(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(fails("ConnectError"), answer(503), answer(200))
    async with edge.face.open_client(transport=transport) as client:
        assert (await client.get(URL)).status_code == 200
    assert len(transport.sent) == 3
    assert transport.closed >= 1


@pytest.mark.parametrize("error", [None, ValueError("mine"), "cancelled"])
async def test_body_of_the_block_ends_as_it_would_without(autojump_clock: MockClock, edge: Edge, error: Any) -> None:
    transport = edge.scripted()
    raised = None
    with trio.CancelScope() as scope:
        try:
            async with edge.face.open_client(transport=transport) as client:
                await client.get(URL)
                if error == "cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                elif error is not None:
                    raise error
        except ValueError as exc:
            raised = exc
    assert raised is (error if isinstance(error, ValueError) else None)
    assert scope.cancelled_caught is (error == "cancelled")
    assert client.is_closed
    assert transport.closed >= 1


async def test_leaving_waits_no_longer_than_a_second(autojump_clock: MockClock, edge: Edge) -> None:
    class Stubborn(type(edge.scripted())):  # type: ignore[misc]
        async def aclose(self) -> None:
            await trio.sleep_forever()

    async with edge.face.open_client(transport=Stubborn()) as client:
        await client.get(URL)
    assert trio.current_time() == 1


async def test_leaving_is_bounded_under_a_cancellation_too(autojump_clock: MockClock, edge: Edge) -> None:
    class Slow(type(edge.scripted())):  # type: ignore[misc]
        async def aclose(self) -> None:
            await trio.sleep(0.5)
            await super().aclose()

    transport = Slow()
    with trio.CancelScope() as scope:
        async with edge.face.open_client(transport=transport):
            scope.cancel()
    assert transport.closed == 1
    assert trio.current_time() == 0.5


async def test_errors_of_closing_come_out_unless_the_body_has_one(autojump_clock: MockClock, edge: Edge) -> None:
    class Broken(type(edge.scripted())):  # type: ignore[misc]
        async def aclose(self) -> None:
            raise OSError("cannot close")

    with pytest.raises(OSError, match="cannot close"):
        async with edge.face.open_client(transport=Broken()):
            pass
    with pytest.raises(ValueError, match="mine"):
        async with edge.face.open_client(transport=Broken()):
            raise ValueError("mine")


async def test_closed_client_refuses_more(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.face.open_client(transport=edge.scripted()) as client:
        pass
    with pytest.raises(RuntimeError):
        await client.get(URL)


async def test_can_be_entered_by_an_exit_stack(autojump_clock: MockClock, edge: Edge) -> None:
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(edge.face.open_client(transport=edge.scripted(answer(200, b"1"))))
        two = await stack.enter_async_context(edge.face.open_client(transport=edge.scripted(answer(200, b"2"))))
        assert [(await each.get(URL)).content for each in (one, two)] == [b"1", b"2"]


# -- its defaults ---------------------------------------------------------------------------------------------------------------


async def test_default_time_outs(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.face.open_client(transport=edge.scripted(hangs()), retry=None) as client:
        with pytest.raises(edge.face.TimedOutError) as caught:
            await client.post(URL)
        assert trio.current_time() == 10
        assert caught.value.seconds == 10
        assert client.timeout == edge.library.Timeout(10.0, pool=None)
    transport = edge.scripted(hangs())
    async with edge.face.open_client(transport=transport, attempt_timeout=math.inf) as client:
        with pytest.raises(edge.face.TimedOutError) as caught:
            await client.get(URL)
        assert trio.current_time() == 40
        assert caught.value.seconds == 30


async def test_default_phase_timeout_follows_the_attempt_timeout(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.face.open_client(transport=edge.scripted(), attempt_timeout=3) as client:
        assert client.timeout == edge.library.Timeout(3.0, pool=None)
    async with edge.face.open_client(transport=edge.scripted(), attempt_timeout=math.inf) as client:
        assert client.timeout == edge.library.Timeout(None)


@pytest.mark.parametrize("given", [7.0, None, (1.0, 2.0, 3.0, 4.0)])
async def test_phase_timeout_that_is_given_is_taken_as_it_is(autojump_clock: MockClock, edge: Edge, given: Any) -> None:
    transport = edge.scripted()
    async with edge.face.open_client(transport=transport, timeout=given) as client:
        assert client.timeout == edge.library.Timeout(given)
        await client.get(URL)
    assert transport.sent[0].extensions["timeout"] == edge.library.Timeout(given).as_dict()


async def test_default_retry_makes_three_attempts_with_full_jitter(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with edge.face.open_client(transport=transport, breaker=None) as client:
            for _ in range(50):
                assert (await client.get(URL)).status_code == 503
                await trio.sleep(60)
    assert len(transport.sent) == 150
    delays = [each.delay for each in recorder.of(trioresil.RetryScheduled)]
    first, second = delays[::2], delays[1::2]
    assert 0 <= min(first) < 0.05
    assert 0.15 < max(first) <= 0.2
    assert 0.3 < max(second) <= 0.4


@pytest.mark.parametrize(("total", "attempt"), [(30.0, 10.0), (45.0, 10.0), (math.inf, 10.0), (6.0, 2.0)])
async def test_default_attempt_timeout_lets_three_attempts_into_the_total(
    autojump_clock: MockClock, edge: Edge, total: float, attempt: float
) -> None:
    async with edge.face.open_client(transport=edge.scripted(hangs()), total_timeout=total, retry=None) as client:
        assert client.timeout == edge.library.Timeout(attempt, pool=None)
        with pytest.raises(edge.face.TimedOutError) as info:
            await client.get(URL)
    assert (info.value.policy, info.value.seconds) == ("http-attempt-timeout", attempt)
    assert trio.current_time() == attempt


async def test_default_backoff_is_at_most_five_seconds(autojump_clock: MockClock, edge: Edge) -> None:
    default = inspect.signature(edge.face.open_client).parameters["retry"].default
    assert default is not inspect.Parameter.empty  # it can be left out
    for name in ("total_timeout", "attempt_timeout", "retry", "breaker", "bulkhead", "bucket", "http2"):
        assert name in inspect.signature(edge.face.open_client).parameters, name
    assert inspect.signature(edge.face.open_client).parameters["total_timeout"].default == 30.0
    assert inspect.signature(edge.face.open_client).parameters["attempt_timeout"].default is None
    assert inspect.signature(edge.face.open_client).parameters["http2"].default is False


async def test_default_budget_is_the_clients(autojump_clock: MockClock, edge: Edge) -> None:
    """A flood of failures is not doubled: after the reserve of 100 retries, a fifth of the calls are repeated."""
    transport = edge.scripted(fails("ConnectError"))
    async with edge.face.open_client(transport=transport, breaker=None) as client:

        async def one() -> None:
            with pytest.raises(edge.library.ConnectError):
                await client.get(URL)

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(one)
    assert 1000 + 100 + 190 <= len(transport.sent) <= 1000 + 100 + 210


async def test_budgets_of_two_clients_are_two(autojump_clock: MockClock, edge: Edge) -> None:
    sent = 0
    for _ in range(2):
        transport = edge.scripted(fails("ConnectError"))
        async with edge.face.open_client(transport=transport, breaker=None) as client:
            for _ in range(40):
                with pytest.raises(edge.library.ConnectError):
                    await client.get(URL)
        sent += len(transport.sent)
    assert sent == 2 * 40 * 3


async def test_default_breaker_grows_its_open_time(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(500))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with edge.face.open_client(transport=transport) as client:
            while len(recorder.of(trioresil.CircuitOpened)) < 8:
                try:
                    await client.get(URL)
                except edge.face.CircuitOpenError as error:
                    await trio.sleep(error.retry_after)
    times = [each.open_for for each in recorder.of(trioresil.CircuitOpened)]
    assert times == sorted(times)
    assert times[0] == 5
    assert times[-1] == 60
    assert transport.sent_at[19] == 0


async def test_default_breaker_needs_twenty_calls_in_thirty_seconds(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(500))
    async with edge.face.open_client(transport=transport) as client:
        for _ in range(60):
            assert (await client.get(URL)).status_code == 500
            await trio.sleep(2)


async def test_post_is_not_repeated_by_default(autojump_clock: MockClock, edge: Edge) -> None:
    for step in (answer(503), answer(500), fails("ReadError"), fails("ReadTimeout"), hangs()):
        transport = edge.scripted(step)
        async with edge.face.open_client(transport=transport) as client:
            with contextlib.suppress(edge.library.TransportError):
                await client.post(URL, json={})
        assert len(transport.sent) == 1


async def test_parts_can_be_replaced_or_switched_off(autojump_clock: MockClock, edge: Edge) -> None:
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(1), on_result=edge.face.failed)
    bulkhead, bucket = trioresil.Bulkhead(1), trioresil.TokenBucket(rate=1, capacity=2)
    transport = edge.scripted(answer(500))
    async with edge.face.open_client(
        transport=transport,
        retry=edge.retry(max_attempts=2),
        breaker=lambda _: breaker,
        bulkhead=lambda _: bulkhead,
        bucket=lambda _: bucket,
        total_timeout=5,
        attempt_timeout=2,
    ) as client:
        await client.get(URL)
        with pytest.raises(edge.face.CircuitOpenError):
            await client.get(URL)
    assert bucket.statistics().granted == 1
    assert bulkhead.statistics().inside == 0
    transport = edge.scripted(answer(500))
    async with edge.face.open_client(transport=transport, retry=None, breaker=None) as client:
        for _ in range(50):
            await client.get(URL)
    assert len(transport.sent) == 50


async def test_options_of_a_request_work(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(503), answer(200))
    async with edge.face.open_client(transport=transport) as client:
        assert (await client.get(URL, extensions=options(retry=False))).status_code == 503
        with pytest.raises(TypeError):
            await client.get(URL, extensions=options(retries=False))


async def test_deadline_and_attempt_can_be_sent(autojump_clock: MockClock, edge: Edge) -> None:
    transport = edge.scripted(answer(429), answer(200))
    async with edge.face.open_client(
        transport=transport, deadline_header="X-Deadline", attempt_header="X-Attempt", retry=edge.retry()
    ) as client:
        await client.get(URL)
    assert [(float(each.headers["x-deadline"]), each.headers["x-attempt"]) for each in transport.sent] == [
        (10, "1"),
        (10, "2"),
    ]


# -- mistakes --------------------------------------------------------------------------------------------------------------------


def test_unknown_argument_is_refused_at_once(edge: Edge) -> None:
    with pytest.raises(TypeError, match="total_timeot"):
        edge.face.open_client(transport=edge.scripted(), total_timeot=3)


@pytest.mark.parametrize(
    ("argument", "value", "kind"),
    [
        ("total_timeout", -1, ValueError),
        ("attempt_timeout", "3", TypeError),
        ("retry", 3, TypeError),
        ("breaker", 3, TypeError),
    ],
)
def test_wrong_argument_is_refused_at_once(edge: Edge, argument: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=argument):
        edge.face.open_client(transport=edge.scripted(), **{argument: value})


def test_positional_arguments_are_refused(edge: Edge) -> None:
    with pytest.raises(TypeError):
        edge.face.open_client("https://api.example")


@pytest.mark.parametrize(
    "pools",
    [{"max_lifetime": 5}, {"min_idle": 2}, {"max_connections_per_origin": 3}, {"uds": "/tmp/s"}, {"http2": True}],
)
def test_parameters_of_the_pool_make_no_sense_with_a_transport(edge: Edge, pools: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(pools))):
        edge.face.open_client(transport=edge.scripted(), **pools)


def test_retries_is_refused_with_a_pointer_to_retry(edge: Edge) -> None:
    with pytest.raises(TypeError, match=r"(?i)retry"):
        edge.face.open_client(retries=3)


async def test_without_a_transport_it_has_a_pool_of_its_own(autojump_clock: MockClock, edge: Edge) -> None:
    async with edge.face.open_client(max_lifetime=60, max_connections_per_origin=3) as client:
        assert isinstance(client, edge.library.AsyncClient)
        assert isinstance(client._transport, edge.face.ResilientTransport)


async def test_mounts_are_made_resilient_or_left_but_never_lost(autojump_clock: MockClock, edge: Edge) -> None:
    mounted = edge.scripted(answer(200, b"mounted"))
    async with edge.face.open_client(transport=edge.scripted(), mounts={"https://other.example": mounted}) as client:
        assert (await client.get("https://other.example/x")).content == b"mounted"
    assert len(mounted.sent) == 1


async def test_closed_admission_holds_for_mounts_and_proxies_too(autojump_clock: MockClock, edge: Edge) -> None:
    """With a proxy all requests go by a mount, so that closing the rest alone would close nothing."""
    mounted = edge.scripted(answer(200, (b"x",) * 3, chunk_takes=1))
    opening = edge.face.open_client(transport=edge.scripted(), mounts={"https://other.example": mounted})
    async with opening as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "https://other.example")
            await trio.sleep(0.5)
            opening.transport.close_admission()
            for url in (URL, "https://other.example"):
                with pytest.raises(edge.face.PoolClosedError):
                    await client.get(url)
            await opening.transport.wait_drained()
            assert trio.current_time() == 3


async def test_proxies_pool_is_closed_though_a_mount_hangs_on_closing(autojump_clock: MockClock, edge: Edge) -> None:
    """The client closes mounts in the order of their patterns: one that hangs must not keep those behind it open."""

    class Hangs(edge.library.AsyncBaseTransport):  # type: ignore[name-defined,misc]
        async def aclose(self) -> None:
            await trio.sleep_forever()

    opening = edge.face.open_client(
        proxy="http://127.0.0.1:9", mounts={"http://sooner.example:99": Hangs()}, trust_env=False
    )
    began = trio.current_time()
    async with opening:
        pass
    assert trio.current_time() - began == 1
    assert [pool.statistics().closed for pool in opening._pools] == [True, True]


def test_unix_socket_is_never_beyond_a_proxy_of_the_environment(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    opening = edge.face.open_client(uds="/run/some.sock")
    assert len(opening._pools) == 1
    with pytest.raises(ValueError, match="uds and proxy"):
        edge.face.open_client(uds="/run/some.sock", proxy="http://127.0.0.1:9")


def test_randomness_can_be_seeded(edge: Edge) -> None:
    """Nothing of its own: the rng is the Retry's and the breaker's."""
    retry = edge.retry(rng=random.Random(1))
    edge.face.open_client(transport=edge.scripted(), retry=retry)
