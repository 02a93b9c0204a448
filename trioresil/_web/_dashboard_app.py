"""The ASGI application of the live page: the page itself, its events, its state as JSON, metrics, health, and control."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, Final, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._policies.circuit_breaker import CircuitBreaker
from .._services.health import HealthMonitor
from ._dashboard_gate import Gate, small_body
from ._dashboard_pulse import Pulse
from ._dashboard_streams import Document, EventStream, Readers, to_json
from ._health_app import health_app

CONTROL_HEADER: Final = "x-trioresil-control"
ACTIONS: Final = ("isolate", "release", "reset")
PROBED: Final = ("/healthz", "/readyz", "/livez")

_STATIC: Final = {
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "cards.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class _Isolation(Protocol):
    def release(self) -> None: ...


def _is_circuit(policy: Any) -> bool:
    """Tell whether it is one of ours. A shared one is known by its name, so that nothing imports it for this."""
    shared = type(policy).__name__ == "SharedCircuitBreaker" and type(policy).__module__.startswith("trioresil")
    return shared or isinstance(policy, CircuitBreaker)


class Control:
    """What the page may do to circuits, if it is allowed to do anything."""

    def __init__(self, pulse: Pulse, *, allowed: bool) -> None:
        self._pulse = pulse
        self.token: str | None = secrets.token_urlsafe(24) if allowed else None
        self._isolations: dict[int, _Isolation] = {}

    def held(self) -> list[int]:
        """Return the numbers of the circuits that the page holds open."""
        return sorted(self._isolations)

    def perform(self, action: str, number: int) -> str | None:
        """Do it; return what is wrong if it can't be done."""
        breaker = self._pulse.policy(number)
        if not _is_circuit(breaker):
            return "there is no such circuit"
        if action == "isolate":
            if number not in self._isolations:
                self._isolations[number] = breaker.isolate()
        elif action == "release":
            isolation = self._isolations.pop(number, None)
            if isolation is None:
                return "this page does not hold it open"
            isolation.release()
        else:
            try:
                breaker.reset()
            except RuntimeError as exc:  # a shared one whose engine is closed
                return str(exc)
        return None

    def release_all(self) -> None:
        """Let go of every circuit: nobody could do it once the page is closed."""
        while self._isolations:
            self._isolations.popitem()[1].release()


