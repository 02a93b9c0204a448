"""Messages: a connection of its own, made when somebody first wants to hear.

Why not the one that scripts go over: a subscription that goes well is answered by no reply but by a message, one that is
refused by a reply. So a refused one would shift each later reply to the caller before. Here the only replies are to our own
PINGs, one behind each SUBSCRIBE, and they tell which channel was refused.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final

import trio
from coredis.exceptions import ConnectionError as LostError
from coredis.exceptions import RedisError

from .._redaction import one_line
from .._services._tasks import Tasks
from .engine import Receive
from .redis_connection import Connection
from .redis_connections import AwayError, said
from .redis_keeper import PATIENCE, Keeper
from .redis_urls import Address

IDLE: Final = 5.0
"""Seconds between two looks whether a silent connection still lives."""
_logger = logging.getLogger("trioresil")


class Listener:
    """Hears of channels, and tells those who have subscribed.

    Args:
      name: the engine's.
      find: says where the server is.
      open: opens a connection.
    """

    def __init__(
        self,
        name: str,
        tasks: Tasks,
        *,
        find: Callable[[], Awaitable[Address]],
        open: Callable[[Address, trio.Event], Awaitable[Connection]],
        rng: random.Random,
    ) -> None:
        self._name, self._tasks = name, tasks
        self._keeper = Keeper(name, find=find, open=open, check=self._begin, rng=rng)
        self._channels: dict[str, list[Channel]] = {}
        self._refused: dict[str, str] = {}
        self._running = False

    @property
    def subscriptions(self) -> int:
        """Who hears of a channel."""
        return sum(map(len, self._channels.values()))

    @property
    def refused(self) -> dict[str, str]:
        """Channels that the server won't let us hear, and why."""
        return dict(self._refused)

    def subscribe(self, channel: str, receive: Receive) -> Channel:
        """Hear of a channel; see ScriptEngine."""
        subscription = Channel(self, channel, receive)
        others = self._channels.setdefault(channel, [])
        others.append(subscription)
        connection = self._keeper.connection
        if not self._running:
            self._running = True
            self._tasks.start_soon(self._keeper.run)
        elif connection is not None and connection.usable:
            self._tasks.start_soon(self._add, connection, subscription)
        return subscription

    def forget(self, subscription: Channel) -> None:
        """Hear no more for one of the subscriptions."""
        others = self._channels.get(subscription.name, [])
        if subscription in others:
            others.remove(subscription)
        if not others and self._channels.pop(subscription.name, None) is not None:
            connection = self._keeper.connection
            if connection is not None and connection.usable:
                connection.tell(b"UNSUBSCRIBE", subscription.name)

    def look(self, addresses: Collection[Address | None]) -> None:
        """See whether the connection still lives, and goes to one of these servers: one for scripts was made anew."""
        connection = self._keeper.connection
        if connection is None or not connection.usable:
            return
        if self._keeper.address not in addresses:
            connection.invalidate("another server is the primary now")
        else:
            self._tasks.start_soon(self._ping, connection)

    async def _ping(self, connection: Connection) -> None:
        with trio.move_on_after(PATIENCE):
            reply = await connection.ask(b"PING", "still there")
            if isinstance(reply, LostError) or _refusal(reply, "still there") is None:
                return
        connection.invalidate("it does not answer")

    async def _begin(self, connection: Connection, address: Address) -> None:
        """Subscribe to all channels on a new connection, and pass on from now on what comes."""
        connection.hear = self._pass_on
        heard: set[str] = set()
        while missing := [each for each in self._channels if each not in heard]:
            await self._subscribe(connection, missing)
            heard.update(missing)
        self._tasks.start_soon(self._keep_alive, connection)
        for channel in tuple(self._channels):
            if channel not in self._refused:
                self._resync(channel)

    async def _add(self, connection: Connection, subscription: Channel) -> None:
        try:
            await self._subscribe(connection, [subscription.name])
        except AwayError:
            return  # the next connection subscribes to all
        if subscription.name not in self._refused:
            subscription.receive(None)

    async def _subscribe(self, connection: Connection, channels: Sequence[str]) -> None:
        sent = []
        for channel in channels:
            if channel not in self._refused:
                connection.tell(b"SUBSCRIBE", channel)
                sent.append((channel, connection.ask(b"PING", channel)))
        for channel, fence in sent:
            refusal = _refusal(await fence, channel)
            if refusal is None:
                continue
            if isinstance(refusal, RedisError) and not isinstance(refusal, LostError):
                self._refused[channel] = said(refusal)
                _logger.warning(
                    "%s: no messages from channel %s: %s", one_line(self._name), channel, self._refused[channel]
                )
            connection.invalidate("a subscription was refused")  # the PING's own reply is still to come
            raise AwayError(said(refusal))

    async def _keep_alive(self, connection: Connection) -> None:
        while connection.usable:
            await trio.sleep(IDLE)
            if connection.usable:
                await self._ping(connection)

    def _pass_on(self, message: Any) -> None:
        if message[0] == b"message":
            text = message[2].decode()
            for subscription in tuple(self._channels.get(message[1].decode(), ())):
                subscription.receive(text)

    def _resync(self, channel: str) -> None:
        for subscription in tuple(self._channels.get(channel, ())):
            subscription.receive(None)


def _refusal(reply: object, token: str) -> Exception | None:
    """Return None for the answer to our own PING, else the error that came in its place."""
    if isinstance(reply, Exception):
        return reply
    return None if reply == token.encode() else AwayError("an answer that was not asked for")


class Channel:
    """One who hears of a channel."""

    def __init__(self, listener: Listener, name: str, receive: Receive) -> None:
        self.name = name
        self._listener = listener
        self._receive = receive
        self._closed = False

    def receive(self, message: str | None) -> None:
        """Tell him, unless closed."""
        if not self._closed:
            self._receive(message)

    def close(self) -> None:
        """Hear no more."""
        if not self._closed:
            self._closed = True
            self._listener.forget(self)
