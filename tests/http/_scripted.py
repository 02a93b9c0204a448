"""A transport that answers as it is told, on the virtual clock, and remembers everything; and the libraries to try it with.

Nothing here has a socket: each request takes the next step of a script, the last of which repeats. What is remembered is when
each request came, what it carried, how much of its answer was read, and when that was closed.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import attrs
import pytest
import trio

import trioresil
from trioresil._http._edge_errors import mark_connecting
from trioresil._links import mark_unstarted

URL = "https://api.example/items"
ORIGIN = "https://api.example"

UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")


@attrs.frozen(kw_only=True)
class Answer:
    """A step: an answer."""

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    chunks: tuple[bytes, ...] = ()
    takes: float = 0.0
    """Seconds until the head is there."""
    chunk_takes: float = 0.0
    """Seconds before each chunk."""
    breaks: str | None = None
    """Name of the error that ends the body."""
    close_takes: float = 0.0
    """Seconds that closing takes."""
    extensions: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Failure:
    """A step: an error, by its name in the client library or as an object; after some seconds."""

    error: str | BaseException
    takes: float = 0.0


@attrs.frozen(kw_only=True)
class Queue:
    """A step: waits in the transport's own queue first. A cancellation there says that nothing was sent."""

    seconds: float
    then: Any
    tells: bool = True
    dials: bool = False
    """Whether the time goes into making a connection: nothing was sent, and yet it tells of the other side."""


Step = Answer | Failure | Queue


def answer(
    status: int = 200, body: bytes | tuple[bytes, ...] = b"", *, retry_after: object = None, **rest: Any
) -> Answer:
    """Return a step that answers."""
    headers = dict(rest.pop("headers", {}))
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    chunks = body if isinstance(body, tuple) else (body,) if body else ()
    return Answer(status=status, headers=headers, chunks=chunks, **rest)


def fails(error: str | BaseException, takes: float = 0.0) -> Failure:
    """Return a step that fails."""
    return Failure(error=error, takes=takes)


def hangs() -> Answer:
    """Return a step whose head never comes."""
    return Answer(takes=math.inf)


@attrs.define(eq=False)
class Sent:
    """One request that reached the transport, and what became of it."""

    at: float
    request: Any
    method: str
    url: str
    headers: dict[str, str]
    extensions: dict[str, Any]
    body: bytes | None = None
    answered_at: float | None = None
    stream: Any = None
    outcome: str = "in flight"
    """in flight, answered, failed, cancelled."""

    @property
    def bytes_read(self) -> int:
        """How much of the answer's body was handed over."""
        return 0 if self.stream is None else self.stream.bytes_read

    @property
    def closed_at(self) -> float | None:
        """When the answer was closed."""
        return None if self.stream is None else self.stream.closed_at


class _Body:
    """An answer's body, as written."""

    def __init__(self, library: Any, step: Answer) -> None:
        self.library = library
        self.step = step
        self.bytes_read = 0
        self.closings = 0
        self.closed_at: float | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Chunks(self)

    async def aclose(self) -> None:
        self.closings += 1
        try:
            if self.step.close_takes:
                await trio.sleep(self.step.close_takes)
        finally:
            if self.closed_at is None:
                self.closed_at = trio.current_time()


class _Chunks:
    """Iterates over a body: no generator, so that it may be broken off."""

    def __init__(self, body: _Body) -> None:
        self._body = body
        self._left = list(body.step.chunks)

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        step = self._body.step
        if not self._left:
            if step.breaks is not None:
                raise getattr(self._body.library, step.breaks)("the body broke")
            raise StopAsyncIteration
        if step.chunk_takes:
            await trio.sleep(step.chunk_takes)
        else:
            await trio.lowlevel.checkpoint()
        self._body.bytes_read += len(self._left[0])
        return self._left.pop(0)


