"""Share connections to a line-protocol server: twelve tasks, three connections, and one caller who gives up half-way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

import trioresil


class LineConnection:
    """A client's side of "one line out, one line back". A caller who leaves in between spoils it for the next."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = b""

    async def ask(self, question: str) -> str:
        await self._stream.send_all(question.encode() + b"\n")
        while b"\n" not in self._received:
            chunk = await self._stream.receive_some()
            if not chunk:
                raise ConnectionError("the server hung up")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def answer(stream: trio.SocketStream) -> None:
    """The server: reverses each line, and thinks about "slow" for long."""
    received = b""
    async with stream:
        async for chunk in stream:
            received += chunk
            while b"\n" in received:
                line, _, received = received.partition(b"\n")
                await trio.sleep(30 if line == b"slow" else 0.02)
                await stream.send_all(line[::-1] + b"\n")


@asynccontextmanager
async def serve() -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def main() -> None:
    async with serve() as port:

        async def connect() -> LineConnection:
            return LineConnection(await trio.open_tcp_stream("127.0.0.1", port))

        async with trioresil.open_pool(connect, max_size=3, connect_timeout=5, name="lines") as pool:
            answers: dict[str, str] = {}

            async def ask(question: str) -> None:
                async with pool.connection() as connection:
                    answers[question] = await connection.ask(question)

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(ask, f"question {number}")
            print(f"{len(answers)} answers over {pool.statistics().opened} connections")

            with trio.move_on_after(0.2):
                await ask("slow")  # its answer would still come over this connection, so the pool closes it
            await ask("stressed")
            print(f"after a caller gave up: stressed is {answers['stressed']} backwards")
            print(pool)


if __name__ == "__main__":
    trio.run(main)
