"""HTTP/2 in the pool: one connection for many requests, each a stream and a lease, within what the peer allows.

The law:

* Streams are given out first come, first served. A stream that comes free goes to whoever has waited longest, together with its
  connection, so nobody barges past and no wake-up is lost.
* One request dials, the others of the origin wait for it, until the new connection's settings say how many streams it carries. If
  that dial fails, or gives HTTP/1.1, those who waited each go their own way. If its request is cancelled, the next one dials.
* When every stream of every connection is taken, another connection is opened if a slot is free, else requests wait.
* A stream that its request gave up is reset, and no other notices. A connection that the peer wants to end (GOAWAY), that is too
  old, or whose certificate has changed is retired: it serves what it has and takes nothing new. So is one that allows no streams
  for now, if that is so still when its last stream ends.
* A connection holds one slot while it has streams; idle it holds none, as over HTTP/1.1.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

from ._leases import Connection, Lease, Origin, Reason
from ._ledger import Ledger


class OriginStreams:
    """What is known of one origin's HTTP/2 connections."""

    __slots__ = ("live", "multiplexed", "pending", "queue", "roomy")

    def __init__(self) -> None:
        self.multiplexed: bool | None = None  # None: nobody has asked yet
        self.live: set[Connection] = set()  # they take new streams, now or later
        self.roomy: dict[Connection, None] = {}  # they take one now
        self.queue: OrderedDict[Lease, None] = OrderedDict()
        self.pending: Lease | None = None  # it dials, or has dialled and the settings are not there yet


