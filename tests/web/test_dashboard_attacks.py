"""The live page's server under attack: whoever has no token, whoever tricks with hosts, paths, headers, connections."""

from __future__ import annotations

import hmac
import logging
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import trio
from starlette.datastructures import URL
from starlette.requests import Request

from tests.web._dashboard import QUICK, TOKEN, events_of, fail_through, opened, raw, state_of
from trioresil import Bulkhead, CircuitBreaker, ConsecutiveFailures, _instruments
from trioresil._web import _dashboard_gate, _dashboard_server
from trioresil._web._dashboard_streams import Reader


def asking(target: str, *headers: str, host: str = "localhost") -> bytes:
    """A request, byte for byte, whatever is in it."""
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# --- whoever has no token ------------------------------------------------------------------------------------------------

HOSTS = [
    "localhost/style.css?",
    "localhost/style.css#",
    "x/icon.svg?",
    "localhost/?",
    "/style.css?",
    "@localhost/style.css",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_that_looks_like_a_public_path_lets_nobody_in(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def naive(request: Request) -> URL:  # as Starlette before 1.0 puts it together
        return URL(f"http://{request.headers['host']}{request.scope['path']}")

    monkeypatch.setattr(Request, "url", property(naive))
    async with opened(token=TOKEN) as (dashboard, _):
        for target in ("/api/state", "/metrics", "/events"):
            assert status(await raw(dashboard, asking(target, host=host))) == 401
        assert b"<form" in await raw(dashboard, asking("/", host=host))
    async with opened() as (dashboard, _):
        answer = await raw(dashboard, asking("/page.js", host=host))
        assert status(answer) in (200, 421)
        assert status(answer) == 421 or b"EventSource" in answer


async def test_a_request_for_another_host_is_refused_however_it_names_it() -> None:
    async with opened() as (dashboard, _):
        evil = "evil.example"
        assert status(await raw(dashboard, asking(f"http://{evil}/", host=evil))) == 421
        assert status(await raw(dashboard, asking("http://localhost/", host=evil))) == 421
        assert status(await raw(dashboard, asking(f"http://{evil}/"))) == 404
        assert status(await raw(dashboard, asking("/", f"Host: {evil}"))) == 400
        assert status(await raw(dashboard, asking("/", f"X-Forwarded-Host: {evil}"))) == 200
        assert status(await raw(dashboard, asking("/", "X-Forwarded-Host: localhost", host=evil))) == 421
        assert status(await raw(dashboard, b"GET / HTTP/1.1\r\n\r\n")) == 400
        assert status(await raw(dashboard, b"GET / HTTP/1.0\r\n\r\n")) == 421


async def test_strange_bytes_let_nobody_in_and_break_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(token=TOKEN) as (dashboard, _):
        cookie = dashboard._app.asgi.cookie
        strange = [
            "Authorization: Bearer \xff\xfe", "Authorization: \xe4", "Authorization:", "Authorization: Bearer Bearer",
            f"Authorization: Bearer {TOKEN}, {TOKEN}", f"Cookie: {cookie}=\xff", f"Cookie: {cookie}", f'Cookie: {cookie}="',
            f"Cookie: {cookie}=", f"Cookie: {cookie}=\\377", "Cookie: ;;;=;=", f"Cookie: {cookie}={TOKEN}",
        ]  # fmt: skip
        for header in strange:
            assert status(await raw(dashboard, asking("/api/state", header))) == 401, header
        for query in (
            "token=%ff",
            "token=",
            "token",
            "%",
            "&&&",
            "token=%00",
            "token=%F0%9F%8D%8C",
            "token[]=x",
            "token=\\ud800",
        ):
            assert status(await raw(dashboard, asking(f"/?{query}"))) in (401, 403), query
        assert status(await raw(dashboard, asking(f"/?token={TOKEN.replace(' ', '+')}&token=x"))) == 403
    assert caplog.records == []


async def test_no_token_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    packed = TOKEN.replace(" ", "+")
    async with opened(token=TOKEN) as (dashboard, _):
        session = dashboard._app.asgi._session
        assert status(await raw(dashboard, asking(f"/?token={packed}"))) == 200
        assert status(await raw(dashboard, asking(f"/api/state?token={packed}"))) == 401
        assert status(await raw(dashboard, asking("/api/state", f"Authorization: Bearer {TOKEN}"))) == 200
        assert status(await raw(dashboard, asking("/", f"Cookie: {dashboard._app.asgi.cookie}={session}"))) == 200
        body = f"token={packed}".encode()
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        assert b"set-cookie" in await raw(dashboard, head.encode() + body)
        await raw(dashboard, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        dashboard._server._app = failing  # what is logged of a fault has no request in it
        await raw(dashboard, asking(f"/?token={packed}", f"Authorization: Bearer {TOKEN}"))
    assert "a fault" in caplog.text
    assert not [secret for secret in (TOKEN, packed, session) if secret in caplog.text]
    assert TOKEN not in repr(dashboard)


async def failing(*args: object) -> None:
    raise KeyError("a fault")


async def test_every_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(given: bytes, wanted: bytes) -> bool:
        compared.append((given, wanted))
        return given == wanted

    monkeypatch.setattr(hmac, "compare_digest", spy)
    async with opened(token=TOKEN, allow_control=True) as (dashboard, client):
        gate, control = dashboard._app.asgi, dashboard._app.control.token
        assert control is not None
        await client.get("/api/state", headers={"authorization": "Bearer guess"})
        await client.get("/api/state", headers={"cookie": f"{gate.cookie}=guess"})
        await client.get("/", params={"token": "guess"})
        await client.post("/", data={"token": "guess"})
        good = {"authorization": f"Bearer {TOKEN}", "x-trioresil-control": "guess"}
        await client.post("/api/control", json={}, headers=good)
    token, session = TOKEN.encode(), gate._session.encode()
    guesses = [wanted for given, wanted in compared if given == b"guess"]
    assert guesses == [token, session, token, token, control.encode()]


# --- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/../_dashboard.py", "/static/../../dashboard.py", "/%2e%2e/_dashboard.py", "//etc/passwd", "/..%2f..%2fetc/passwd",
        "/page.js/", "/page.js%00", "/style.css/../../_dashboard.py", "/.", "/static/page.js", "/index.html", "/%ff",
        "*", "/login.html", "/%2e%2e/%2e%2e/pyproject.toml", "/%2E%2E/_dashboard.py", "//style.css", "///", "/%00", "/\x00",
        "/style.css%00.js", "/..\\_dashboard.py", "/%5c..%5c_dashboard.py", "/api//state", "/api/state/", "/API/STATE",
        "/\xff", "/%c0%ae%c0%ae/_dashboard.py",
    ],
)  # fmt: skip
async def test_no_trick_with_paths_reads_anything_else(target: str) -> None:
    async with opened() as (dashboard, _):
        answer = await raw(dashboard, asking(target))
        assert answer.split(b" ", 2)[1] in (b"400", b"404"), answer[:200]
        assert b"import" not in answer
        assert b"policies" not in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/control HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_a_request_that_is_none_is_refused_and_the_page_goes_on(
    request_: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_dashboard_server, "HEADER_TIME", 0.5)
    async with opened() as (dashboard, client):
        answer = await raw(dashboard, request_)
        assert not answer or answer.split(b" ", 2)[1] in (b"400", b"403", b"414", b"431"), answer[:200]
        assert (await client.get("/")).status_code == 200
    assert caplog.records == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begins", "drips"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
        (b"G", b"E"),
        (b"", b"\r\n"),
        (b"GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\nGET ", b"/"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
         b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"),
    ],
)  # fmt: skip
async def test_whoever_drips_is_not_waited_for(
    begins: bytes, drips: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_dashboard_server, "HEADER_TIME", 0.3)
    async with opened() as (dashboard, client):
        stream = await trio.open_tcp_stream(*dashboard.address)
        began_at = trio.current_time()
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)), trio.fail_after(10):
            async with stream:
                await stream.send_all(begins)
                while True:
                    await stream.send_all(drips)
                    await trio.sleep(0.05)
        assert trio.current_time() - began_at < 10 * 0.3
        with trio.fail_after(10):
            while len(dashboard._server):  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.01)
        assert (await client.get("/")).status_code == 200
    assert caplog.records == []


