"""The ready-made checks against real servers on loopback."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trustme

from trioresil import CheckFailedError, check_dns, check_tcp, check_tls, open_health_monitor


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def tls_handler(ca: trustme.CA, *names: str, **options: Any) -> Any:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*names, **options).configure_cert(context)

    async def handler(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        try:
            await tls.do_handshake()
            await tls.receive_some(1)
        except trio.BrokenResourceError:
            pass

    return handler


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


# --- check_tcp -------------------------------------------------------------------------------------------------------


async def test_check_tcp_connects_and_closes() -> None:
    ends: list[bytes] = []

    async def handler(stream: trio.SocketStream) -> None:
        ends.append(await stream.receive_some(1))

    async with serving(handler) as port:
        await check_tcp("127.0.0.1", port)()
        await check_tcp("localhost", port)()
        with trio.fail_after(2):
            while len(ends) < 2:  # noqa: ASYNC110
                await trio.sleep(0.001)
    assert ends == [b"", b""]


async def test_check_tcp_fails_where_nobody_listens() -> None:
    with pytest.raises(OSError):  # noqa: PT011
        await check_tcp("127.0.0.1", free_port())()


@pytest.mark.parametrize("port", [0, 65_536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        check_tcp("localhost", port)
    with pytest.raises(ValueError, match="port"):
        check_tls("localhost", port)


def test_no_host_is_refused() -> None:
    for make in (lambda: check_tcp("", 80), lambda: check_tls(""), lambda: check_dns("")):
        with pytest.raises(ValueError, match=r"host|name"):
            make()


# --- check_tls -------------------------------------------------------------------------------------------------------


async def test_check_tls_passes_with_days_enough(ca: trustme.CA, context: ssl.SSLContext) -> None:
    end = datetime.now(UTC) + timedelta(days=10)
    async with serving(tls_handler(ca, "127.0.0.1", not_after=end)) as port:
        await check_tls("127.0.0.1", port, min_days_left=9.9, ssl_context=context)()
        with pytest.raises(CheckFailedError) as caught:
            await check_tls("127.0.0.1", port, min_days_left=10.1, ssl_context=context)()
    assert str(caught.value) == (
        f"check_tls(127.0.0.1:{port}): the certificate ends in 10.0 days, and 10.1 are asked for"
    )


async def test_check_tls_asks_for_two_weeks_of_its_own_accord(ca: trustme.CA, context: ssl.SSLContext) -> None:
    for days, passes in ((13.9, False), (14.1, True)):
        end = datetime.now(UTC) + timedelta(days=days)
        async with serving(tls_handler(ca, "127.0.0.1", not_after=end)) as port:
            check = check_tls("127.0.0.1", port, ssl_context=context)
            if passes:
                await check()
            else:
                with pytest.raises(CheckFailedError, match=r"13\.9 days"):
                    await check()


async def test_check_tls_refuses_what_is_past_of_another_name_or_of_nobody(
    ca: trustme.CA, context: ssl.SSLContext
) -> None:
    now = datetime.now(UTC)
    past = {"not_before": now - timedelta(days=2), "not_after": now - timedelta(days=1)}
    for handler, reason in [
        (tls_handler(ca, "127.0.0.1", **past), "expired"),
        (tls_handler(ca, "other.example"), "mismatch|doesn't match|not valid"),
        (tls_handler(trustme.CA(), "127.0.0.1"), "self-signed|unable to get"),
    ]:
        async with serving(handler) as port:
            with pytest.raises(CheckFailedError, match=f"the certificate is refused: .*({reason})") as caught:
                await check_tls("127.0.0.1", port, ssl_context=context)()
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_check_tls_asks_for_another_name_if_told(ca: trustme.CA, context: ssl.SSLContext) -> None:
    async with serving(tls_handler(ca, "other.example")) as port:
        await check_tls("127.0.0.1", port, server_hostname="other.example", ssl_context=context)()


async def test_check_tls_trusts_the_systems_authorities_only() -> None:
    async with serving(tls_handler(trustme.CA(), "127.0.0.1")) as port:
        with pytest.raises(CheckFailedError, match="refused"):
            await check_tls("127.0.0.1", port)()


async def test_check_tls_says_that_a_handshake_broke_off(context: ssl.SSLContext) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example ESMTP\r\n")
        await stream.receive_some(1000)

    for handler in (hang_up, babble):
        async with serving(handler) as port:
            with pytest.raises(CheckFailedError, match=r"the handshake broke off: .+"):
                await check_tls("127.0.0.1", port, ssl_context=context)()


async def test_check_tls_fails_where_nobody_listens(context: ssl.SSLContext) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        await check_tls("127.0.0.1", free_port(), ssl_context=context)()


def test_check_tls_refuses_a_context_that_does_not_verify() -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ValueError, match="ssl_context must verify"):
        check_tls("example.com", ssl_context=context)
    context = ssl.create_default_context()
    context.check_hostname = False
    with pytest.raises(ValueError, match="ssl_context must check names"):
        check_tls("example.com", ssl_context=context)
    with pytest.raises(TypeError, match="ssl_context"):
        check_tls("example.com", ssl_context=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_days_left"):
        check_tls("example.com", min_days_left=-1)


# --- check_dns -------------------------------------------------------------------------------------------------------


class Resolver(trio.abc.HostnameResolver):
    def __init__(self, *known: str) -> None:
        self.known = known
        self.asked: list[Any] = []

    async def getaddrinfo(self, host: Any, *args: Any, **more: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        if host.decode() in self.known:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *args: Any) -> Any:
        raise NotImplementedError


async def test_check_dns_looks_up_a_name() -> None:
    resolver = Resolver("api.example")
    trio.socket.set_custom_hostname_resolver(resolver)
    await check_dns("api.example")()
    with pytest.raises(socket.gaierror):
        await check_dns("gone.example")()
    assert resolver.asked == [b"api.example", b"gone.example"]


async def test_check_dns_asks_the_system() -> None:
    await check_dns("localhost")()


# --- in a monitor ----------------------------------------------------------------------------------------------------


async def test_checks_in_a_monitor_follow_a_server(ca: trustme.CA, context: ssl.SSLContext) -> None:
    with trio.fail_after(5):
        async with open_health_monitor(interval=0.02, timeout=1) as health:
            async with serving(tls_handler(ca, "127.0.0.1")) as port:
                health.watch("tcp", check_tcp("127.0.0.1", port))
                health.watch("tls", check_tls("127.0.0.1", port, ssl_context=context))
                await health.wait_healthy()
                changes = health.subscribe()
            seen = {(await changes.receive()).name for _ in range(2)}
            assert seen == {"tcp", "tls"}
            assert isinstance(health["tcp"].error, OSError)