class DashboardApp:
    """The application, with all that its answers are made of.

    Args:
      pulse (Pulse): what it shows.
      title (str): what the page is called.
      host (str): the address that was bound.
      token (str): what lets people in; None: loopback needs none.
      allow_control (bool): whether circuits may be isolated and reset from the page.
      health (HealthMonitor): answers /healthz, /readyz and /livez; None: they are not served.
      max_readers (int): so many may read /events at once.
      metrics (async () -> (bytes, str)): what /metrics says, and its content type; None: the package for it is missing.
      refresh ((number) -> object): shows at once what became of a circuit.
    """

    def __init__(
        self,
        pulse: Pulse,
        *,
        title: str,
        host: str,
        token: str | None,
        allow_control: bool,
        health: HealthMonitor | None,
        max_readers: int,
        metrics: Callable[[], Awaitable[tuple[bytes, str]]] | None,
        refresh: Callable[[int], object],
    ) -> None:
        self.control = Control(pulse, allowed=allow_control)
        self.readers = Readers(pulse, self._hello, max_readers)
        self._title = title
        self._history = pulse.history
        self._metrics = metrics
        self._refresh = refresh
        static = files(__package__).joinpath("static")
        self._files = {f"/{name}": (static.joinpath(name).read_bytes(), kind) for name, kind in _STATIC.items()}
        self._files["/"] = (static.joinpath("index.html").read_bytes(), "text/html; charset=utf-8")
        application = Starlette(routes=self._routes(health))
        application.router.redirect_slashes = False  # it would send people to whichever host they had asked for
        self.asgi = Gate(
            application,
            token=token,
            host=host,
            login=static.joinpath("login.html").read_bytes(),
            public=frozenset({"/style.css", "/icon.svg", *(() if health is None else PROBED)}),
        )

    def _routes(self, health: HealthMonitor | None) -> list[BaseRoute]:
        routes: list[BaseRoute] = [Route(path, self._file) for path in self._files]
        routes += [
            Route("/events", self._events),
            Route("/api/state", self._state),
            Route("/metrics", self._show_metrics),
        ]
        if self.control.token is not None:
            routes.append(Route("/api/control", self._act, methods=["POST"]))
        if health is None:
            return routes
        app = health_app(health)
        return [*routes, *(Route(path, partial(self._probe, app)) for path in PROBED)]

    def _hello(self) -> Mapping[str, Any]:
        return {
            "title": self._title,
            "history": self._history,
            "control": self.control.token,
            "held": self.control.held(),
        }

    async def _file(self, request: Request) -> Response:
        body, kind = self._files[request.scope["path"]]
        return Response(body, media_type=kind)

    async def _events(self, request: Request) -> Any:
        return _Events(request, self.readers)

    async def _state(self, request: Request) -> Any:
        return Document(self.readers, is_head=request.method == "HEAD")

    async def _probe(self, app: ASGIApp, request: Request) -> Any:
        """Answer a probe: who has no token learns the verdict, and not what is checked nor what is wrong with it."""
        return app if self.asgi.is_let_in(request) else _Verdict(app)

    async def _show_metrics(self, request: Request) -> Response:
        if self._metrics is None:
            return PlainTextResponse("metrics need an extra: pip install 'trioresil[prometheus]'\n", 501)
        text, kind = await self._metrics()
        return Response(text, headers={"content-type": kind})

    async def _act(self, request: Request) -> Response:
        token = self.control.token
        assert token is not None  # or there is no such route
        given = request.headers.get(CONTROL_HEADER, "")
        if not hmac.compare_digest(given.encode(), token.encode()) or not _same_origin(request):
            return PlainTextResponse("this did not come from the page: reload it\n", 403)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return PlainTextResponse("the body must be application/json\n", 415)
        body = await small_body(request)
        wanted = None if body is None else _parse(body)
        if wanted is None:
            return PlainTextResponse(
                'the body must be {"action": "isolate", "release" or "reset", "id": number}\n', 400
            )
        action, number = wanted
        wrong = self.control.perform(action, number)
        if wrong is not None:
            return PlainTextResponse(f"{wrong}\n", 409)
        self._refresh(number)
        return Response(to_json({"held": self.control.held()}), media_type="application/json")


class _Events:
    """The response to `/events`: a stream, or the news that there are too many."""

    def __init__(self, request: Request, readers: Readers) -> None:
        self._request = request
        self._readers = readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._request.method == "HEAD":
            await Response(media_type="text/event-stream")(scope, receive, send)
            return
        with self._readers.open() as reader:
            if reader is None:  # and closed, so that those who are too many hold no connection that others need
                words = "too many streams are open: ask /api/state\n"
                full = PlainTextResponse(words, 503, {"retry-after": "10", "connection": "close"})
                await full(scope, receive, send)
            else:
                await EventStream(self._readers, reader)(scope, receive, send)


class _Verdict:
    """What an application answers, without its body: by its status it is told whether things are well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it answer to us, and answer."""
        statuses: list[int] = []

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self._app(scope, receive, note)
        [status] = statuses
        words = '{"status": "pass"}' if status == 200 else '{"status": "fail"}'
        await Response(words, status, media_type="application/health+json")(scope, receive, send)


def _same_origin(request: Request) -> bool:
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _parse(body: bytes) -> tuple[str, int] | None:
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(wanted, dict):
        return None
    action, number = wanted.get("action"), wanted.get("id")
    if action not in ACTIONS or isinstance(number, bool) or not isinstance(number, int):
        return None
    return action, number
