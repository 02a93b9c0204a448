"""One connection for all: what is asked goes out in order, each answer reaches who asked, and a loss is told to all once."""

from __future__ import annotations

import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from coredis.exceptions import AuthenticationError, InvalidResponse, ResponseError
from coredis.exceptions import ConnectionError as LostError

from tests.http._clients import descriptors
from tests.shared._servers import Server
from trioresil._services._tasks import Tasks
from trioresil._shared.redis_connection import CHUNK, Connection, packed
from trioresil._shared.redis_connections import AwayError, Settings, UnfitError, open_connection
from trioresil._shared.redis_urls import read


@attrs.frozen
class Peer:
    """The other side of a connection, where a test is the server."""

    connection: Connection
    stream: trio.abc.Stream
    runs: trio.Event

    async def receive(self, count: int) -> bytes:
        """Return so many bytes."""
        data = b""
        while len(data) < count:
            data += await self.stream.receive_some(count - len(data))
        return data


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[Peer]:
    """A connection that is served, over a socket or over something else."""
    plain = None
    if kind == "socket":
        plain, other = socket.socketpair()
        stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(plain))
        server: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(other))
    else:
        stream, server = trio.testing.memory_stream_pair()
    connection = Connection(stream, plain)
    ended = trio.Event()

    async def run() -> None:
        await connection.run()
        ended.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            yield Peer(connection, server, ended)
            connection.invalidate("the test is over")
        await trio.aclose_forcefully(server)


@pytest.fixture(params=["socket", "stream"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_words_are_packed_as_the_protocol_has_it() -> None:
    assert packed((b"SET", "käse", 7)) == b"*3\r\n$3\r\nSET\r\n$5\r\nk\xc3\xa4se\r\n$1\r\n7\r\n"


async def test_answers_reach_who_asked_in_order(kind: str) -> None:
    async with connected(kind) as peer:
        asked = [peer.connection.ask(b"GET", number) for number in range(5)]
        sent = b"".join(packed((b"GET", number)) for number in range(5))
        assert await peer.receive(len(sent)) == sent
        answers = b":0\r\n$1\r\n1\r\n-ERR two\r\n*2\r\n:3\r\n_\r\n#t\r\n"
        for byte in answers:  # however it comes
            await peer.stream.send_all(bytes([byte]))
        assert [await each for each in (*asked[:2], *asked[3:])] == [0, b"1", [3, None], True]
        error = await asked[2]
        assert isinstance(error, ResponseError)
        assert str(error) == "two"
        assert await asked[0] == 0  # and again


async def test_what_is_asked_while_nothing_is_under_way_is_sent_at_once() -> None:
    async with connected("socket") as peer:
        peer.connection.ask(b"PING")
        await peer.receive(len(packed((b"PING",))))  # with no task but this one run since
        peer.connection.ask(b"SECOND")
        peer.connection.tell(b"THIRD")
        with pytest.raises(trio.WouldBlock):
            _now(peer.stream)
        await trio.testing.wait_all_tasks_blocked()
        assert _now(peer.stream) == packed((b"SECOND",)) + packed((b"THIRD",))


def _now(stream: trio.abc.Stream) -> bytes:
    assert isinstance(stream, trio.SocketStream)
    with socket.socket(fileno=stream.socket.dup().detach()) as same:
        same.setblocking(False)
        try:
            return same.recv(CHUNK)
        except BlockingIOError:
            raise trio.WouldBlock from None


async def test_what_a_full_socket_does_not_take_follows_in_order(kind: str) -> None:
    big = b"x" * 3_000_000
    async with connected(kind) as peer:
        asked = [peer.connection.ask(b"SET", big)]
        await trio.testing.wait_all_tasks_blocked()
        asked.append(peer.connection.ask(b"SET", b"small"))
        sent = packed((b"SET", big)) + packed((b"SET", b"small"))
        assert await peer.receive(len(sent)) == sent
        await peer.stream.send_all(b"+OK\r\n+OK\r\n")
        assert [await each for each in asked] == [b"OK", b"OK"]
        third = peer.connection.ask(b"PING")
        assert await peer.receive(len(packed((b"PING",)))) == packed((b"PING",))
        assert not third.complete


async def test_messages_are_heard_between_answers(kind: str) -> None:
    heard: list[Any] = []
    async with connected(kind) as peer:
        peer.connection.hear = heard.append
        asked = peer.connection.ask(b"PING")
        await peer.stream.send_all(b">2\r\n+one\r\n:1\r\n+PONG\r\n>1\r\n+two\r\n")
        assert await asked == b"PONG"
        assert heard == [[b"one", 1], [b"two"]]


async def test_error_of_who_hears_is_not_taken_for_one_of_the_server() -> None:
    def fail(message: list[Any]) -> None:
        raise ValueError("a mistake")

    with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="a mistake"))):
        async with connected("stream") as peer:
            peer.connection.hear = fail
            await peer.stream.send_all(b">1\r\n+one\r\n")
            await trio.sleep_forever()


async def test_cancelled_caller_takes_no_answer_from_another(kind: str) -> None:
    async with connected(kind) as peer:
        first, second = peer.connection.ask(b"A"), peer.connection.ask(b"B")
        with trio.move_on_after(0.001) as scope:
            await first
        assert scope.cancelled_caught
        await peer.stream.send_all(b"+a\r\n+b\r\n")
        assert await second == b"b"
        assert await first == b"a"


