"""ClientTLS over real connections: what a server that demands a certificate sees, before and after the files change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import trioresil
from tests.http._certificates import Pki
from tests.http._clients import Edge
from tests.http._raw_server import Connection, RawServer
from trioresil.testing import Recorder

BY_HAND = float("inf")
EACH_TIME = 1e-9


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path)
    made.install(made.issue("first"))
    return made


async def who(connection: Connection) -> None:
    """Answers each request with the common name on the client's certificate; in two pieces if "/slow" is asked for."""
    while (request := await connection.request()) is not None:
        name = common_name(connection.stream)
        if request.target == "/slow":
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(name) + 4))
            await connection.receive()  # until the client says a word, which is no HTTP
            await connection.send(b"more" + name)
        else:
            await connection.respond(name)


def common_name(stream: Any) -> bytes:
    fields = dict(field for part in stream.getpeercert()["subject"] for field in part)
    return str(fields["commonName"]).encode()


@asynccontextmanager
async def serving(pki: Pki) -> AsyncIterator[RawServer]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            yield await RawServer(who, tls=pki.server_context()).start(nursery)
            nursery.cancel_scope.cancel()


def client_tls(edge: Edge, pki: Pki, **options: Any) -> Any:
    return edge.face.ClientTLS(cert=pki.cert, key=pki.key, ca=pki.ca, **{"reload_interval": BY_HAND, **options})


def pooled(edge: Edge, tls: Any, **options: Any) -> Any:
    return edge.lib.AsyncClient(transport=edge.face.PoolTransport(verify=tls, **options))


async def test_its_context_serves_the_librarys_own_transport(edge: Edge, pki: Pki) -> None:
    tls = client_tls(edge, pki)
    async with serving(pki) as server, edge.lib.AsyncClient(verify=tls.context) as client:
        assert (await client.get(server.url)).text == "first"


async def test_a_server_that_demands_a_certificate_sees_ours(edge: Edge, pki: Pki) -> None:
    async with serving(pki) as server:
        async with pooled(edge, client_tls(edge, pki)) as client:
            assert (await client.get(server.url)).text == "first"
        pki.authority.configure_trust(context := edge.lib.create_ssl_context())
        async with pooled(edge, context) as client:
            with pytest.raises(edge.lib.TransportError):
                await client.get(server.url)


async def test_a_server_of_another_authority_is_not_trusted(edge: Edge, pki: Pki) -> None:
    pki.ca.write_bytes(trustme.CA().cert_pem.bytes())
    async with serving(pki) as server, pooled(edge, client_tls(edge, pki)) as client:
        with pytest.raises(edge.lib.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(server.url)
    assert server.received == []


async def test_after_a_change_new_connections_show_the_new_certificate(edge: Edge, pki: Pki) -> None:
    tls, recorder = client_tls(edge, pki, reload_interval=EACH_TIME), Recorder()
    async with serving(pki) as server:
        with trioresil.instrument(recorder):
            async with pooled(edge, tls) as client:
                names = [(await client.get(server.url)).text for _ in range(3)]
                assert (names, server.accepted) == (["first"] * 3, 1)
                pki.install(pki.issue("second"))
                names = [(await client.get(server.url)).text for _ in range(3)]
                assert (names, server.accepted) == (["second"] * 3, 2)
                await server.wait(lambda server: server.open == 1)
    assert [event.reason for event in recorder.of(trioresil.ConnectionClosed)] == ["retired", "closed"]
    assert len(recorder.of(trioresil.CertificateReloaded)) == 1


async def test_a_body_under_way_outlives_the_change_and_its_connection_does_not(edge: Edge, pki: Pki) -> None:
    tls = client_tls(edge, pki)
    async with serving(pki) as server, pooled(edge, tls) as client:
        async with client.stream("GET", f"{server.url}/slow") as response:
            pki.install(pki.issue("second"))
            await tls.refresh()
            assert (await client.get(server.url)).text == "second"
            await response.extensions["network_stream"].write(b"go on")
            assert await response.aread() == b"morefirst"
        assert (await client.get(server.url)).text == "second"
        assert server.accepted == 2
        await server.wait(lambda server: server.open == 1)


async def test_a_broken_new_file_keeps_connections_and_certificate(edge: Edge, pki: Pki) -> None:
    tls, recorder = client_tls(edge, pki, reload_interval=EACH_TIME), Recorder()
    async with serving(pki) as server:
        with trioresil.instrument(recorder):
            async with pooled(edge, tls) as client:
                assert (await client.get(server.url)).text == "first"
                pki.key.write_bytes(b"half a k")
                assert (await client.get(server.url)).text == "first"
                assert server.accepted == 1
                [event] = recorder.of(trioresil.CertificateReloadFailed)
                assert "key must be a PEM file" in str(event.error)
                await server.restart()  # new connections still show the old certificate
                assert (await client.get(server.url)).text == "first"
                pki.install(pki.issue("second"))
                assert (await client.get(server.url)).text == "second"


async def test_many_requests_after_a_change_all_show_the_new_certificate(edge: Edge, pki: Pki) -> None:
    tls = client_tls(edge, pki, reload_interval=EACH_TIME)
    names: list[str] = []
    async with serving(pki) as server, pooled(edge, tls) as client:

        async def ask() -> None:
            names.append((await client.get(server.url)).text)

        for leaf, count in (("second", 20), ("third", 40)):
            pki.install(pki.issue(leaf))
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
            assert names[count - 20 :] == [leaf] * 20
    assert tls.generation == 3


async def test_a_server_that_moves_to_another_authority_is_followed(edge: Edge, pki: Pki) -> None:
    tls = client_tls(edge, pki, reload_interval=EACH_TIME)
    async with serving(pki) as server, pooled(edge, tls) as client:
        assert (await client.get(server.url)).text == "first"
    moved = Pki(pki.folder)  # writes its authority over the one before
    moved.install(moved.issue("elsewhere"))
    async with serving(moved) as server, pooled(edge, tls) as client:
        assert (await client.get(server.url)).text == "elsewhere"


@pytest.mark.slow
async def test_a_certificate_rotated_50_times_under_load_fails_no_request(edge: Edge, pki: Pki) -> None:
    tls = client_tls(edge, pki, reload_interval=EACH_TIME)
    leaves = [pki.issue(f"leaf{number}") for number in range(50)]
    seen: set[str] = set()
    done = False
    async with serving(pki) as server, pooled(edge, tls) as client:

        async def ask() -> None:
            while not done:
                seen.add((await client.get(server.url)).text)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
            for leaf in leaves:
                pki.install(leaf)
                generation = tls.generation
                while tls.generation == generation:
                    await trio.lowlevel.checkpoint()
            done = True
        assert (await client.get(server.url)).text == "leaf49"
    assert len(seen) > 10
    assert tls.generation == 51
