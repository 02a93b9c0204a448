"""Keep an order book right over a feed that loses updates: each session begins with a snapshot, a marker to begin anew."""

from __future__ import annotations

import random

import attrs
import trio

import trioresil

CLOCK = "virtual"
LAST = 400


@attrs.frozen
class Snapshot:
    """The marker: what came before it says nothing about what comes after."""

    number: int
    orders: dict[int, int]


@attrs.frozen
class Update:
    """So much is wanted at this price now."""

    number: int
    price: int
    amount: int


class Gap(Exception):
    """An update is missing, so that the later ones are of no use."""


class Exchange:
    """The other side: 100 updates a second, each of which a connection may lose."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.number = 0
        self.orders: dict[int, int] = {}
        self.connections: set[trio.MemorySendChannel[Update]] = set()

    async def trade(self) -> None:
        while self.number < LAST:
            await trio.sleep(0.01)
            self.number += 1
            update = Update(self.number, price=self.rng.randint(90, 110), amount=self.rng.randint(0, 9))
            self.orders[update.price] = update.amount
            for connection in self.connections:
                if self.rng.random() < 0.99:
                    connection.send_nowait(update)
        for connection in self.connections:
            connection.close()

    def connect(self) -> tuple[trio.MemorySendChannel[Update], trio.MemoryReceiveChannel[Update]]:
        send, receive = trio.open_memory_channel[Update](1000)
        self.connections.add(send)
        return send, receive


class Printer:
    def record(self, event: trioresil.Event) -> None:
        if isinstance(event, trioresil.StreamBroken):
            print(f"session {event.session}: {event.error}")


async def main() -> None:
    exchange = Exchange(seed=5)

    async def session(link: trioresil.StreamLink[Snapshot | Update]) -> None:
        connection, updates = exchange.connect()
        try:
            number = exchange.number
            await link.send_item(Snapshot(number, exchange.orders.copy()))
            while number < LAST:
                try:
                    update = await updates.receive()
                except trio.EndOfChannel:
                    raise Gap("the last update is missing") from None
                number += 1
                if update.number != number:
                    raise Gap(f"update {number} is missing")
                await link.send_item(update)
            link.finish()
        finally:
            exchange.connections.discard(connection)

    book: dict[int, int] = {}
    snapshots = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.trade)
        with trioresil.instrument(Printer()):
            async with trioresil.open_stream(session, on=Gap, name="book") as stream:
                async for item in stream:
                    match item:
                        case Snapshot():
                            book = dict(item.orders)
                            snapshots += 1
                        case Update():
                            book[item.price] = item.amount
    assert book == exchange.orders
    print(f"the book is right after {exchange.number} updates and {snapshots} snapshots: {len(book)} prices")


if __name__ == "__main__":
    trio.run(main)
