"""Where the shared state lies: on one server, on the primary that sentinels name, or spread over the primaries of a cluster.

A site says which keeper has a key's server. That is one keeper for ever, whose server may be another from time to time, but for
a cluster: there each primary has its own, and the table of slots changes while the program runs.
"""

from __future__ import annotations

import binascii
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import trio
from coredis.exceptions import AskError, MovedError
from coredis.exceptions import ConnectionError as LostError

from .._services._tasks import Tasks
from .engine import EngineDownError
from .redis_connection import Connection
from .redis_connections import AwayError, Settings, UnfitError, check_server, open_connection, said
from .redis_keeper import Keeper
from .redis_urls import Address, shown

SLOTS: Final = 16384
SENTINEL_TIMEOUT: Final = 0.5
"""Seconds that one sentinel has to answer."""
TABLE_INTERVAL: Final = 0.1
"""Seconds between two looks at a cluster's table, at least."""

Changed = Callable[[Keeper, bool], None]
Connected = Callable[[Keeper], None]


class Site(Protocol):
    """Which keeper has a key's server."""

    @property
    def keepers(self) -> Sequence[Keeper]:
        """All of them."""

    @property
    def error(self) -> Exception | None:
        """Why nothing can be reached, None while something can."""

    async def settled(self) -> None:
        """Wait until each has been tried."""

    def give_up(self, waited: float) -> None:
        """Find down what could not be tried in that time."""

    def known_keeper(self, key: str) -> Keeper | None:
        """Return the one that has a key's server, None if that is not known."""

    async def keeper_for(self, key: str, within: float) -> Keeper:
        """Return it when it is known."""

    def redirected(self, error: AskError, keeper: Keeper) -> Keeper:
        """Return where a key lies instead, according to an answer of that keeper's server."""

    def refused(self, keeper: Keeper) -> None:
        """Note that a server answered that it is no primary, or not part of a whole cluster."""

    async def run(self) -> None:
        """Keep connections, until cancelled."""


class Single:
    """One server, or the primary that sentinels name."""

    def __init__(
        self, settings: Settings, tasks: Tasks, changed: Changed, connected: Connected, rng: random.Random
    ) -> None:
        self._settings, self._tasks = settings, tasks
        self._addresses = list(settings.place.addresses)
        find = self._ask_sentinels if settings.place.kind == "sentinel" else self._only
        self._keeper = Keeper(
            str(settings.place),
            find=find,
            open=functools.partial(_open, tasks, settings),
            check=functools.partial(check_server, allow_eviction=settings.allow_eviction),
            changed=changed,
            connected=connected,
            rng=rng,
        )
        self.keepers: Sequence[Keeper] = (self._keeper,)

    @property
    def error(self) -> Exception | None:
        return self._keeper.error

    async def settled(self) -> None:
        await self._keeper.settled()

    def give_up(self, waited: float) -> None:
        self._keeper.give_up(waited)

    def known_keeper(self, key: str) -> Keeper | None:
        return self._keeper

    async def keeper_for(self, key: str, within: float) -> Keeper:
        return self._keeper

    def redirected(self, error: AskError, keeper: Keeper) -> Keeper:
        raise UnfitError(f"{keeper.name} is part of a cluster: use redis+cluster://")

    def refused(self, keeper: Keeper) -> None:
        keeper.renew("it is no primary")

    async def run(self) -> None:
        await self._keeper.run()

    async def _only(self) -> Address:
        return self._addresses[0]

    async def _ask_sentinels(self) -> Address:
        """Return where the primary is, by the first sentinel that knows; it is asked first the next time."""
        errors: list[Exception] = []
        for address in tuple(self._addresses):
            try:
                found = await _ask(
                    self._tasks, self._settings, address, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service
                )
            except (AwayError, UnfitError) as exc:
                errors.append(exc)
                continue
            if found is None:
                errors.append(UnfitError(f"{shown(address)}: it watches no service {self._settings.place.service!r}"))
                continue
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            return found[0].decode(), int(found[1])
        away = [each for each in errors if isinstance(each, AwayError)]
        kind = AwayError if away else UnfitError  # the one that is away may know
        raise kind("no sentinel knows the primary: " + "; ".join(map(str, errors)))

    @property
    def _service(self) -> bytes:
        return self._settings.place.service.encode()


