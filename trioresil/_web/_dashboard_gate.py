"""Who may see the live page: the host that was asked for, the token, the headers that every answer carries.

The law of this file:

1. Without a token only names of this machine are answered to. Else any web page could have its own name resolved to 127.0.0.1
   and read what is served here.
2. With a token everything but what is public asks for it: as `Authorization: Bearer`, as the cookie that the form of `/` sets, or
   once in the query of `/`. Tokens are compared in constant time, and none is ever sent back, not even in the cookie.
3. What was asked for is the path of the request line, which is also what the routes go by. A URL that is put together with the
   header Host is not: whoever asks can say there what they like.
4. Every answer carries the headers that forbid scripts, styles and frames of others, and that its kind be guessed.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from typing import Final
from urllib.parse import parse_qs, urlsplit

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY: Final = 4096
BODY_TIME: Final = 10.0  # seconds
MIN_TOKEN: Final = 16

_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_GO_ON: Final = (  # it names its icon, or browsers would ask for another, which isn't there
    b'<!doctype html><html lang="en"><meta charset="utf-8"><title>trioresil</title>'
    b'<link rel="icon" href="/icon.svg" type="image/svg+xml"><a href="/">Show the page</a></html>'
)


def is_loopback(host: str) -> bool:
    """Tell whether a host names this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_token(token: object, host: str) -> str | None:
    """Return the token if it will do for this address."""
    if token is None:
        if not is_loopback(host):
            raise ValueError(
                f"token must be given for any host but loopback, and host is {host!r}: others can reach it"
            )
        return None
    if not isinstance(token, str):
        raise TypeError(f"token must be a string of at least {MIN_TOKEN} characters, not {type(token).__name__}")
    if len(token) < MIN_TOKEN:  # not shown, though it is no good: it may be half of one that is
        raise ValueError(f"token must be a string of at least {MIN_TOKEN} characters, not one of {len(token)}")
    if not (token.isascii() and token.isprintable() and token == token.strip()):  # a header could not carry it
        raise ValueError("token must be of printable ASCII characters, without a space at either end")
    return token


async def small_body(request: Request) -> bytes | None:
    """Return the body of a request; None if it is too large, or takes too long to come."""
    body = bytearray()
    with trio.move_on_after(BODY_TIME):
        while True:  # not `request.stream()`: a generator that is not read to its end
            message = await request.receive()
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                return None
            if not message.get("more_body", False):
                return bytes(body)
    return None


class Gate:
    """ASGI middleware that lets in who may see the page.

    Args:
      app: what it stands before.
      token (str): None: only loopback's names are let in.
      host (str): the address that was bound.
      login (bytes): the page that asks for the token.
      public (set of str): paths that need no token: what the login page is made of, and what tells nothing but a verdict.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, host: str, login: bytes, public: frozenset[str]) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._host = host.lower()
        self._login = login
        self._public = public
        self._session = secrets.token_urlsafe(32)
        self.cookie = f"trioresil-{secrets.token_hex(4)}"  # cookies don't know of ports: each page has its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] != "http":
            return  # a websocket is closed by that

        async def send_with_headers(answer: Message) -> None:
            if answer["type"] == "http.response.start":
                headers = MutableHeaders(scope=answer)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(answer)

        request = Request(scope, receive)
        answer = await self._refusal(request)
        await (self._app if answer is None else answer)(scope, receive, send_with_headers)

    async def _refusal(self, request: Request) -> Response | None:
        if self._token is None:
            return None if self._is_this_machine(request.headers) else _text(421, "this host name is not known here")
        path = request.scope["path"]
        if path == "/" and request.method == "POST":
            return await self._log_in(request)
        if path in self._public or self.is_let_in(request):
            return None
        if path == "/" and request.method in ("GET", "HEAD"):
            return self._welcome(request)
        return _text(401, "a token is needed: Authorization: Bearer …", {"www-authenticate": "Bearer"})

    def _is_this_machine(self, headers: Headers) -> bool:
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            return False
        return is_loopback(host) or host == self._host

    def is_let_in(self, request: Request) -> bool:
        """Tell whether whoever asks may see everything."""
        if self._token is None:
            return True
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return True
        return hmac.compare_digest(request.cookies.get(self.cookie, "").encode(), self._session.encode())

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode(errors="replace"), self._token)

    def _welcome(self, request: Request) -> Response:
        """Answer a person who has no cookie: with one, if the token is in the query, or else with the form."""
        given = request.query_params.get("token")
        if given is None:
            return self._ask(401)
        return self._admit() if self._is_token(given) else self._ask(403)

    async def _log_in(self, request: Request) -> Response:
        body = await small_body(request)
        if body is None:
            return _text(413, "too much for a token")
        try:
            given = parse_qs(body.decode(), max_num_fields=4).get("token", [""])[0]
        except ValueError:
            given = ""
        return self._admit() if self._is_token(given) else self._ask(403)

    def _admit(self) -> Response:
        # A page that sends itself on, not a redirect: after one that began elsewhere, a browser keeps a strict cookie back.
        answer = Response(_GO_ON, 200, {"refresh": "0; url=/"}, "text/html; charset=utf-8")
        answer.set_cookie(self.cookie, self._session, httponly=True, samesite="strict", path="/")
        return answer

    def _ask(self, status: int) -> Response:
        page = self._login if status == 401 else self._login.replace(b"<!--wrong-->", b"This is not the token.")
        return Response(page, status, media_type="text/html; charset=utf-8")


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(text + "\n", status, headers)
