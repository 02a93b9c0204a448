"""What the tests of the live page share: an open page with a client, and its stream of events, read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import trio

import trioresil
from trioresil.dashboard import Dashboard, open_dashboard

TOKEN = "a token of some length"
QUICK = 1.0
"""Seconds within which the page shows a change; tests wait ten times as long."""


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[tuple[Dashboard, httpx.AsyncClient]]:
    """A page on a free port of loopback, and a client for it."""
    async with open_dashboard(port=0, **options) as dashboard:
        async with httpx.AsyncClient(base_url=dashboard.url, timeout=20) as client:
            yield dashboard, client


class Events:
    """The events of a stream, name and data, read from a bare socket: a browser that goes away in the middle of it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> tuple[str, Any]:
        name = ""
        while True:
            line = await self._line()
            if line.startswith(b"event: "):
                name = line.removeprefix(b"event: ").decode()
            elif line.startswith(b"data: "):  # no event is cut in two by the chunks, whose sizes are lines between
                return name, json.loads(line.removeprefix(b"data: "))

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            data = await self._stream.receive_some()
            if not data:
                raise StopAsyncIteration
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.rstrip(b"\r")


@asynccontextmanager
async def events_of(dashboard: Dashboard) -> AsyncIterator[Events]:
    """The events that a page tells, until the block is left."""
    async with await trio.open_tcp_stream(*dashboard.address) as stream:
        await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield Events(stream)


async def state_of(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Wait until a policy is told of, and return it."""
    with trio.fail_after(10 * QUICK):
        while True:
            state = (await client.get("/api/state")).raise_for_status().json()
            for policy in state["policies"]:
                if policy["name"] == name:
                    found: dict[str, Any] = policy
                    return found
            await trio.sleep(0.05)


async def fail(*args: object) -> None:
    raise ConnectionError("down")


async def succeed(*args: object) -> str:
    await trio.lowlevel.checkpoint()
    return "fine"


async def fail_through(policy: trioresil.abc.Policy) -> None:
    """Call what fails, whatever comes out."""
    with suppress(ConnectionError, trioresil.RejectedError):
        await policy.call(fail)


async def raw(dashboard: Dashboard, request: bytes) -> bytes:
    """Send bytes and return what comes until the connection is closed."""
    stream = await trio.open_tcp_stream(*dashboard.address)
    async with stream:
        await stream.send_all(request)
        answer = bytearray()
        with trio.fail_after(10):
            try:
                async for chunk in stream:
                    answer += chunk
            except trio.BrokenResourceError:
                pass  # it was reset, as it may be while a request is still being sent
        return bytes(answer)
