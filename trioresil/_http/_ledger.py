"""The pool's books: who holds a slot, which connection is whose, what is idle. All of it is synchronous; nothing here waits.

The law:

* A *slot* is a place for one connection in use. It is taken from the origin's limiter first, then from the global one, on behalf
  of the Slot itself, and given back in the other order; whoever queues for the second keeps the first. So an origin whose
  connections hang takes at most its own share from the others, and both queues are first come, first served.
* A *lease* is one request's hold on a connection: over HTTP/1.1 with a slot of its own, over HTTP/2 as one of the streams of a
  connection that holds a slot while it has any. `leave` ends it: once, synchronously, whatever happened.
* Open connections (in use, being dialled, idle) never exceed the global limit: idle ones hold no slot, so whoever holds one and
  must dial closes the connection that has been idle longest, of any origin, if there is no room. One ordered dictionary of idle
  connections, oldest first, makes this, and expiry, O(1).

The newest idle connection is used first, so that the others may grow old and close. An idle connection that can be read is not
used again: an idle server has nothing to say but goodbye.
"""

from __future__ import annotations

import gc
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, Final

import trio
from trio.lowlevel import current_trio_token, enable_ki_protection

from .. import _instruments
from .._events import ConnectionClosed
from ._leases import Connection, Lease, Origin, Reason, Slot

MAX_ORIGINS: Final = 1000
"""Origins that are remembered; beyond, those with nothing going on are forgotten, oldest first."""

LOST_AFTER: Final = 1.0
"""Seconds without a connection given back after which responses that were thrown away are looked for."""

WARM_LOOK: Final = 1.0
"""Seconds at least between two looks at connections that are kept warm, however short their idle time is."""