class Cluster:
    """The primaries of a cluster, by slot."""

    def __init__(
        self, settings: Settings, tasks: Tasks, changed: Changed, connected: Connected, rng: random.Random
    ) -> None:
        self._settings, self._tasks, self._changed = settings, tasks, changed
        self._connected, self._rng = connected, rng
        self._keepers: dict[Address, Keeper] = {}
        self._slots: list[Keeper | None] = [None] * SLOTS
        self._known = trio.Event()
        self._wanted = trio.Event()
        self._error: Exception | None = None

    @property
    def keepers(self) -> Sequence[Keeper]:
        return tuple(self._keepers.values())

    @property
    def error(self) -> Exception | None:
        """Why nothing can be reached: of the table, or of the last primary, if all are down."""
        if not self._keepers:
            return self._error
        errors = [each.error for each in self._keepers.values()]
        return None if None in errors else errors[-1]

    async def settled(self) -> None:
        await self._known.wait()
        for keeper in self.keepers:
            await keeper.settled()

    def give_up(self, waited: float) -> None:
        if not self._keepers and self._error is None:
            self._error = AwayError(f"{self._settings.place}: no answer within {waited:g} s")
        for keeper in self.keepers:
            keeper.give_up(waited)

    def known_keeper(self, key: str) -> Keeper | None:
        return self._slots[slot_of(key)]

    async def keeper_for(self, key: str, within: float) -> Keeper:
        with trio.move_on_after(within if self._error is None else 0):
            await self._known.wait()
        keeper = self.known_keeper(key)
        if keeper is None:
            self._wanted.set()
            raise EngineDownError(str(self._error or "no node of the cluster has the key's slot"))
        return keeper

    def redirected(self, error: AskError, keeper: Keeper) -> Keeper:
        host = error.host or (keeper.address[0] if isinstance(keeper.address, tuple) else "")
        target = self._keeper((host, error.port))
        if isinstance(error, MovedError):
            self._slots[error.slot_id] = target
            self._wanted.set()
        return target

    def refused(self, keeper: Keeper) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            self._wanted = trio.Event()
            try:
                self._take(await self._table())
                self._error = None
                self._known.set()
            except (AwayError, UnfitError) as exc:
                await trio.lowlevel.checkpoint_if_cancelled()
                self._error = exc
                self._wanted.set()
            if isinstance(self._error, UnfitError):
                self._known.set()
            await self._wanted.wait()
            await trio.sleep(TABLE_INTERVAL)

    def _keeper(self, address: Address) -> Keeper:
        """Return the keeper of a primary, a new one if it was unknown."""
        keeper = self._keepers.get(address)
        if keeper is None:

            async def find() -> Address:
                return address

            keeper = self._keepers[address] = Keeper(
                shown(address),
                find=find,
                open=functools.partial(_open, self._tasks, self._settings),
                check=self._check,
                changed=self._keeper_changed,
                connected=self._connected,
                rng=self._rng,
            )
            self._tasks.start_soon(keeper.run)
        return keeper

    async def _check(self, connection: Connection, address: Address) -> None:
        try:
            await check_server(connection, address, allow_eviction=self._settings.allow_eviction)
        except AwayError:
            self._wanted.set()
            raise

    def _keeper_changed(self, keeper: Keeper, up: bool) -> None:
        if not up:
            self._wanted.set()  # another may have taken its place
        self._changed(keeper, up)

    async def _table(self) -> Any:
        """Return the table of slots, from a node that is connected, or else from any that is known."""
        for keeper in self.keepers:
            if keeper.is_up and keeper.connection is not None:
                with trio.move_on_after(SENTINEL_TIMEOUT):
                    reply = await keeper.connection.ask(b"CLUSTER", b"SLOTS")
                    if isinstance(reply, list):
                        return reply
        errors: list[Exception] = []
        for address in dict.fromkeys((*self._keepers, *self._settings.place.addresses)):
            try:
                table = await _ask(self._tasks, self._settings, address, b"CLUSTER", b"SLOTS")
            except (AwayError, UnfitError) as exc:
                errors.append(exc)
                continue
            if table:
                return [[*each[:2], [each[2][0] or address[0], *each[2][1:]]] for each in table]
            errors.append(AwayError(f"{shown(address)}: no slot of the cluster is served"))
        away = [each for each in errors if isinstance(each, AwayError)]
        raise (away or errors)[0]

    def _take(self, table: Any) -> None:
        slots: list[Keeper | None] = [None] * SLOTS
        for first, last, primary, *_ in table:
            keeper = self._keeper((primary[0].decode() if isinstance(primary[0], bytes) else primary[0], primary[1]))
            slots[first : last + 1] = [keeper] * (last + 1 - first)
        self._slots = slots
        serving = set(map(id, slots))
        for address, keeper in tuple(self._keepers.items()):
            if id(keeper) not in serving:
                del self._keepers[address]
                keeper.stop()


def slot_of(key: str) -> int:
    """Return a key's slot: the checksum of its hash tag, or of all of it if it has none."""
    tag = key.partition("{")[2].partition("}")
    return binascii.crc_hqx((tag[0] if tag[0] and tag[1] else key).encode(), 0) % SLOTS


async def _open(tasks: Tasks, settings: Settings, address: Address, closed: trio.Event) -> Connection:
    return await open_connection(tasks, settings, address, closed=closed)


async def _ask(tasks: Tasks, settings: Settings, address: Address, *words: bytes) -> Any:
    """Ask one question over a connection of its own: a sentinel, or a node of a cluster for its table.

    Raises:
      AwayError, UnfitError: no answer, or an error.
    """
    to_sentinel = settings.place.kind == "sentinel"
    connection: Connection | None = None
    with trio.move_on_after(SENTINEL_TIMEOUT):
        try:
            connection = await open_connection(tasks, settings, address, closed=trio.Event(), to_sentinel=to_sentinel)
            reply = await connection.ask(*words)
        finally:
            if connection is not None:
                connection.invalidate("it was for one question")
        if isinstance(reply, LostError):
            raise AwayError(f"{shown(address)}: {reply}")
        if isinstance(reply, Exception):
            raise UnfitError(f"{shown(address)}: {said(reply)}")
        return reply
    raise AwayError(f"{shown(address)} did not answer within {SENTINEL_TIMEOUT:g} s")
