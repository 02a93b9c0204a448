"""Starlette on Hypercorn's Trio worker: /metrics shows what request handlers do, with instrument_run in the lifespan."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import hypercorn.config
import hypercorn.trio
import prometheus_client
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import trioresil
from trioresil import Bulkhead, CircuitBreaker, Pipeline, Retry
from trioresil.telemetry import PrometheusInstrument


def application(registry: prometheus_client.CollectorRegistry) -> Starlette:
    pipeline = Pipeline(Retry(on=OSError, backoff=[0]), CircuitBreaker(name="up"), Bulkhead(10, name="up"), name="up")

    async def work(request: Request) -> Response:
        answers = iter([ConnectionError(), None])

        async def upstream() -> str:
            answer = next(answers)
            if answer is not None:
                raise answer
            return "hello"

        return PlainTextResponse(await pipeline.call(upstream))

    async def metrics(request: Request) -> Response:
        text = prometheus_client.generate_latest(registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        trioresil.instrument_run(PrometheusInstrument(registry))
        yield

    return Starlette(routes=[Route("/", work), Route("/metrics", metrics)], lifespan=lifespan)


def test_a_handlers_calls_and_what_never_opened_are_in_metrics() -> None:
    texts: list[str] = []

    async def main() -> None:
        config = hypercorn.config.Config.from_mapping(bind=["127.0.0.1:0"], graceful_timeout=1, loglevel="CRITICAL")
        shut_down = trio.Event()

        async def serve(task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
            app: Any = application(prometheus_client.CollectorRegistry())
            await hypercorn.trio.serve(app, config, shutdown_trigger=shut_down.wait, task_status=task_status)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(serve)
                async with httpx.AsyncClient(trust_env=False) as client:
                    texts.extend([(await client.get(address + path)).text for path in ("/", "/", "/metrics")])
                shut_down.set()

    trio.run(main)
    assert texts[:2] == ["hello", "hello"]
    lines = texts[2].splitlines()
    assert 'trioresil_call_duration_seconds_count{outcome="success",policy="up"} 2.0' in lines
    assert 'trioresil_retries_total{policy="retry"} 2.0' in lines
    assert 'trioresil_bulkhead_waiting{policy="up"} 0.0' in lines
    assert 'trioresil_circuit_breaker_state{policy="up",state="closed"} 1.0' in lines
    assert 'trioresil_circuit_breaker_opened_total{policy="up"} 0.0' in lines
