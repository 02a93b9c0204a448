"""One connection to a server, for all callers at once: what they ask goes out in order, and is answered in that order.

Asking is synchronous and waiting is waiting for an event, so a cancelled caller takes nothing from the others. What is asked
while nothing is under way goes straight to the socket; else a task sends what has come together, in one piece.

Why not coredis's own: there each request passes through a channel and a task before it is sent, and each message through two
channels and two tasks before it is heard. Its parser and its errors serve here too.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

import trio
from coredis.constants.resp import DataType
from coredis.exceptions import ConnectionError as LostError
from coredis.exceptions import InvalidResponse, RedisError
from coredis.parser import NotEnoughData, Parser, UnpackedResponse
from trio.lowlevel import enable_ki_protection

CHUNK: Final = 65536
"""Bytes read at once, at most."""
Word: TypeAlias = bytes | str | int


class Request:
    """What was asked. Its answer can be awaited, by several and later too; one that is an error is returned, not raised."""

    __slots__ = ("_answer", "_answered")

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._answer: Any = None

    @property
    def complete(self) -> bool:
        """Whether the answer is here."""
        return self._answered.is_set()

    def answer(self, answer: Any) -> None:
        """Wake who waits."""
        self._answer = answer
        self._answered.set()

    def __await__(self) -> Generator[Any, Any, Any]:
        """Wait for the answer."""
        return self._wait().__await__()

    async def _wait(self) -> Any:
        await self._answered.wait()
        return self._answer


class Connection:
    """A connection over a stream that is open. `run` serves it until it is lost, or invalidated.

    Args:
      stream: the stream.
      plain: the socket below it, if what is written there is sent as it is, without TLS.
    """

    def __init__(self, stream: trio.abc.Stream, plain: socket.socket | None) -> None:
        self.server_version = "0"
        self.usable = True
        self.hear: Callable[[list[Any]], None] = lambda message: None
        """Called with each message that is no answer. Synchronous."""
        self._stream, self._plain = stream, plain
        self._parser = Parser()
        self._asked: deque[Request] = deque()
        self._lost: Exception = LostError("the connection is closed")
        self._scope = trio.CancelScope()
        self._unsent = bytearray()
        self._behind = False  # something is unsent, or being sent
        self._wake_writer = trio.Event()

    def ask(self, *words: Word) -> Request:
        """Send words, and return what will be answered; over a lost connection that is a LostError."""
        request = Request()
        if not self.usable:
            request.answer(self._lost)
            return request
        at_once = not self._asked
        self._asked.append(request)
        self._send(packed(words), at_once)
        return request

    def tell(self, *words: Word) -> None:
        """Send words that are answered by messages, not by a reply."""
        if self.usable:
            self._send(packed(words), False)

    def invalidate(self, reason: str) -> None:
        """Give it up."""
        self._lose(LostError(reason))

    async def greet(self, username: str | None, password: str | None, db: int) -> None:
        """Log in, and choose the database.

        Raises:
          RedisError: the server refuses, or the connection is lost.
        """
        login = ("AUTH", username or "default", password or "") if username or password else ()
        requests = [self.ask("HELLO", 3, *login), self.ask("CLIENT", "SETINFO", "LIB-NAME", "trioresil")]
        if db:
            requests.append(self.ask("SELECT", db))
        hello, _, *selected = [await each for each in requests]  # a server may not know SETINFO, or forbid it
        for reply in (hello, *selected):
            if isinstance(reply, RedisError):
                raise reply
        if not isinstance(hello, dict) or b"version" not in hello:
            raise InvalidResponse("no answer to HELLO")
        self.server_version = hello[b"version"].decode()

    async def run(self) -> None:
        """Send and read, until it is lost."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
        finally:
            self._lose(LostError("the connection is closed"))
            await trio.aclose_forcefully(self._stream)

    def _send(self, data: bytes, at_once: bool) -> None:
        if at_once and not self._behind and self._plain is not None:
            with suppress(OSError):  # it is full; or broken, as the reader will find
                data = data[self._plain.send(data) :]
            if not data:
                return
        self._unsent += data
        if not self._behind:
            self._behind = True
            self._wake_writer.set()

    @enable_ki_protection
    async def _write(self) -> None:
        while True:
            await self._wake_writer.wait()
            self._wake_writer = trio.Event()
            while self._unsent:
                data, self._unsent = self._unsent, bytearray()
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # the reader finds out, and what the server has said before that
            self._behind = False

    @enable_ki_protection
    async def _read(self) -> None:
        try:
            while data := await self._stream.receive_some(CHUNK):
                self._take(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._lose(LostError("the connection was lost"), exc)
        except InvalidResponse as exc:
            self._lose(exc)
        else:
            self._lose(LostError("the server closed the connection"))

    def _take(self, data: bytes) -> None:
        self._parser.feed(data)
        while not isinstance(found := self._parsed(), NotEnoughData):
            kind, value = found
            if kind is DataType.PUSH:
                self.hear(cast("list[Any]", value))
            elif self._asked:
                self._asked.popleft().answer(value)
            else:
                raise InvalidResponse("an answer that was not asked for")

    def _parsed(self) -> UnpackedResponse | NotEnoughData:
        try:
            return self._parser.parse()
        except ValueError as exc:  # a number that is none
            raise InvalidResponse(str(exc)) from exc

    def _lose(self, error: Exception, cause: BaseException | None = None) -> None:
        """Answer what was asked, once: nothing will come."""
        if not self.usable:
            return
        self.usable = False
        if cause is not None:
            error.__cause__ = cause
        self._lost = error
        self._scope.cancel()
        while self._asked:
            self._asked.popleft().answer(error)

    def __repr__(self) -> str:
        state = f"{len(self._asked)} answers to come" if self.usable else "lost"
        return f"<Connection {state}>"


def packed(words: tuple[Word, ...]) -> bytes:
    """Return words as they are sent."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
