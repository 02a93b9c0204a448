"""instrument_run in an ASGI lifespan hears the request handlers, whose tasks are no children of the lifespan's.

A real server on loopback: Starlette under Hypercorn's Trio worker, and httpx as its client.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import hypercorn.config
import hypercorn.trio
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import trioresil
from trioresil import Bulkhead, Pipeline, PolicySeen, Retry, RetryScheduled, Timeout, _instruments
from trioresil.testing import Recorder


def application(in_lifespan: Any) -> Starlette:
    """Return an app whose handler calls through a pipeline; the first attempt of each request fails."""
    pipeline = Pipeline(Timeout(5), Retry(on=ConnectionError, backoff=[0]), Bulkhead(10), name="upstream")

    async def handler(request: Request) -> PlainTextResponse:
        answers = iter([ConnectionError(), None])

        async def upstream() -> str:
            answer = next(answers)
            if answer is not None:
                raise answer
            return "hello"

        return PlainTextResponse(await pipeline.call(upstream))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with in_lifespan():
            yield

    return Starlette(routes=[Route("/", handler)], lifespan=lifespan)


def serve_two_requests(in_lifespan: Any) -> list[str]:
    """Run the server in a run of its own, make two requests, shut it down, and return the answers."""
    answers: list[str] = []

    async def main() -> None:
        config = hypercorn.config.Config.from_mapping(bind=["127.0.0.1:0"], graceful_timeout=1, loglevel="CRITICAL")
        shut_down = trio.Event()

        async def serve(task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
            app: Any = application(in_lifespan)
            await hypercorn.trio.serve(app, config, shutdown_trigger=shut_down.wait, task_status=task_status)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(serve)
                async with httpx.AsyncClient(trust_env=False) as client:
                    for _ in range(2):
                        response = await client.get(address)
                        answers.append(response.text)
                shut_down.set()

    trio.run(main)
    return answers


def test_instrument_run_in_a_lifespan_hears_the_request_handlers() -> None:
    recorder = Recorder()

    @contextlib.contextmanager
    def in_lifespan() -> Any:
        trioresil.instrument_run(recorder)
        yield

    assert serve_two_requests(in_lifespan) == ["hello", "hello"]
    assert [each.outcome for each in recorder.of(trioresil.CallFinished)] == ["success", "success"]
    assert [each.attempt for each in recorder.of(RetryScheduled)] == [1, 1]
    assert [each.name for each in recorder.of(PolicySeen)] == ["upstream", "timeout", "retry", "bulkhead"]
    assert _instruments.installed == 0


def test_a_block_in_a_lifespan_would_not() -> None:
    recorder = Recorder()
    assert serve_two_requests(lambda: trioresil.instrument(recorder)) == ["hello", "hello"]
    assert recorder.events == []
    assert _instruments.installed == 0
