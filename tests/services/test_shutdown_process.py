"""open_shutdown in a real process, stopped by real signals, while requests keep coming."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

import trioresil.httpx

ROOT = Path(__file__).parents[2]
RATE = 200
PATIENCE = 60  # for a machine that is busy

pytestmark = pytest.mark.slow


class Process:
    """The service as a child process."""

    def __init__(self, child: trio.Process) -> None:
        self._child = child
        self._output = b""

    async def line(self) -> str:
        assert self._child.stdout is not None
        while b"\n" not in self._output:
            chunk = await self._child.stdout.receive_some()
            assert chunk, "it said nothing more"
            self._output += chunk
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._child.send_signal(number)

    async def ended(self) -> tuple[int, Any]:
        """Return its exit code and what it said at the end."""
        said = json.loads(await self.line())
        return await self._child.wait(), said


@contextlib.asynccontextmanager
async def running(lead: float, grace: float, trigger: str = "wait") -> AsyncIterator[tuple[Process, str]]:
    """Start the service; the process and its URL. It doesn't outlive the block."""
    command = [sys.executable, "-m", "tests.services._draining_service", str(lead), str(grace), trigger]
    child = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        with trio.fail_after(PATIENCE):
            process = Process(child)
            yield process, await process.line()
    finally:
        child.kill()
        with trio.CancelScope(shield=True):
            await child.wait()


@attrs.frozen
class Answer:
    """What one request came to."""

    sent_at: float
    """When it last went out to the network: the client itself may be late."""
    status: int | None
    error: str


async def ask(client: httpx.AsyncClient, path: str, answers: list[Answer]) -> None:
    sent_at = trio.current_time()

    async def trace(event: str, info: object) -> None:
        nonlocal sent_at
        if event in ("connection.connect_tcp.started", "http11.send_request_headers.started"):
            sent_at = trio.current_time()

    try:
        status, error = (await client.get(path, extensions={"trace": trace})).status_code, ""
    except httpx.TransportError as exc:
        status, error = None, repr(exc)
    answers.append(Answer(sent_at, status, error))


async def keep_asking(client: httpx.AsyncClient, seconds: float, answers: list[Answer]) -> None:
    """Send RATE requests a second, in time, whatever becomes of those before; return when all are answered."""
    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(int(RATE * seconds)):
            await trio.sleep_until(began_at + number / RATE)
            nursery.start_soon(ask, client, "/work", answers)


async def until_not_ready(client: httpx.AsyncClient) -> None:
    while (await client.get("/readyz")).status_code == 200:  # noqa: ASYNC110 - another process has no events
        await trio.sleep(0.01)


async def until_begun(client: httpx.AsyncClient) -> None:
    while (await client.get("/begun")).status_code != 200:  # noqa: ASYNC110 - another process has no events
        await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def plain_client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=500)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE) as client:
        yield client


@contextlib.asynccontextmanager
async def resilient_client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=500)
    async with trioresil.httpx.open_client(base_url=url, limits=limits, retry=None, breaker=None) as client:
        yield client


@pytest.mark.parametrize(
    ("open_client", "lead", "trigger"),
    [
        (plain_client, 2, "wait"),
        (resilient_client, 2, "wait"),
        (resilient_client, 2, "wait_drained"),
        (resilient_client, 8, "wait"),
    ],
)
async def test_no_request_is_lost_while_more_keep_coming(open_client: Any, lead: float, trigger: str) -> None:
    answers: list[Answer] = []
    async with running(lead=lead, grace=10, trigger=trigger) as (process, url), open_client(url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_asking, client, 4, answers)
            await trio.sleep(1)
            stopped_at = trio.current_time()
            process.stop()
        code, said = await process.ended()

    assert len(answers) == 4 * RATE
    served = [each for each in answers if each.status == 200]
    refused = [each for each in answers if each.status != 200]
    before_the_closing = [each for each in refused if each.sent_at < stopped_at + lead - 0.5]
    assert before_the_closing == []
    assert {each.status for each in refused} <= {None, 503}
    assert bool(refused) == (lead == 2)  # three seconds' worth of requests came after the signal
    assert said["started"] == said["finished"] == len(served)
    assert (said["reason"], said["cancelled"], said["running"], code) == ("SIGTERM", None, [], 0)
    assert lead <= said["seconds"] < lead + 10  # Hypercorn may keep a connection until its own patience is over


async def test_not_ready_at_once_and_serving_on() -> None:
    answers: list[Answer] = []
    async with running(lead=2, grace=10) as (process, url), plain_client(url) as client:
        assert (await client.get("/readyz")).status_code == 200
        process.stop()
        await until_not_ready(client)
        await ask(client, "/work", answers)
        assert [each.status for each in answers] == [200]
        code, said = await process.ended()
    assert (code, said["finished"]) == (0, 1)


async def test_what_takes_longer_than_the_lead_is_finished_within_grace() -> None:
    answers: list[Answer] = []
    async with running(lead=0, grace=10) as (process, url), plain_client(url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client, "/work", answers)
            await until_begun(client)
            process.stop()
        code, said = await process.ended()
    assert [each.status for each in answers] == [200]
    assert (code, said["started"], said["finished"]) == (0, 1, 1)


async def test_what_never_ends_is_cancelled_when_grace_is_over() -> None:
    answers: list[Answer] = []
    async with running(lead=0.25, grace=0.5) as (process, url), plain_client(url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client, "/stuck", answers)
            await until_begun(client)
            process.stop()
        code, said = await process.ended()
    assert [each.status for each in answers] == [None]
    assert (code, said["running"], said["started"], said["finished"]) == (3, ["requests"], 1, 0)
    assert said["cancelled"] == "SIGTERM, and its grace of 0.5 s is over"
    assert 0.75 <= said["seconds"] < 5


async def test_second_signal_ends_it_at_once() -> None:
    answers: list[Answer] = []
    async with running(lead=100, grace=100) as (process, url), plain_client(url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client, "/stuck", answers)
            await until_begun(client)
            process.stop()
            await until_not_ready(client)
            process.stop()
        code, said = await process.ended()
    assert (code, said["running"], said["cancelled"]) == (3, ["requests"], "SIGTERM, then SIGTERM")
    assert [each.status for each in answers] == [None]


async def test_interrupt_skips_the_lead() -> None:
    async with running(lead=100, grace=100) as (process, _):
        process.stop(signal.SIGINT)
        code, said = await process.ended()
    assert (code, said["reason"], said["cancelled"]) == (0, "SIGINT", None)
    assert said["seconds"] < 10