class Multiplexer:
    """Gives out streams."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def applies_to(self, origin: Origin) -> bool:
        """Tell whether connections to this origin may be HTTP/2."""
        if origin.streams is None:
            origin.streams = OriginStreams()
        return origin.streams.multiplexed is not False

    @enable_ki_protection
    def distrust(self, origin: Origin, heard_after: float) -> None:
        """Give nothing new to connections that have been silent since: they may be dead."""
        for connection in tuple(origin.streams.live):
            if connection.was_silent_since(heard_after):
                connection.retired = True
                self.sort(connection)

    # -- getting a stream ------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def enter(self, lease: Lease) -> bool:
        """Attach the lease to a stream, or let it dial (with a slot, if one is free); False: it has to wait, see `wait`."""
        state: OriginStreams = lease.origin.streams
        if state.queue:
            return False
        connection = self._with_room(state)
        if connection is not None:
            self._ledger.attach(lease, connection)
            return True
        if state.pending is not None:
            return False
        assert lease.slot is not None
        if self._ledger.take_slot(lease.slot) or not state.live:
            state.pending = lease
            return True
        return False

    async def wait(self, lease: Lease) -> None:
        """Wait until the lease has a stream, or a slot. What was taken when this raises is given back with the lease."""
        state: OriginStreams = lease.origin.streams
        if lease.connection is None and state.pending is not lease:
            await self._park(lease, state)
        slot = lease.slot
        if lease.connection is None and slot is not None and slot.held == 0 and not self._ledger.take_slot(slot):
            await self._ledger.queue_for_slot(slot)

    @staticmethod
    async def _park(lease: Lease, state: OriginStreams) -> None:
        lease.task = current_task()
        state.queue[lease] = None

        def abort(_raise_cancel: RaiseCancelT) -> Abort:
            del state.queue[lease]
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    @enable_ki_protection
    def advance(self, origin: Origin) -> None:
        """Serve those who wait, as far as it goes."""
        state: OriginStreams | None = origin.streams
        while state is not None and state.queue:
            connection = self._with_room(state)
            if connection is not None:
                lease, _ = state.queue.popitem(last=False)
                self._ledger.attach(lease, connection)
                reschedule(lease.task)
                continue
            if state.multiplexed is False:
                self._let_go(state)
            elif state.pending is None:
                lease = next(iter(state.queue))
                assert lease.slot is not None
                if self._ledger.take_slot(lease.slot) or not state.live:
                    state.pending = lease
                    del state.queue[lease]
                    reschedule(lease.task)
            return

    @staticmethod
    def _let_go(state: OriginStreams) -> None:
        while state.queue:
            reschedule(state.queue.popitem(last=False)[0].task)

    # -- connections -----------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def dialled(self, lease: Lease, connection: Connection) -> None:
        """Note what a lease's dial gave, or the idle connection that it took."""
        state: OriginStreams | None = lease.origin.streams
        if state is None:
            return
        state.multiplexed = connection.multiplexed
        if connection.multiplexed:
            connection.core.on_settings = partial(self.learn, connection)
            connection.core.on_goaway = partial(self.went_away, connection)
        if state.pending is lease and (connection.settled or not connection.multiplexed):
            state.pending = None
        self.advance(lease.origin)

    @enable_ki_protection
    def dial_failed(self, lease: Lease) -> None:
        """Let those who waited for a dial that failed go their own way."""
        state: OriginStreams | None = lease.origin.streams
        if state is not None and state.pending is lease:
            state.pending = None
            self._let_go(state)

    @enable_ki_protection
    def settle(self, lease: Lease) -> None:
        """Stop waiting for settings: they are there, or the first response came without them."""
        state: OriginStreams | None = lease.origin.streams
        if state is not None and state.pending is lease:
            state.pending = None
            self.advance(lease.origin)

    @enable_ki_protection
    def learn(self, connection: Connection, limit: int) -> None:
        """Take in how many streams the peer allows."""
        connection.limit, connection.settled = limit, True
        self.sort(connection)
        state: OriginStreams = connection.origin.streams
        if state.pending in connection.leases:
            state.pending = None
        self.advance(connection.origin)

    async def look(self, lease: Lease, connection: Connection) -> bool:
        """Take in what the peer said while a connection was idle; tell whether it may be used, else it is taken off the lease."""
        fit = await connection.core.look() and not connection.retired and connection.limit > 0
        connection.looking = False
        if fit:
            self.sort(connection)
            return True
        slot, connection.slot = connection.slot, None
        connection.retired = True
        lease.slot = slot
        self._ledger.part(lease, "stale")
        return False

    @enable_ki_protection
    def went_away(self, connection: Connection) -> None:
        """Give a connection nothing new: the peer wants to end it."""
        connection.retired = True
        self.sort(connection)
        self.advance(connection.origin)

    def sort(self, connection: Connection) -> None:
        """Note whether a connection takes streams, now or at all."""
        state: OriginStreams = connection.origin.streams
        if connection.retired or not connection.leases:
            state.live.discard(connection)
            state.roomy.pop(connection, None)
            return
        state.live.add(connection)
        if len(connection.leases) < connection.limit and not connection.looking:
            state.roomy[connection] = None
        else:
            state.roomy.pop(connection, None)

    def _with_room(self, state: OriginStreams) -> Connection | None:
        while state.roomy:
            connection = next(iter(state.roomy))
            if self._is_usable(connection):
                return connection
            connection.retired = True
            self.sort(connection)
        return None

    def _is_usable(self, connection: Connection) -> bool:
        if connection.expires_at <= trio.current_time():
            return False
        current = not connection.origin.encrypted or connection.generation == self._ledger.generation()
        return current and bool(connection.core.is_available())

    @enable_ki_protection
    def part(self, connection: Connection, reason: Reason | None) -> None:
        """Go on after a stream of a connection has ended: hand it on, or let the connection go idle, or close it."""
        ledger, origin = self._ledger, connection.origin
        connection.retired = connection.retired or not self._is_usable(connection)
        if not connection.leases:
            origin.in_use -= 1
            if connection.limit < 1:  # nobody would read, and learn that it carries some again
                connection.retired = True
            if not connection.retired and origin.streams.queue:
                origin.streams.roomy[connection] = None  # whoever waits has it before it would go idle
                self.advance(origin)
        self.sort(connection)
        if connection.leases:
            return
        if connection.slot is not None:
            ledger.free_slot(connection.slot)
            connection.slot = None
        if connection.retired:
            ledger.close(connection, reason or "retired")
        else:
            ledger.rest(connection, trio.current_time())
