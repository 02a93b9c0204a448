"""Keep a consumer alive: its broker drops the connection twice, and in the end it may finish the message that it is at."""

from __future__ import annotations

import random

import trio

import trioresil

CLOCK = "virtual"  # nothing here is real: in the tests it takes no time


class Broker:
    """Hands out numbered messages; each connection breaks after a while, and no message is lost."""

    def __init__(self, *breaks_after: int) -> None:
        self._breaks_after = list(breaks_after)
        self._next = 1
        self.connections = 0

    async def connect(self) -> None:
        await trio.sleep(0.1)
        self.connections += 1

    async def receive(self) -> int:
        await trio.sleep(0.5)
        if self._breaks_after and self._next > self._breaks_after[0]:
            self._breaks_after.pop(0)
            raise ConnectionError("the broker hung up")
        self._next += 1
        return self._next - 1


class Tell:
    """An instrument that prints what the supervisor reports."""

    def record(self, event: trioresil.Event) -> None:
        match event:
            case trioresil.ChildFailed():
                print(f"{trio.current_time():6.2f} s  {event.child}: {event.error}")
            case trioresil.ChildRestarted():
                print(f"{trio.current_time():6.2f} s  {event.child}: again, after {event.delay:.2f} s")


async def consume(broker: Broker, done: list[int], *, task_status: trio.TaskStatus[None]) -> None:
    """One life of the consumer: connect, then work until the connection breaks or a stop is requested."""
    stop = trioresil.stop_requested()
    await broker.connect()
    task_status.started()
    while not stop.is_set():
        message = await broker.receive()
        await trio.sleep(0.5)  # work on it
        done.append(message)


async def report(done: list[int]) -> None:
    while True:
        await trio.sleep(2)
        print(f"{trio.current_time():6.2f} s  {len(done)} messages")


async def main() -> None:
    broker, done = Broker(3, 6), list[int]()
    with trioresil.instrument(Tell()):
        async with trioresil.open_supervisor(max_restarts=5, within=60, grace=2, rng=random.Random(7)) as supervisor:
            await supervisor.start(consume, broker, done)
            supervisor.start_soon(report, done)
            await trio.sleep(9.3)
            print(supervisor)
    assert done == list(range(1, done[-1] + 1))
    print(
        f"{trio.current_time():6.2f} s  stopped after message {done[-1]}, which was finished; {broker.connections} connections"
    )


if __name__ == "__main__":
    trio.run(main)
