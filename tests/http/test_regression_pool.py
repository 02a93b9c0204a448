"""Bugs of PoolTransport that were found once, each with the test that would have found it."""

from __future__ import annotations

from typing import Any

import h2.settings
import pytest
import trio

from tests.http._clients import Edge, assert_at_rest
from tests.http._h2_server import H2Server, Stream, answer
from tests.http._raw_server import Connection, RawServer
from tests.http._servers import Authority

pytestmark = pytest.mark.usefixtures("bounded")

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


def client_of(edge: Edge, pool: Any, timeout: Any = 5) -> Any:
    return edge.lib.AsyncClient(transport=pool, trust_env=False, timeout=timeout)


# what came unasked


async def test_a_surplus_tls_record_behind_an_answer_is_no_answer(
    edge: Edge, authority: Authority, nursery: trio.Nursery
) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            stream: Any = connection.stream
            stream._ssl_object.write(GOOD)
            stream._ssl_object.write(EVIL)
            records = (stream._delayed_outgoing or b"") + stream._outgoing.read()
            stream._delayed_outgoing = None
            await stream.transport_stream.send_all(records)  # in one segment

    server = await RawServer(script, tls=authority.server_context()).start(nursery)
    async with client_of(edge, edge.pool(verify=authority.client_context)) as client:
        for _ in range(3):
            assert (await client.get(server.url)).text == "good"
    assert server.accepted == 3


# HTTP/2 windows and writers


async def test_http2_bodies_that_nobody_reads_starve_no_other(edge: Edge, nursery: trio.Nursery) -> None:
    async def script(stream: Stream) -> None:
        connection = stream.connection.h2
        await stream.head()
        if stream.path == "/small":
            while connection.local_flow_control_window(stream.number) < 2:  # noqa: ASYNC110 - the other side opens it
                await trio.sleep(0.01)
            await stream.data(b"ok", end=True)
            return
        while True:
            size = min(connection.local_flow_control_window(stream.number), 16384)
            if size:
                await stream.data(bytes(size))
            else:
                full.set()
                await trio.sleep(0.01)

    full = trio.Event()
    server = await H2Server(script).start(nursery)
    async with client_of(edge, edge.pool(http1=False, http2=True)) as client:
        async with client.stream("GET", f"{server.url}/big"):
            while not full.is_set():
                assert (await client.get(f"{server.url}/small")).text == "ok"
            for _ in range(3):
                assert (await client.get(f"{server.url}/small")).text == "ok"
    assert server.accepted == 1


async def test_http2_windows_of_all_streams_fit_the_connections() -> None:
    from trioresil._http import _h2_connection as module

    assert module.MOST_STREAMS * module.STREAM_WINDOW <= module.CONNECTION_WINDOW < 2**31


async def test_http2_writer_whose_peer_takes_nothing_holds_up_no_answer(edge: Edge, nursery: trio.Nursery) -> None:
    """The server stops reading in the middle of an upload, and answers another stream."""
    stopped = trio.Event()

    async def script(stream: Stream) -> None:
        if stream.path == "/get":
            await stopped.wait()
            await stream.respond(b"hello")

    class Stubborn(H2Server):
        async def _connection(self, tcp: trio.SocketStream) -> None:
            receive = tcp.receive_some

            async def receive_some(max_bytes: int | None = None) -> bytes:
                if any(len(stream.body) > 100_000 for stream in self.received):
                    await trio.sleep(0.2)
                    stopped.set()
                    await trio.sleep_forever()
                return bytes(await receive(max_bytes))

            tcp.receive_some = receive_some  # type: ignore[method-assign]
            await super()._connection(tcp)

    class Endless(edge.lib.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> bytes:
            await trio.lowlevel.checkpoint()
            return bytes(16384)

    server = await Stubborn(script).start(nursery)
    async with client_of(edge, edge.pool(http1=False, http2=True), edge.lib.Timeout(20)) as client:
        async with trio.open_nursery() as tasks:

            async def upload() -> None:
                headers = {"Host": "127.0.0.1", "Transfer-Encoding": "chunked"}
                await client.send(edge.lib.Request("POST", f"{server.url}/post", headers=headers, stream=Endless()))

            async def get() -> None:
                with trio.fail_after(5):
                    assert (await client.get(f"{server.url}/get")).text == "hello"
                tasks.cancel_scope.cancel()

            tasks.start_soon(get)
            await server.wait(lambda server: bool(server.connections and server.connections[0].streams))
            server.connections[0].h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
            server.connections[0].h2.increment_flow_control_window(2**30)
            await server.connections[0].flush()
            tasks.start_soon(upload)


async def test_http2_server_that_allows_no_streams_for_now_gets_none(edge: Edge, nursery: trio.Nursery) -> None:
    server = await H2Server(answer).start(nursery)
    pool = edge.pool(http1=False, http2=True)
    async with client_of(edge, pool) as client:
        await client.get(server.url)
        await server.connections[0].limit_streams(0)
        for _ in range(2):
            assert (await client.get(server.url)).status_code == 200
        assert server.accepted == 2
        assert_at_rest(pool)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["a read time-out", "a cancellation"])
