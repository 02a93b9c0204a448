"""The pool's maintenance: closes idle connections in time while nobody calls, and keeps some warm.

Without it everything works: idle connections are trimmed whenever the pool is used. It sleeps until the first of them is due,
or an origin is short of warm ones.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final

import trio

from .._kernel.backoff import exponential
from ._leases import Origin, Slot
from ._ledger import Ledger
from ._pool_requests import RequestPath

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that a connection may take that is opened for nobody yet."""

_BACKOFF: Final = exponential(0.5, max=60.0)


class Upkeep:
    """Looks after one run's books.

    Args:
      path: opens connections.
      ledger: the books.
      rng: spreads the attempts at an origin that can't be reached.
    """

    def __init__(self, path: RequestPath, ledger: Ledger, rng: Random) -> None:
        self._path = path
        self._ledger = ledger
        self._rng = rng
        self._woken = trio.Event()
        self._filling: set[Origin] = set()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Look after them until the pool is closed."""
        ledger = self._ledger
        ledger.wake_at, ledger.wake = math.inf, self._wake
        ledger.short.update(dict.fromkeys(ledger.origins.values()))
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while not ledger.closing:
                    self._look(nursery)
                    with trio.move_on_at(ledger.wake_at):
                        await self._woken.wait()
                nursery.cancel_scope.cancel("the pool was closed")
        finally:
            ledger.wake_at, ledger.wake = -math.inf, _nothing

    def _wake(self) -> None:
        self._woken.set()

    def _look(self, nursery: trio.Nursery) -> None:
        self._woken = trio.Event()
        ledger = self._ledger
        ledger.wake_at = ledger.reap(trio.current_time())
        while ledger.short:
            origin, _ = ledger.short.popitem()
            if origin not in self._filling:
                self._filling.add(origin)
                nursery.start_soon(self._fill, origin)

    async def _fill(self, origin: Origin) -> None:
        """Open connections until an origin has as many warm ones as it shall, as far as there is room for them."""
        delays = _BACKOFF.delays(self._rng)
        try:
            while self._is_short(origin):
                slot = Slot(origin)
                if not self._ledger.take_slot(slot):
                    return
                try:
                    reached = await self._open(origin)
                finally:
                    self._ledger.free_slot(slot)
                if reached:
                    delays = _BACKOFF.delays(self._rng)
                else:
                    await trio.sleep(next(delays))
        finally:
            self._filling.discard(origin)

    def _is_short(self, origin: Origin) -> bool:
        ledger = self._ledger
        if ledger.closing or len(origin.idle) >= ledger.min_idle or ledger.origins.get(origin.key) is not origin:
            return False
        if origin.streams is not None and (origin.streams.live or origin.streams.pending is not None):
            return False
        if origin.streams is not None and origin.streams.multiplexed and origin.idle:
            return False
        return len(ledger.idle) < ledger.max_idle and ledger.open < ledger.max_connections

    async def _open(self, origin: Origin) -> bool:
        ledger = self._ledger
        connection = None
        ledger.make_room(origin)
        try:
            with trio.move_on_after(CONNECT_TIMEOUT) as scope:
                connection = await self._path.open(origin, None)
            if scope.cancelled_caught:
                raise TimeoutError(f"no connection to {origin.name} within {CONNECT_TIMEOUT:g} s")
        except Exception as exc:
            self._path.note_failure(origin, exc)
        finally:
            ledger.dialled(origin, connection, None)
        if connection is None:
            return False
        ledger.rest(connection, trio.current_time())
        return True


def _nothing() -> None:
    pass