# --- its end ------------------------------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[Callable[[Peer], Awaitable[None]], type[Exception], str]] = {
    "the server closes it": (lambda peer: peer.stream.aclose(), LostError, "connection"),
    "an answer too much": (lambda peer: peer.stream.send_all(b"+a\r\n" * 3), InvalidResponse, "not asked for"),
    "no such answer": (lambda peer: peer.stream.send_all(b"HTTP/1.1 400\r\n"), InvalidResponse, "Unknown RESP"),
    "no number": (lambda peer: peer.stream.send_all(b":one\r\n"), InvalidResponse, "one"),
}


@pytest.mark.parametrize("how", ENDS)
async def test_loss_is_the_answer_to_all_that_was_asked_and_will_be(kind: str, how: str) -> None:
    end, error, words = ENDS[how]
    async with connected(kind) as peer:
        asked = [peer.connection.ask(b"A"), peer.connection.ask(b"B")]
        await end(peer)
        await peer.runs.wait()
        assert not peer.connection.usable
        if how != "an answer too much":
            asked = [*asked, peer.connection.ask(b"C")]
            assert all([isinstance(await each, error) for each in asked])
        answer = await peer.connection.ask(b"D")
        assert isinstance(answer, error)
        assert words in str(answer)
        peer.connection.tell(b"E")
        peer.connection.invalidate("once more")
        assert await peer.connection.ask(b"F") is answer


async def test_asking_over_what_has_just_broken_raises_nothing() -> None:
    async with connected("socket") as peer:
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.socket.close()
        asked = peer.connection.ask(b"A")  # before the reader has run
        assert isinstance(await asked, LostError)


async def test_invalidated_says_why(kind: str) -> None:
    async with connected(kind) as peer:
        asked = peer.connection.ask(b"A")
        peer.connection.invalidate("it owes an answer")
        assert str(await asked) == "it owes an answer"
        await peer.runs.wait()


async def test_nothing_is_held_after_its_end(kind: str) -> None:
    before = descriptors()
    async with connected(kind) as peer:
        peer.connection.ask(b"A", b"x" * 3_000_000)
    assert descriptors() == before


# --- greeting -----------------------------------------------------------------------------------------------------------------

HELLO = b"%2\r\n+version\r\n+9.1.2\r\n+proto\r\n:3\r\n"


async def test_greeting_logs_in_and_chooses_the_database(kind: str) -> None:
    async with connected(kind) as peer:
        sent: list[bytes] = []

        async def serve() -> None:
            sent.append(await peer.receive(len(packed(("HELLO", 3, "AUTH", "default", "secret")))))
            await peer.stream.send_all(HELLO + b"-ERR unknown subcommand\r\n+OK\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await peer.connection.greet(None, "secret", 3)
        assert sent == [packed(("HELLO", 3, "AUTH", "default", "secret"))]
        assert peer.connection.server_version == "9.1.2"


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (b"-WRONGPASS no\r\n-NOAUTH\r\n-NOAUTH\r\n", AuthenticationError),
        (HELLO + b"+OK\r\n-ERR DB index is out of range\r\n", ResponseError),
        (b"+OK\r\n+OK\r\n+OK\r\n", InvalidResponse),
    ],
    ids=["password", "database", "no hello"],
)
async def test_refused_greeting_says_why(kind: str, answers: bytes, error: type[Exception]) -> None:
    async with connected(kind) as peer, trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.receive(10)
            await peer.stream.send_all(answers)

        nursery.start_soon(serve)
        with pytest.raises(error):
            await peer.connection.greet("ada", "secret", 1)


async def test_cancelled_at_any_time_of_opening_nothing_is_held(server: Server) -> None:
    settings = Settings(read(server.url), None, 1.0, False)
    before = descriptors()
    outcomes = set()
    for patience in range(100):
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(patience * 0.0001) as scope:
                connection = await settings.connect(("127.0.0.1", server.port))
                nursery.start_soon(connection.run)
                try:
                    await connection.greet(None, None, 0)
                    assert await connection.ask(b"PING") == b"PONG"
                finally:
                    connection.invalidate("done")
        outcomes.add(scope.cancelled_caught)
    assert outcomes == {True, False}
    assert descriptors() == before


@pytest.mark.parametrize("answer", [b"", b"-ERR no\r\n-ERR no\r\n", None], ids=["silent", "refused", "cancelled"])
async def test_connection_that_could_not_be_opened_is_given_up(answer: bytes | None) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(answer or b"")
        async for _ in stream:
            pass

    closed = trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, Tasks("the test") as tasks:
            (listener,) = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            settings = Settings(read(f"redis://127.0.0.1:{port}"), None, 5.0 if answer is None else 0.1, False)
            opening = functools.partial(open_connection, tasks, settings, ("127.0.0.1", port), closed=closed)
            if answer is None:
                with trio.move_on_after(0.1):
                    await opening()
            else:
                with pytest.raises((AwayError, UnfitError)):
                    await opening()
            await closed.wait()
            nursery.cancel_scope.cancel()
