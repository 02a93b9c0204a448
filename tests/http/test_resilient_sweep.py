"""ResilientTransport under a cancellation at every moment: every permit, probe and body is back, and nothing more is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

import trioresil
from tests.http._scripted import BOTH, URL, Answer, Edge, answer, fails, options
from trioresil._links import passage
from trioresil.testing import Sweep, cancellation_sweep

pytestmark = [BOTH, pytest.mark.slow]
Wrap = Callable[[Any, "Stage"], Any]


def as_it_is(resilient: Any, stage: Stage) -> Any:
    return resilient


@attrs.define
class Stage:
    """Everything that a call may hold, and what must be true of it when nobody calls."""

    edge: Edge
    transport: Any
    bulkhead: trioresil.Bulkhead = attrs.field(factory=lambda: trioresil.Bulkhead(1, name="seats"))
    bucket: trioresil.TokenBucket | None = None
    breaker: trioresil.CircuitBreaker = attrs.field(
        factory=lambda: trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(9), open_for=0.5)
    )
    configuration: dict[str, Any] = attrs.field(factory=dict)
    wrap: Wrap = as_it_is

    def client(self) -> Any:
        """Return a client over all of it."""
        bucket = self.bucket
        resilient = self.edge.resilient(
            self.transport,
            **{
                "bulkhead": lambda _: self.bulkhead,
                "bucket": None if bucket is None else lambda _: bucket,
                "breaker": lambda _: self.breaker,
                "retry": self.edge.retry(),
                **self.configuration,
            },
        )
        return self.edge.library.AsyncClient(transport=self.wrap(resilient, self), timeout=None, trust_env=False)

    def half_open(self) -> None:
        """Open the circuit so that it is half-open when the scenario begins at 1 s."""
        self.breaker.open(1)

    def assert_settled(self) -> None:
        """Assert that nothing is held any more."""
        assert self.transport.in_flight == 0
        assert [each.outcome for each in self.transport.open] == []
        assert all(each.stream is None or each.stream.closings >= 1 for each in self.transport.sent)
        assert self.bulkhead.statistics().inside == 0
        assert self.bulkhead.statistics().waiting == 0
        assert self.breaker.statistics().probes_out == 0
        assert self.breaker.statistics().inside == 0
        if self.bucket is not None:
            assert self.bucket.statistics().waiting == 0

    def no_lost_wakeup(self) -> bool:
        """Tell whether nobody waits for a seat that is free."""
        seats = self.bulkhead.statistics()
        return not (seats.waiting and seats.borrowed < seats.limit)


async def read(client: Any, method: str = "GET", **request: Any) -> bytes:
    """Make a call and read its body."""
    async with client.stream(method, URL, **request) as response:
        return b"".join([part async for part in response.aiter_bytes()])


async def run(sweep: Sweep, stage: Stage, *, victim: Any = None, besides: Any = None, **request: Any) -> None:
    """Let the victim make a call, perhaps beside others, and look at what is left when all is over."""
    sweep.when_quiet(stage.no_lost_wakeup)
    client = stage.client()
    async with trio.open_nursery() as nursery:
        if besides is not None:
            nursery.start_soon(besides, client)
            await trio.sleep(0.125)
        with sweep.victim():
            with contextlib.suppress(stage.edge.library.TransportError, trioresil.TrioresilError):
                await (victim or read)(client, **request)
        ended_at, sent = trio.current_time(), len(stage.transport.sent)
        if besides is None:
            await trio.sleep(50)
            assert len(stage.transport.sent) == sent, f"sent after the end at {ended_at}"
    stage.assert_settled()
    stage.transport._steps[:] = [answer(200, b"well")]
    with trio.fail_after(100):
        assert await read(client, extensions=options(retry=False)) == b"well"
    stage.assert_settled()
    assert stage.breaker.state is trioresil.CircuitState.CLOSED
    await client.aclose()


def sweep_over(scenario: Any, least: int) -> None:
    report = cancellation_sweep(scenario, seeds=range(2))
    assert report.cancelled >= least


# -- the moments of one call ----------------------------------------------------------------------------------------------------


def test_cancelled_in_the_queue_of_the_bulkhead(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        transport = edge.scripted(answer(200, b"first", takes=1), answer(200, b"x"))
        await run(sweep, Stage(edge, transport), besides=read)

    sweep_over(scenario, 10)


def test_cancelled_in_the_queue_of_the_bucket(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(200, b"x")), bucket=trioresil.TokenBucket(rate=1))

        async def other(client: Any) -> None:
            await trio.sleep(0.25)
            await read(client)

        assert stage.bucket is not None
        stage.bucket.acquire_nowait()
        stage.bulkhead.limit = 2
        await run(sweep, stage, besides=other)
        granted = stage.bucket.statistics().granted
        assert granted - 1 - len(stage.transport.sent) in (0, 1)  # 1: cancelled between the grant and the attempt

    sweep_over(scenario, 10)


def test_cancelled_at_the_gate(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(429, retry_after=2), answer(200, b"x")))
        stage.bulkhead.limit = 3

        async def told(client: Any) -> None:
            assert (await client.get(URL, extensions=options(retry=False))).status_code == 429
            await trio.sleep(0.25)
            await read(client)

        await run(sweep, stage, besides=told)

    sweep_over(scenario, 10)


def test_cancelled_in_flight_as_a_probe(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(200, b"x", takes=1)))
        stage.half_open()
        await trio.sleep(1)
        await run(sweep, stage)

    sweep_over(scenario, 10)


def test_cancelled_in_flight_with_both_time_outs(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(200, b"x", takes=1)))
        stage.configuration = {"total_timeout": 20, "attempt_timeout": 10}
        await run(sweep, stage)

    sweep_over(scenario, 10)


def test_cancelled_as_time_runs_out(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        for configuration in ({"total_timeout": 1}, {"attempt_timeout": 1}):
            stage = Stage(edge, edge.scripted(answer(200, b"x", takes=5), answer(200, b"y")))
            stage.configuration = configuration
            if configuration == {"total_timeout": 1}:
                await run(sweep, stage)

    sweep_over(scenario, 5)


def test_cancelled_while_attempts_time_out_and_are_repeated(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(200, takes=5), answer(200, takes=5), answer(200, b"y")))
        stage.configuration = {"attempt_timeout": 1}
        await run(sweep, stage)

    sweep_over(scenario, 20)


def test_cancelled_while_it_drains_and_closes(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        sorry = answer(503, (b"so", b"rry"), chunk_takes=0.25, close_takes=0.25)
        stage = Stage(edge, edge.scripted(sorry, answer(200, b"x", chunk_takes=0.25)))
        await run(sweep, stage)

    sweep_over(scenario, 15)


def test_cancelled_while_it_drains_more_than_it_may(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        sorry = answer(503, (b"x" * 40_000,) * 3, close_takes=5)
        await run(sweep, Stage(edge, edge.scripted(sorry, answer(200, b"x"))))

    sweep_over(scenario, 12)


@pytest.mark.parametrize(
    "step", [fails("ReadError", 0.25), answer(503, b"x"), answer(429, b"x", retry_after=2)], ids=str
)
def test_cancelled_in_the_wait_between_attempts(edge: Edge, step: Any) -> None:
    async def scenario(sweep: Sweep) -> None:
        await run(sweep, Stage(edge, edge.scripted(step, step, answer(200, b"x"))))

    sweep_over(scenario, 10)


def test_cancelled_after_429_in_the_buckets_queue(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(429, b"slow", retry_after=2), answer(200, b"x")))
        stage.bucket = trioresil.TokenBucket(rate=1)
        stage.bulkhead.limit = 2

        async def other(client: Any) -> None:
            await trio.sleep(0.25)
            await read(client)

        await run(sweep, stage, besides=other)

    sweep_over(scenario, 10)


def test_cancelled_with_the_body_in_hand(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(200, (b"a", b"b"), chunk_takes=0.25, close_takes=0.25)))
        stage.half_open()
        await trio.sleep(1)
        await run(sweep, stage)

    sweep_over(scenario, 12)


@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")  # of the library's own
def test_cancelled_with_a_body_that_is_broken_off(edge: Edge) -> None:
    async def half(client: Any) -> None:
        async with client.stream("GET", URL) as response:
            async for _ in response.aiter_bytes():
                break

    async def scenario(sweep: Sweep) -> None:
        await run(sweep, Stage(edge, edge.scripted(answer(200, (b"a", b"b"), close_takes=0.25))), victim=half)

    sweep_over(scenario, 8)


def test_cancelled_before_a_rejection_gives_a_copy(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        bulkhead = trioresil.Bulkhead(1, max_wait=0)
        stage = Stage(
            edge, edge.scripted(answer(503, b"sorry", takes=0.5), answer(200, b"x", takes=2)), bulkhead=bulkhead
        )

        async def thief(client: Any) -> None:
            await trio.sleep(0.75)
            await read(client, extensions=options(retry=False))

        await run(sweep, stage, besides=thief)

    sweep_over(scenario, 8)


def test_cancelled_as_the_client_is_left(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        transport = edge.scripted(answer(200, b"x"))
        with sweep.victim():
            async with edge.library.AsyncClient(transport=edge.resilient(transport), trust_env=False) as client:
                await read(client)
        assert transport.closed == transport.entered
        assert transport.open == []

    sweep_over(scenario, 3)


def test_users_stream_is_not_read_twice_whenever_it_is_cancelled(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        begun: list[int] = []

        async def body() -> Any:
            begun.append(1)
            yield b"part"

        transport = edge.scripted(fails("ConnectError", 0.25), answer(503), answer(200, b"x"))
        await run(sweep, Stage(edge, transport), method="PUT", content=body())
        assert len(begun) <= 1

    sweep_over(scenario, 8)


def test_cancellation_tells_whether_anything_was_sent(edge: Edge) -> None:
    """As a Timeout around the call would read it."""

    async def scenario(sweep: Sweep) -> None:
        stage = Stage(edge, edge.scripted(answer(503, b"x", takes=0.25), answer(200, b"x", takes=0.25)))
        told: list[tuple[bool | None, int]] = []

        async def victim(client: Any) -> None:
            try:
                response = await client.send(client.build_request("GET", URL), stream=True)
            except BaseException as exc:
                told.append((passage(exc).started, len(stage.transport.sent)))
                raise
            with trio.CancelScope(shield=True):
                await response.aclose()

        await run(sweep, stage, victim=victim)
        for started, sent in told:
            assert started is not (not sent)  # what was sent isn't called unstarted, nor the other way round

    sweep_over(scenario, 8)


def test_budget_is_paid_from_only_for_what_is_scheduled(edge: Edge) -> None:
    async def scenario(sweep: Sweep) -> None:
        budget = trioresil.RetryBudget(ratio=0.5, min_per_second=1, window=100)
        recorder = trioresil.testing.Recorder()
        transport = edge.scripted(answer(503), fails("ReadError"), answer(200))
        client = edge.client(transport, retry=edge.retry(budget=budget))
        with trioresil.instrument(recorder), sweep.victim():
            await read(client)
        scheduled = len(recorder.of(trioresil.RetryScheduled))
        assert budget.statistics().withdrawn == scheduled
        assert 0 <= scheduled - max(0, len(transport.sent) - 1) <= 1
        assert not recorder.of(trioresil.RetryGaveUp)
        assert transport.open == []

    sweep_over(scenario, 5)


# -- the net itself ------------------------------------------------------------------------------------------------------------


def planted(edge: Edge, base: type) -> type:
    """Return a class of transports that wrap another and make one mistake."""
    return type(base.__name__, (base, edge.library.AsyncBaseTransport), {})


class Mistaken:
    """Wraps a transport; subclasses make one mistake each."""

    def __init__(self, inner: Any, stage: Stage) -> None:
        self.inner = inner
        self.stage = stage

    async def aclose(self) -> None:
        await self.inner.aclose()


class KeepsItsSeat(Mistaken):
    async def handle_async_request(self, request: Any) -> Any:
        await self.stage.bulkhead.acquire()
        try:
            response = await self.inner.handle_async_request(request)
        except Exception:
            self.stage.bulkhead.release()
            raise
        self.stage.bulkhead.release()
        return response


class KeepsItsProbe(Mistaken):
    async def handle_async_request(self, request: Any) -> Any:
        admission = self.stage.breaker.admit()
        admission.__enter__()
        try:
            response = await self.inner.handle_async_request(request)
        except Exception as exc:
            admission.__exit__(type(exc), exc, exc.__traceback__)
            raise
        admission.__exit__(None, None, None)
        return response


class LeavesTheBodyOpen(Mistaken):
    async def handle_async_request(self, request: Any) -> Any:
        response = await self.inner.handle_async_request(request)
        await trio.lowlevel.checkpoint()
        return response


class SendsOnceMore(Mistaken):
    async def handle_async_request(self, request: Any) -> Any:
        try:
            return await self.inner.handle_async_request(request)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await (await self.inner.handle_async_request(request)).stream.aclose()
            raise


class SwallowsTheCancellation(Mistaken):
    async def handle_async_request(self, request: Any) -> Any:
        try:
            return await self.inner.handle_async_request(request)
        except trio.Cancelled:
            return self.stage.edge.library.Response(500)


@pytest.mark.filterwarnings("ignore:.*an answer was never closed:ResourceWarning")
@pytest.mark.parametrize(
    ("mistake", "limits"),
    [
        (KeepsItsSeat, {"bulkhead": None}), (KeepsItsProbe, {"breaker": None}), (LeavesTheBodyOpen, {}),
        (SendsOnceMore, {}), (SwallowsTheCancellation, {}),
    ],
)  # fmt: skip
def test_net_catches_a_planted_mistake(edge: Edge, mistake: type, limits: dict[str, Any]) -> None:
    async def scenario(sweep: Sweep) -> None:
        step: Answer = answer(200, b"x", takes=0.5)
        stage = Stage(edge, edge.scripted(step), configuration=limits, wrap=planted(edge, mistake))
        stage.half_open()
        await trio.sleep(1)
        if mistake is SendsOnceMore:  # it is noticed by what was sent after the end
            client = stage.client()
            with sweep.victim():
                await read(client)
            assert len(stage.transport.sent) <= 1
            return
        await run(sweep, stage)

    assert cancellation_sweep(scenario, seeds=range(1), collect=True).failures