class _Scripted:
    """The transport: takes a step for each request. A step may also be a function (request, number from 1) -> step."""

    library: Any

    def __init__(self, *steps: Step | Callable[[Any, int], Step]) -> None:
        self._steps = list(steps) or [answer()]
        self.sent: list[Sent] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.entered = 0
        self.closed = 0

    @property
    def sent_at(self) -> list[float]:
        """When each request came."""
        return [each.at for each in self.sent]

    @property
    def open(self) -> list[Sent]:
        """The answers that nobody has closed."""
        return [each for each in self.sent if each.stream is not None and each.closed_at is None]

    def add(self, *steps: Step) -> None:
        """Add steps to the end."""
        self._steps += steps

    async def __aenter__(self) -> Any:
        self.entered += 1
        return self

    async def aclose(self) -> None:
        self.closed += 1

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def handle_async_request(self, request: Any) -> Any:
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        if not isinstance(step, Step):
            step = step(request, len(self.sent) + 1)
        if isinstance(step, Queue):
            step = await self._queued(step)
        extensions = dict(request.extensions)
        headers = {key.lower(): value for key, value in request.headers.items()}
        sent = Sent(trio.current_time(), request, request.method, str(request.url), headers, extensions)
        self.sent.append(sent)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            response = await self._perform(sent, step)
            sent.outcome = "answered"
            return response
        except Exception:
            sent.outcome = "failed"
            raise
        except BaseException:
            sent.outcome = "cancelled"
            raise
        finally:
            self.in_flight -= 1

    async def _queued(self, step: Queue) -> Step:
        try:
            await trio.sleep(step.seconds)
        except BaseException as exc:
            if step.dials:
                mark_connecting(exc)
            elif step.tells:
                mark_unstarted(exc)
            raise
        return step.then

    async def _perform(self, sent: Sent, step: Any) -> Any:
        if not (isinstance(step, Failure) and step.error in UNSENT):
            sent.body = b"".join([part async for part in sent.request.stream])
        if step.takes:
            await trio.sleep(step.takes)
        else:
            await trio.lowlevel.checkpoint()
        if isinstance(step, Failure):
            raise step.error if isinstance(step.error, BaseException) else made(self.library, step.error)
        sent.answered_at = trio.current_time()
        sent.stream = _body_class(self.library.__name__)(self.library, step)
        return self.library.Response(
            step.status, headers=dict(step.headers), stream=sent.stream, extensions=dict(step.extensions)
        )


def made(library: Any, name: str) -> Exception:
    """Return a new error of a client library."""
    if name in ("StreamConsumed", "StreamClosed"):
        return getattr(library, name)()
    return getattr(library, name)("as it was told")


@functools.cache
def _body_class(library: str) -> Any:
    return type("ScriptedBody", (_Body, importlib.import_module(library).AsyncByteStream), {})


@functools.cache
def _transport_class(library: str) -> Any:
    module = importlib.import_module(library)
    return type("Scripted", (_Scripted, module.AsyncBaseTransport), {"library": module})


OFF: dict[str, Any] = {
    "retry": None,
    "breaker": None,
    "bulkhead": None,
    "bucket": None,
    "total_timeout": math.inf,
    "attempt_timeout": math.inf,
}


@attrs.frozen
class Edge:
    """One client library, and trioresil's face to it."""

    name: str

    @property
    def library(self) -> Any:
        """The client library's module."""
        return importlib.import_module(self.name)

    @property
    def face(self) -> Any:
        """The module trioresil.httpx or trioresil.httpx2."""
        return importlib.import_module(f"trioresil.{self.name}")

    def scripted(self, *steps: Any) -> Any:
        """Return a transport that goes by these steps."""
        return _transport_class(self.name)(*steps)

    def resilient(self, transport: Any, **configuration: Any) -> Any:
        """Return a ResilientTransport with everything off that isn't given."""
        return self.face.ResilientTransport(transport, **{**OFF, **configuration})

    def client(self, transport: Any, **configuration: Any) -> Any:
        """Return a client over `resilient(transport, ...)`."""
        return self.library.AsyncClient(transport=self.resilient(transport, **configuration), timeout=None)

    def retry(self, **configuration: Any) -> trioresil.Retry:
        """Return a Retry that waits exactly 1 s, if not told otherwise, for what HTTP says is worth it."""
        face = self.face
        given = {"on": face.transient, "on_result": face.transient, "delay_hint": face.retry_after, "backoff": [1.0]}
        return trioresil.Retry(**{**given, **configuration})

    def error(self, name: str) -> Exception:
        """Return a new error of the client library."""
        return made(self.library, name)

    def request(self, method: str = "GET", url: str = URL, **rest: Any) -> Any:
        """Return a request."""
        return self.library.Request(method, url, **rest)

    def response(self, status: int = 200, request: Any = None, **rest: Any) -> Any:
        """Return an answer to a request, or to none."""
        return self.library.Response(status, request=request, **rest)


EDGES = [Edge("httpx"), Edge("httpx2")]
BOTH = pytest.mark.parametrize("edge", EDGES, ids=[each.name for each in EDGES])


def options(**given: Any) -> dict[str, Any]:
    """Return the extensions of a request that carries these RequestOptions."""
    return {"trioresil": given}


class Failing(Exception):
    """What no library knows."""