async def test_headers_that_come_in_pieces_are_16_kilobytes_at_most() -> None:
    async with opened() as (dashboard, _):
        assert status(await raw(dashboard, asking("/", f"X: {'x' * 15_000}"))) == 200
        async with await trio.open_tcp_stream(*dashboard.address) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 17_000)
            with trio.fail_after(5):  # before all has come
                assert status(await stream.receive_some()) == 431


async def test_who_offers_http_2_is_answered_in_http_1() -> None:
    upgrade = ("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    async with opened() as (dashboard, _):
        answer = await raw(
            dashboard, asking("/style.css", *upgrade).replace(b"close", b"Upgrade, HTTP2-Settings, close")
        )
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert (await raw(dashboard, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).startswith(b"HTTP/1.1 4")


@pytest.mark.slow
async def test_a_large_upload_is_not_kept() -> None:
    async with opened(allow_control=True) as (dashboard, _):
        for path in ("/style.css", "/api/control", "/nowhere"):
            before, sent = resident(), 0
            with suppress(trio.BrokenResourceError), trio.fail_after(20):
                async with await trio.open_tcp_stream(*dashboard.address) as stream:
                    await stream.send_all(
                        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n".encode()
                    )
                    while sent < 90_000_000:
                        await stream.send_all(bytes(1_000_000))
                        sent += 1_000_000
            assert sent < 90_000_000, path
            assert resident() - before < 30_000_000, path


def resident() -> int:
    """How much memory this process has, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def test_methods_and_websockets_that_are_not_served_are_refused() -> None:
    async with opened(allow_control=True) as (dashboard, client):
        assert (await client.post("/page.js")).status_code == 405
        assert (await client.get("/api/control")).status_code == 405
        assert (await client.head("/events")).status_code == 200
        upgrade = (
            b"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await raw(dashboard, upgrade)).split(b" ", 2)[1] in (b"403", b"500")


# --- browsers that misbehave --------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_closed_browser_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as (dashboard, client):
        for _ in range(5):
            async with events_of(dashboard) as events:
                async for _ in events:
                    break
        await client.aclose()
        with trio.fail_after(20):
            while len(dashboard._app.readers) or len(dashboard._server):  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.05)
    assert caplog.records == []


@pytest.mark.slow
async def test_leaving_waits_for_no_browser_that_has_stopped_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (dashboard, _):
        readers = dashboard._app.readers
        sleeper = socket.create_connection(dashboard.address)
        sleeper.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.fail_after(20):
            while not any(each.behind for each in readers._readers):
                readers.send("lines", ["x" * 500_000])
                await trio.sleep(0.01)
        began_at = trio.current_time()
    assert trio.current_time() - began_at < 5
    sleeper.close()


@pytest.mark.slow
async def test_a_browser_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dashboard_server, "MAX_STALL", 0.5)
    async with opened() as (dashboard, _):
        readers = dashboard._app.readers
        with socket.create_connection(dashboard.address) as sleeper:
            sleeper.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with trio.fail_after(20):
                while not any(each.behind for each in readers._readers):
                    readers.send("lines", ["x" * 500_000])
                    await trio.sleep(0.01)
                while len(readers):  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.05)


async def test_a_browser_that_has_taken_all_is_not_cut_off_however_long_nothing_happens() -> None:
    async with opened() as (dashboard, _):
        async with events_of(dashboard) as events:
            names = []
            with trio.fail_after(10):
                async for name, _ in events:
                    names.append(name)
                    if name == "ready":
                        dashboard._server.drop_stalled(trio.current_time() + 1_000)
                        dashboard._app.readers.send("lines", [])
                    if name == "lines":
                        break
            assert "ready" in names


@pytest.mark.slow
async def test_a_crowd_that_says_nothing_takes_no_more_connections_than_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_dashboard_server, "HEADER_TIME", 1.0)
    most = 1 + 100
    async with opened(max_readers=1) as (dashboard, client):
        crowd = [await trio.open_tcp_stream(*dashboard.address) for _ in range(most + 30)]
        with trio.fail_after(10):
            for each in crowd[most:]:
                with suppress(trio.BrokenResourceError):
                    assert await each.receive_some() == b""  # who is too much is told at once
        assert len(dashboard._server) == most
        with trio.fail_after(10):
            while len(dashboard._server):  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.02)
        assert (await client.get("/")).status_code == 200
        for each in crowd:
            each.socket.close()


async def test_a_slow_reader_loses_what_waits_is_told_so_and_costs_bounded_memory() -> None:
    reader = Reader()
    reader.put(b"a")
    reader.put(b"b")
    assert await reader.take() == b"ab"
    for _ in range(30):
        reader.put(b"x" * 100_000)
    assert (reader.behind, len(reader._waiting)) == (1, 0)
    assert await reader.take() is None
    reader.put(b"c")
    assert await reader.take() == b"c"


@pytest.mark.slow
@pytest.mark.parametrize("max_readers", [100, 300])
async def test_a_thousand_idle_readers_leave_the_page_and_the_program_responsive(max_readers: int) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), name="search")
    idle = []
    with many_files():
        try:
            async with opened(max_readers=max_readers) as (dashboard, client):
                await client.get("/")  # a connection that is there already goes on
                before = resident()
                for _ in range(1_000):
                    each = await trio.open_tcp_stream(*dashboard.address)
                    await each.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    idle.append(each)
                    assert len(dashboard._server) <= max_readers + 100
                with trio.fail_after(30):
                    while len(dashboard._app.readers) < max_readers:  # noqa: ASYNC110  # nobody tells
                        await trio.sleep(0.05)
                assert len(dashboard._app.readers) == max_readers
                began_at = trio.current_time()
                await fail_through(breaker)
                assert (await state_of(client, "search"))["f"]["state"] == "open"
                assert (await client.get("/events")).status_code == 503
                async with httpx.AsyncClient(base_url=dashboard.url) as newcomer:
                    for path in ("/", "/page.js", "/metrics"):
                        assert (await newcomer.get(path)).status_code == 200
                assert trio.current_time() - began_at < 10 * QUICK
                assert resident() - before < 10 * 8_000_000
                with trio.fail_after(20):  # who was refused holds no connection
                    while len(dashboard._server) > max_readers + 2:  # noqa: ASYNC110  # nobody tells
                        await trio.sleep(0.05)
                for each in idle:
                    each.socket.close()
                with trio.fail_after(20):
                    while len(dashboard._server) > 1 or dashboard._app.readers:  # noqa: ASYNC110  # nobody tells
                        await trio.sleep(0.05)
                async with events_of(dashboard) as events:  # there is room again
                    async for name, _ in events:
                        assert name == "hello"
                        break
        finally:
            for each in idle:
                each.socket.close()


@contextmanager
def many_files() -> Iterator[None]:
    """Let this process open some thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3_000:
        pytest.skip(f"only {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3_000), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("error", [trio.BusyResourceError(), trio.ClosedResourceError(), KeyError("a fault")])
async def test_only_faults_are_logged_and_not_answers_that_nobody_waits_for(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        raise ExceptionGroup("", [error])

    async with opened() as (dashboard, client):
        dashboard._server._app = answer
        with suppress(httpx.HTTPError):
            await client.get("/")
    assert [each.levelname for each in caplog.records] == (["ERROR"] if isinstance(error, KeyError) else [])


@pytest.mark.slow
async def test_two_connections_of_one_address_harm_nobody() -> None:
    async with opened(host="0.0.0.0", token=TOKEN) as (dashboard, client):
        port = dashboard.address[1]
        first, second = socket.socket(), socket.socket()
        with first, second:
            for each in (first, second):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            first.bind(("127.0.0.1", 0))
            second.bind(first.getsockname())
            first.connect(("127.0.0.1", port))
            second.connect(("127.0.0.2", port))
            with trio.fail_after(20):
                while len(dashboard._server) < 2:  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.01)
        with trio.fail_after(_dashboard_server.HEADER_TIME / 2):  # they aren't kept because they could have said more
            while len(dashboard._server):  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.01)
        assert (await client.get("/livez", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 404


@pytest.mark.slow
async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dashboard_gate, "BODY_TIME", 0.2)
    async with opened(token=TOKEN) as (dashboard, _):
        answer = await raw(
            dashboard,
            b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 40\r\n\r\ntoken=",
        )
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.slow
async def test_neither_the_state_nor_the_metrics_hold_the_program() -> None:
    policies = [CircuitBreaker(name=f"b{n}") if n % 2 else Bulkhead(3, name=f"k{n}") for n in range(1_000)]
    async with opened(history=600) as (dashboard, client):
        dashboard.show(*policies)
        await state_of(client, "k998")
        for entry in dashboard._pulse._entries.values():  # as after ten minutes
            for series in entry.series.values():
                series._ring.extend([1.0] * (600 - len(series._ring)))
        for policy in policies:
            _instruments.announce(policy)  # for the metrics, too
        for path in ("/api/state", "/metrics"):
            longest = []
            for _ in range(3):  # the quickest counts: a busy machine may interrupt any
                steps = Steps()
                trio.lowlevel.add_instrument(steps)
                answer = await client.get(path)
                trio.lowlevel.remove_instrument(steps)
                longest.append(steps.longest)
            assert "b999" in answer.text
            assert 0 < min(longest) < 10 * 0.005, path  # seconds


class Steps(trio.abc.Instrument):
    """How long the longest step was of the tasks that answer requests."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began_at = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began_at = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if "_handle" in task.name:
            self.longest = max(self.longest, time.perf_counter() - self._began_at)