async def test_http2_connection_that_died_silently_gets_no_second_request(
    edge: Edge, nursery: trio.Nursery, by: str
) -> None:
    async def script(stream: Stream) -> None:
        if stream.connection.number == 1 and len(stream.connection.streams) > 1:
            await trio.sleep_forever()
        await answer(stream)

    server = await H2Server(script).start(nursery)
    pool = edge.pool(http1=False, http2=True)
    async with client_of(edge, pool, 0.1 if by == "a read time-out" else None) as client:
        await client.get(server.url)
        if by == "a read time-out":
            with pytest.raises(edge.lib.ReadTimeout):
                await client.post(server.url, content=b"x")
        else:
            with trio.move_on_after(1.05):
                await client.post(server.url, content=b"x")
        assert (await client.post(server.url, content=b"x")).status_code == 200
        assert_at_rest(pool)
    assert server.accepted == 2


# time, and the same request twice


async def test_warm_connections_that_expire_at_once_hang_nothing(edge: Edge, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    pool = edge.pool(min_idle=1, limits=edge.lib.Limits(keepalive_expiry=0))
    await nursery.start(pool.serve)
    async with client_of(edge, pool) as client:
        await client.get(server.url)
        await server.wait(lambda server: server.accepted == 2)
        looks = 0
        reap = pool._ledger.reap

        def count(now: float) -> float:
            nonlocal looks
            looks += 1
            return float(reap(now))

        pool._ledger.reap = count
        await client.get(server.url)
        await trio.sleep(0.05)
        assert looks < 10


@pytest.mark.parametrize(
    ("method", "headers", "said", "times"),
    [
        ("GET", {}, None, 2),
        ("GET", {}, False, 1),
        ("POST", {}, None, 1),
        ("POST", {}, True, 2),
        ("POST", {"Idempotency-Key": "1"}, None, 2),
        ("POST", {"Idempotency-Key": "1"}, False, 1),
    ],
)
async def test_replaced_connection_gets_a_request_again_only_if_it_may_be_made_twice(
    edge: Edge, nursery: trio.Nursery, method: str, headers: dict[str, str], said: bool | None, times: int
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        if connection.number > 1:
            await connection.respond()
            return
        await connection.respond()
        await connection.request()  # has it, and dies

    server = await RawServer(script).start(nursery)
    options = {} if said is None else {"trioresil": edge.face.RequestOptions(idempotent=said)}
    async with client_of(edge, edge.pool()) as client:
        await client.get(server.url)
        request = client.build_request(method, f"{server.url}/once", headers=headers, extensions=options)
        if times == 2:
            assert (await client.send(request)).status_code == 200
        else:
            with pytest.raises(edge.lib.RemoteProtocolError):
                await client.send(request)
    assert [received.target for received in server.received].count("/once") == times


async def test_transport_closed_while_certificates_are_looked_at_sends_nothing(
    edge: Edge, authority: Authority, nursery: trio.Nursery
) -> None:
    class Certificates:
        context = authority.client_context
        generation = 1

        def due(self) -> bool:
            return True

        async def refresh(self) -> None:
            await pool.aclose()

    server = await RawServer().start(nursery)
    pool = edge.pool(verify=Certificates())
    with pytest.raises(edge.face.PoolClosedError):
        await pool.handle_async_request(edge.lib.Request("GET", server.url))
    assert server.accepted == 0
