"""A keeper keeps one connection to one server, and knows whether the server is there.

The law of this file:

1. A server is up, or being tried for the first time since a connection broke, or down. While it is tried who asks waits, for as
   long as he would for an answer; while it is down he is told at once.
2. Somebody who waited in vain finds it down. Then the same connection is asked again, as its answers may only be late: one that
   comes soon brings the server up, and else the connection is given up and a new one made.
3. What made him wait may have been our own program that held up its loop. Then it is asked first and found down only afterwards.
4. New connections are tried with growing pauses of at most half a second, so that a server that is back is found at once.
5. An error that won't pass is no reason to stop trying: whoever repairs it expects it to work then.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

from .._services._tasks import Tasks
from .engine import EngineDownError
from .redis_connection import Connection
from .redis_connections import AwayError, UnfitError
from .redis_urls import Address, shown

PATIENCE: Final = 1.0
"""Seconds for which a connection that owes an answer is kept."""
LONGEST_PAUSE: Final = 0.5
"""Seconds between two attempts, at most."""
LATE: Final = 0.01
"""Seconds by which a loop that isn't held up meets its deadlines."""

Find = Callable[[], Awaitable[Address]]
Check = Callable[[Connection, Address], Awaitable[None]]
Open = Callable[[Address, trio.Event], Awaitable[Connection]]


class Keeper:
    """One server's connection.

    Args:
      name: the server's, for messages before its address is known.
      find: says where it is now.
      open: opens a connection.
      check: sees that it will do; raises AwayError or UnfitError.
      rng: chance for the pauses.
      changed: called with (self, up) when the server has gone or come back. Synchronous.
      connected: called with (self) when there is another connection. Synchronous.
    """

    def __init__(
        self,
        name: str,
        *,
        find: Find,
        open: Open,
        check: Check,
        rng: random.Random,
        changed: Callable[[Keeper, bool], None] = lambda keeper, up: None,
        connected: Callable[[Keeper], None] = lambda keeper: None,
    ) -> None:
        self.name = name
        self.connection: Connection | None = None
        self.address: Address | None = None
        self.error: Exception | None = None  # why it is down
        self.lost_at = 0.0
        self.connections = 0
        self._find, self._open, self._check_server = find, open, check
        self._changed, self._connected = changed, connected
        self._rng = rng
        self._settled = trio.Event()  # up or down: nobody waits
        self._scope = trio.CancelScope()
        self._suspected: Connection | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection and it answers."""
        return self.connection is not None and self.error is None

    def __repr__(self) -> str:
        return f"<Keeper {self.name!r} {'up' if self.is_up else 'trying' if self.error is None else 'down'}>"

    async def settled(self) -> None:
        """Wait until the first attempt has ended."""
        await self._settled.wait()

    async def wait(self, within: float) -> Connection:
        """Return the connection, as soon as there is one.

        Raises:
          EngineDownError: the server is down, or there was none in time.
        """
        if not self._settled.is_set():
            with trio.move_on_after(within):
                await self._settled.wait()
            self.give_up(within)
        if self.error is not None or self.connection is None:
            raise EngineDownError(str(self.error or f"{self.name}: the connection broke again"))
        return self.connection

    def give_up(self, waited: float) -> None:
        """Find the server down, if somebody has waited so long for the first attempt in vain."""
        if not self._settled.is_set():
            self.find_down(AwayError(f"{self.name}: no connection within {waited:g} s"))

    def find_down(self, error: Exception) -> None:
        """Note that the server is away."""
        first = self.error is None
        self.error = error
        self._settled.set()
        if first:
            self.lost_at = trio.current_time()
            self._changed(self, False)

    def suspect(self, connection: Connection, tasks: Tasks, *, within: float, late_by: float) -> None:
        """Note that an answer did not come within so many seconds, which were noticed to be over so much later."""
        if connection is not self.connection or not connection.usable:
            return
        held_up = late_by > LATE
        if not held_up:
            self.find_down(AwayError(f"{self.name} did not answer within {within:g} s"))
        if self._suspected is not connection:
            self._suspected = connection
            tasks.start_soon(self._ask_again, connection, within if held_up else 0.0)

    async def _ask_again(self, connection: Connection, grace: float) -> None:
        try:
            request = connection.ask(b"PING")
            if grace:
                with trio.move_on_after(grace):
                    await request
                if not request.complete and self.connection is connection:
                    self.find_down(AwayError(f"{self.name} did not answer within {grace:g} s"))
            with trio.move_on_after(PATIENCE):
                await request
        finally:
            self._suspected = None
        if not request.complete:
            connection.invalidate("it owes an answer")
        elif self.connection is connection and connection.usable:
            self._found_up()

    def _found_up(self) -> None:
        was_down, self.error = self.error is not None, None
        self._settled.set()
        if was_down:
            self._changed(self, True)

    def stop(self) -> None:
        """Give the connection up, and try no more."""
        self._scope.cancel()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.invalidate("no longer needed")
        was_down, self.error = self.error is not None, AwayError(f"{self.name} is no longer part of it")
        self._settled.set()
        if was_down:
            self._changed(self, True)  # others serve what it did

    def renew(self, reason: str) -> None:
        """Give the connection up for a new one, as to another server that has become the primary."""
        if self.connection is not None:
            self.connection.invalidate(reason)

    def forget(self, connection: Connection) -> None:
        """Note that a connection is broken, by whoever notices first."""
        if self.connection is connection:
            self.connection = None
            if self.error is None:
                self._settled = trio.Event()

    async def run(self) -> None:
        """Keep a connection, until cancelled."""
        with self._scope:
            pauses = _pauses(self._rng)
            while True:
                closed = trio.Event()
                try:
                    connection = await self._connect(closed)
                except (AwayError, UnfitError) as exc:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self.find_down(exc)
                else:
                    up_at = trio.current_time()
                    self.connection = connection
                    self._found_up()
                    self._connected(self)
                    await closed.wait()
                    self.forget(connection)
                    if (
                        trio.current_time() - up_at > LONGEST_PAUSE
                    ):  # else one that breaks at once would be tried without end
                        pauses = _pauses(self._rng)
                        continue
                await trio.sleep(next(pauses))

    async def _connect(self, closed: trio.Event) -> Connection:
        address = await self._find()
        connection = await self._open(address, closed)
        try:
            with trio.move_on_after(PATIENCE):
                await self._check_server(connection, address)
                self.address, self.name = address, shown(address)
                self.connections += 1
                return connection
        except BaseException:
            connection.invalidate("it won't do")
            raise
        connection.invalidate("it owes an answer")
        raise AwayError(f"{shown(address)} did not answer within {PATIENCE:g} s")


def _pauses(rng: random.Random) -> Iterator[float]:
    """Yield pauses that double up to the longest, each between half of it and all of it, so that processes don't come at once."""
    pause = 0.02
    while True:
        yield pause * (1 - rng.random() / 2)
        pause = min(2 * pause, LONGEST_PAUSE)