class Ledger:
    """The books of one pool, in one run."""

    def __init__(
        self,
        owner: Any,
        *,
        max_connections: float,
        max_idle: float,
        idle_timeout: float,
        min_idle: int,
        lifetime: Callable[[], float],
        generation: Callable[[], int],
    ) -> None:
        self.owner = owner
        self.max_connections = max_connections
        self.max_idle = max_idle
        self.idle_timeout = idle_timeout
        self.min_idle = min_idle
        self.lifetime = lifetime
        self.generation = generation
        self.limiter = trio.CapacityLimiter(max_connections)
        self.token = current_trio_token()
        self.origins: OrderedDict[Any, Origin] = OrderedDict()
        self.idle: OrderedDict[Connection, None] = OrderedDict()
        self.connections: set[Connection] = set()
        self.dialling = 0
        self.inside = 0  # leases
        self.granted = self.granted_at_return = self.lost = 0
        self.returned_at = -math.inf
        self.closing = False
        self.pauses: set[trio.CancelScope] = set()
        self._looked = (0, -math.inf)  # slots granted until then, and when to look again
        self._look_delay = 0.0
        self.drained: trio.Event | None = None
        self.wake_at = -math.inf  # when the maintenance task looks again; -inf: there is none
        self.wake: Callable[[], object] = lambda: None
        self.short: dict[Origin, None] = {}  # origins that may lack warm connections
        self.multiplexer: Any = None  # set for HTTP/2

    # -- slots ---------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def admit(self, origin: Origin) -> Lease:
        """Return a lease for a newcomer; with a slot, if one is free and nobody is ahead."""
        lease = Lease(origin)
        self.inside += 1
        origin.requests += 1
        return lease

    @enable_ki_protection
    def take_slot(self, slot: Slot) -> bool:
        """Take a slot, if one is free and nobody is ahead."""
        own = slot.origin.limiter
        try:
            if own is not None:
                own.acquire_on_behalf_of_nowait(slot)
        except trio.WouldBlock:
            return False
        try:
            self.limiter.acquire_on_behalf_of_nowait(slot)
        except trio.WouldBlock:
            if own is not None:
                own.release_on_behalf_of(slot)
            return False
        slot.held = 2
        self.granted += 1
        return True

    @enable_ki_protection
    async def queue_for_slot(self, slot: Slot) -> None:
        """Take a slot, in the order of arrival. What was taken when this raises is given back with the lease."""
        if slot.held == 0:
            if slot.origin.limiter is not None:
                await slot.origin.limiter.acquire_on_behalf_of(slot)
            slot.held = 1
        if slot.held == 1:
            await self.limiter.acquire_on_behalf_of(slot)
            slot.held = 2
            self.granted += 1

    @enable_ki_protection
    def free_slot(self, slot: Slot) -> None:
        """Give back what a slot holds."""
        held, slot.held = slot.held, 0
        if held == 2:
            self.limiter.release_on_behalf_of(slot)
        if held and slot.origin.limiter is not None:
            slot.origin.limiter.release_on_behalf_of(slot)

    def pause(self, timeout: float | None) -> trio.CancelScope:
        """Return the scope for a wait before a request is sent. Closing the pool ends it; `resume` must follow."""
        scope = trio.CancelScope(deadline=math.inf if timeout is None else trio.current_time() + timeout)
        self.pauses.add(scope)
        return scope

    def resume(self, scope: trio.CancelScope) -> None:
        """Forget a scope that was left."""
        self.pauses.discard(scope)

    def collect_lost(self, cap: float) -> None:
        """Let the garbage collector look for responses that were thrown away, if it seems that the slots are lost in them.

        A response is part of a cycle, so one that was never closed keeps its slot until the collector runs, and in a
        program that only waits it never does. It looks so when as many slots as there are were taken since one was
        last given back, or when none was for a while. A look that finds nothing makes the next one later.
        """
        now = trio.current_time()
        stuck = self.granted - self.granted_at_return >= cap or now >= self.returned_at + LOST_AFTER
        if not stuck or self.granted == self._looked[0] or now < self._looked[1]:
            return
        lost = self.lost
        gc.collect()
        self._look_delay = 0.0 if self.lost > lost else min(60.0, max(LOST_AFTER, 2 * self._look_delay))
        self._looked = (self.granted, now + self._look_delay)

    @property
    def open(self) -> int:
        """Connections that are open, or will be."""
        return len(self.connections) + self.dialling

    # -- connections -----------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def take_idle(self, lease: Lease, now: float, heard_after: float) -> Connection | None:
        """Attach the newest idle connection of the origin that is fit for use, and was used since; else return None: dial."""
        origin = lease.origin
        self.trim(now)
        while origin.idle:
            connection, _ = origin.idle.popitem()
            if connection.was_silent_since(heard_after):
                if not connection.multiplexed:  # not tried itself: it may be well
                    origin.idle[connection] = None
                    return None
                del self.idle[connection]
                self.close(connection, "stale")
                continue
            del self.idle[connection]
            reason = self.unfit(connection, now)
            if reason is not None:
                self.close(connection, reason)
                continue
            connection.looking = connection.multiplexed and connection.stream.is_readable()
            self.attach(lease, connection)
            if len(origin.idle) < self.min_idle:
                self.note_short(origin)
            return connection
        return None

    def note_short(self, origin: Origin) -> None:
        """Let the maintenance task look at an origin that may be short of warm connections."""
        self.short[origin] = None
        self.wake()

    def unfit(self, connection: Connection, now: float) -> Reason | None:
        """Tell why an idle connection must not be used."""
        if now >= connection.expires_at:
            return "expired"
        if connection.generation != self.generation() and connection.origin.encrypted:
            return "retired"
        return "stale" if connection.is_stale() else None

    def attach(self, lease: Lease, connection: Connection) -> None:
        """Let a lease have a connection, or one more stream of it."""
        if not connection.leases:
            connection.origin.in_use += 1
        connection.leases.add(lease)
        lease.connection = connection
        if connection.multiplexed and lease.slot is not None:
            if connection.slot is None:
                connection.slot = lease.slot
            else:
                self.free_slot(lease.slot)
            lease.slot = None
            self.multiplexer.sort(connection)

    @enable_ki_protection
    def make_room(self, origin: Origin) -> None:
        """Count a dial in, and close what has been idle longest if there is no room for it."""
        self.dialling += 1
        origin.dialling += 1
        while self.idle and self.open > self.max_connections:
            self.close_idle(next(iter(self.idle)), "evicted")

    @enable_ki_protection
    def dialled(self, origin: Origin, connection: Connection | None, lease: Lease | None) -> None:
        """Count a dial out, and what it gave in."""
        self.dialling -= 1
        origin.dialling -= 1
        if connection is None:
            return
        self.connections.add(connection)
        connection.expires_at = connection.opened_at + self.lifetime()
        origin.opened += 1
        if lease is not None:
            self.attach(lease, connection)

    @enable_ki_protection
    def leave(self, lease: Lease, reason: Reason | None = None) -> None:
        """End a lease. With a reason its connection is not used again; without, it goes idle if the engine is done with it."""
        if lease.left:
            return
        lease.left = True
        self.inside -= 1
        self.part(lease, reason)
        if lease.slot is not None:
            self.free_slot(lease.slot)
        if self.multiplexer is not None:
            self.multiplexer.settle(lease)
            self.multiplexer.advance(lease.origin)
        if self.inside == 0 and self.drained is not None:
            self.drained.set()

    def reclaim(self, lease: Lease) -> None:
        """End the lease of a response that was thrown away. Safe from the garbage collector, which may come at any moment."""
        self.lost += 1
        try:
            self.token.run_sync_soon(copy_context().run, self.leave, lease, "reclaimed")
        except trio.RunFinishedError:
            if lease.connection is not None:
                lease.connection.stream.close_now()

    def part(self, lease: Lease, reason: Reason | None) -> None:
        """Take a lease off its connection, which goes idle or is closed."""
        connection, lease.connection = lease.connection, None
        if connection is None:
            return
        if reason == "reclaimed":
            lease.origin.reclaimed += 1
        elif reason is None:
            self.granted_at_return = self.granted
            self.returned_at = trio.current_time()
        connection.leases.discard(lease)
        if connection.multiplexed:
            if lease.stream is not None:
                connection.core.abandon(lease.stream)
            if connection in self.connections:
                self.multiplexer.part(connection, reason)
            elif not connection.leases:
                connection.origin.in_use -= 1
            return
        connection.origin.in_use -= 1
        if connection not in self.connections:
            return  # closed under its user
        if reason is None and (not connection.core.is_idle() or connection.has_surplus()):
            reason = "retired"
        self.rest(connection, trio.current_time()) if reason is None else self.close(connection, reason)

    def rest(self, connection: Connection, now: float) -> None:
        """Let a connection that nobody uses go idle, or close it."""
        if self.closing or now >= connection.expires_at:
            self.close(connection, "closed" if self.closing else "expired")
            return
        if connection.generation != self.generation() and connection.origin.encrypted:
            self.close(connection, "retired")
            return
        connection.idle_at = connection.heard_at = now
        connection.rested = True
        connection.origin.idle[connection] = None
        self.idle[connection] = None
        self.trim(now)
        while len(self.idle) > self.max_idle + connection.origin.waiting:  # who waits is about to take one
            self.close_idle(next(iter(self.idle)), "idle")
        if min(now + self.idle_timeout, connection.expires_at) < self.wake_at:
            self.wake()

    def trim(self, now: float) -> None:
        """Close what has been idle for too long."""
        for _ in range(len(self.idle)):  # one that is kept warm may be due again at once
            oldest = next(iter(self.idle))
            if now < oldest.idle_at + self.idle_timeout:
                return
            if len(oldest.origin.idle) <= self.min_idle and self.unfit(oldest, now) is None:
                oldest.idle_at = now  # it is to be kept warm
                self.idle.move_to_end(oldest)
            else:
                self.close_idle(oldest, "idle")

    def reap(self, now: float) -> float:
        """Close the idle connections that are not fit for use any more; return when to look again."""
        self.trim(now)
        due = math.inf
        for connection in tuple(self.idle):
            reason = self.unfit(connection, now)
            if reason is None:
                ends_at = connection.idle_at + self.idle_timeout
                if len(connection.origin.idle) <= self.min_idle:
                    ends_at = max(ends_at, now + WARM_LOOK)
                due = min(due, ends_at, connection.expires_at)
            else:
                self.close_idle(connection, reason)
        return due

    def close_idle(self, connection: Connection, reason: Reason) -> None:
        """Close an idle connection."""
        del self.idle[connection]
        del connection.origin.idle[connection]
        self.close(connection, reason)

    def close(self, connection: Connection, reason: Reason) -> None:
        """Close a connection that is in nobody's hands any more."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        connection.retired = True
        connection.origin.closed += 1
        connection.stream.close_now()
        if self.min_idle:
            self.note_short(connection.origin)
        if connection.slot is not None:
            self.free_slot(connection.slot)
            connection.slot = None
        if _instruments.installed:
            age = max(0.0, trio.current_time() - connection.opened_at)
            origin = connection.origin.name
            _instruments.emit(ConnectionClosed, policy=self.owner, origin=origin, reason=reason, age=age)

    # -- the whole -------------------------------------------------------------------------------------------------------

    def forget_quiet_origins(self) -> None:
        """Drop what is remembered of origins with nothing going on, beyond the first MAX_ORIGINS; two looks for each new one."""
        for _ in range(2):
            if len(self.origins) <= MAX_ORIGINS:
                return
            key = next(iter(self.origins))
            origin = self.origins.pop(key)
            if not origin.is_quiet():
                self.origins[key] = origin

    def leases(self) -> Iterator[Lease]:
        """Yield the leases that have a connection."""
        for connection in tuple(self.connections):
            yield from tuple(connection.leases)

    @enable_ki_protection
    def shut(self) -> None:
        """Close every connection and end every lease that has one."""
        self.closing = True
        self.wake()
        for scope in tuple(self.pauses):
            scope.cancel()
        for lease in self.leases():
            self.leave(lease, "closed")
        for connection in tuple(self.idle):
            self.close_idle(connection, "closed")
        for connection in tuple(self.connections):
            self.close(connection, "closed")

    def abandon(self) -> None:
        """Close every connection of a run that is over. Its limiters and its tasks are gone, so nothing is given back."""
        self.closing = True
        for connection in self.connections:
            for lease in connection.leases:
                lease.left = True
            connection.stream.close_now()
        self.connections.clear()
        self.idle.clear()
