"""One course of the demo from begin to end: services, clients, load, and whoever watches.

Everything lives in one nursery, so nothing is left behind, however it ends. A watcher gets the Course and reads: the totals, the
timeline, the policies' statistics.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal

import attrs
import httpx
import trio

import trioresil

from .clients import ResilientClient, bare, open_http_client
from .events import EventCounter
from .load import DRAIN_SECONDS, Lane, drive
from .service import FlakyService
from .timeline import Side, Timeline
from .weather import Weather

SPARE_SECONDS: Final = 15.0
"""For starting and closing. A course never lasts longer than its seconds, the drain and this."""

LOOK_INTERVAL: Final = 0.05

State = Literal["starting", "running", "finishing", "over"]


@attrs.frozen(kw_only=True)
class Options:
    """What the user may choose."""

    seconds: float = 20.0
    seed: int = 1
    rate: float = 40.0
    on_page: bool = False
    """Whether the bare client's calls are to be seen on a live page too: they then go through a Pipeline without a policy."""


class Course:
    """What happens, and what has been seen so far.

    Attributes:
      state: starting, running (requests are sent), finishing (the last are waited for), over.
      bare, resilient: totals of the two sides.
      bare_service, resilient_service: the two instances of the service.
      client: the resilient client, once it is there.
      stopped: whether `stop` ended it early.
      overdue: whether it had to be cut off, because something hung.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.weather = Weather(options.seed, options.seconds)
        self.timeline = Timeline(self.weather)
        self.bare = Side("bare httpx")
        self.resilient = Side("trioresil")
        self.bare_service = FlakyService(self.weather, self._clock, self._sent_by_bare)
        self.resilient_service = FlakyService(self.weather, self._clock, self._sent_by_resilient)
        self.events = EventCounter(self._clock)
        self.client: ResilientClient | None = None
        self.state: State = "starting"
        self.stopped = False
        self.overdue = False
        self._began_at = 0.0
        self._ended_at: float | None = None
        self._load = trio.CancelScope()

    @property
    def elapsed(self) -> float:
        """Seconds since the first request; stands still when it is over."""
        if self.state == "starting":
            return 0.0
        return (self._ended_at if self._ended_at is not None else trio.current_time()) - self._began_at

    def stop(self) -> None:
        """End it now; requests under way are cut off."""
        self.stopped = True
        self._load.cancel(reason="the demo is stopped")

    async def run(self, watch: Watch) -> None:
        """Run it all, with a watcher, which is cancelled in the end."""
        limit = self.options.seconds + DRAIN_SECONDS + SPARE_SECONDS
        try:
            with trio.move_on_after(limit) as scope:
                await self._run(watch)
            self.overdue = scope.cancelled_caught
        finally:
            self._end()

    async def _run(self, watch: Watch) -> None:
        async with trio.open_nursery() as nursery:
            bare_url = await nursery.start(self.bare_service.serve)
            resilient_url = await nursery.start(self.resilient_service.serve)
            async with _open(bare_url) as bare_http, _open(resilient_url) as resilient_http:
                await self._send(bare_http, resilient_http, watch)
            nursery.cancel_scope.cancel(reason="the demo is over")

    async def _send(
        self,
        bare_http: httpx.AsyncClient,
        resilient_http: httpx.AsyncClient,
        watch: Callable[[Course], Awaitable[object]],
    ) -> None:
        self.client = ResilientClient(resilient_http, self.options.rate)
        bare_call = bare(bare_http)
        if self.options.on_page:  # which knows policies and services, and nothing of calls around which there are none
            bare_call = trioresil.Pipeline(name=self.bare.name)(bare_call)
        lanes = (
            Lane(bare_call, self.bare, lambda each: each.bare),
            Lane(self.client.call, self.resilient, lambda each: each.resilient),
        )
        with trioresil.instrument(self.events):
            async with trio.open_nursery() as watching:
                self._began_at = trio.current_time()
                self.state = "running"
                watching.start_soon(watch, self)
                watching.start_soon(self._look)
                with self._load:
                    await drive(lanes, self.timeline, self.options.rate, self._began_at)
                self._end()
                watching.cancel_scope.cancel(reason="the demo is over")

    async def _look(self) -> None:
        """Follow the circuit's state, and the course's own."""
        assert self.client is not None
        while True:
            self.timeline.slice_at(self.elapsed).see_circuit(self.client.breaker.state.value)
            if self.elapsed >= self.options.seconds:
                self.state = "finishing"
            await trio.sleep(LOOK_INTERVAL)

    def _end(self) -> None:
        if self._ended_at is None:
            self._ended_at = trio.current_time()
            if self.state == "starting":
                self._began_at = self._ended_at
        self.state = "over"

    def _clock(self) -> float:
        return trio.current_time() - self._began_at

    def _sent_by_bare(self, at: float) -> None:
        self.bare.total.sent += 1
        self.timeline.slice_at(at).bare.sent += 1

    def _sent_by_resilient(self, at: float) -> None:
        self.resilient.total.sent += 1
        self.timeline.slice_at(at).resilient.sent += 1


Watch = Callable[[Course], Awaitable[object]]
"""Sees a course while it runs, until it is cancelled."""


class _open:
    """Open a client that has made a first exchange; close it even while everything is being cancelled."""

    def __init__(self, base_url: str) -> None:
        self._client = open_http_client(base_url)

    async def __aenter__(self) -> httpx.AsyncClient:
        try:
            (await self._client.get("/health")).raise_for_status()
        except BaseException:
            await self.__aexit__()
            raise
        return self._client

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await self._client.aclose()
