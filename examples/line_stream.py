"""Follow a log over TCP while its server is killed and restarted: nothing is lost or comes twice, thanks to the token."""

from __future__ import annotations

import random

import trio

import trioresil

LAST = 300


async def send_log(stream: trio.SocketStream) -> None:
    """The server: told "after 41", it sends line 42 and what follows."""
    request = await stream.receive_some()
    for each in range(int(request.split()[1]) + 1, LAST + 1):
        await stream.send_all(f"{each} something happened\n".encode())
        await trio.sleep(0.001)
    await trio.sleep_forever()


async def serve_and_kill(port: int, kills: int) -> None:
    """Serve, and be killed in the middle of a line or between two, so many times."""
    for kill in range(kills + 1):
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        with trio.move_on_after(random.uniform(0.02, 0.08) if kill < kills else 60):
            await trio.serve_listeners(send_log, listeners)
        for listener in listeners:
            await listener.aclose()
        await trio.sleep(0.02)


async def free_port() -> int:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        return int(listener.socket.getsockname()[1])


class Printer:
    def record(self, event: trioresil.Event) -> None:
        if isinstance(event, trioresil.StreamBroken):
            print(f"session {event.session} is over: {event.error or 'the server hung up'}")


async def main() -> None:
    port = await free_port()

    async def session(link: trioresil.StreamLink[str]) -> None:
        received = b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as connection:
            await connection.send_all(f"after {link.resume}\n".encode())
            async for chunk in connection:
                *lines, received = (received + chunk).split(b"\n")
                for line in lines:
                    number, _, text = line.decode().partition(" ")
                    await link.send_item(text, resume=int(number))
                    if int(number) == LAST:
                        link.finish()
                        return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_and_kill, port, 5)
        with trioresil.instrument(Printer()):
            async with trioresil.open_stream(
                session,
                on=(OSError, trio.BrokenResourceError),
                backoff=trioresil.exponential(0.01, max=0.1),
                give_up_after=10,
                heartbeat_timeout=5,
                resume=0,
                name="log",
            ) as stream:
                lines = [line async for line in stream]
                print(f"{len(lines)} of {LAST} lines over {stream.statistics().sessions} sessions")
                print(stream)
                assert len(lines) == LAST
                assert stream.statistics().resume == LAST
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
