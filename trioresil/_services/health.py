"""open_health_monitor: checks that run for as long as the program, and what they say about what it depends on.

The law of this file:

1. Each check has a task of its own, which runs it, waits, and runs it again: a slow one delays no other and never meets itself.
2. A check's outcome is recorded in the step in which it ends, with all that follows from it: the state, the tied circuit and
   pool, the events, the waiters. Nothing in there awaits, and nothing in there calls a check or a subscriber.
3. Whatever a check raises is its outcome. A cancellation is none; nor is what a check raises when its monitor is being left;
   nor a mistake in the program that no repetition mends, such as a check that isn't async: that ends the monitor.
4. Whoever is unwatched is forgotten in the same step: its isolation is released, its waiters are told, and a check that still
   runs is cancelled and not recorded.
"""

from __future__ import annotations

import inspect
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

import attrs
import trio
from trio import CancelScope, MemoryReceiveChannel
from trio.lowlevel import (
    ParkingLot,
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    current_clock,
    disable_ki_protection,
    enable_ki_protection,
)

from .. import _instruments
from .._checks import chance, flag, seconds, text, whole
from .._errors import CheckFailedError, NotAwaitableError, TimedOutError, in_another_run, is_usage_error
from .._events import HealthChanged, HealthStatus
from .._kernel.health import Health, HealthState, Latencies, Result, what_lacks
from .._links import check_cancelled, refuse_generators
from .._notes import name_of, shown
from .._policies.circuit_breaker import CircuitBreaker, Isolation, checked_breaker
from ._tasks import Tasks

Check: TypeAlias = Callable[[], Awaitable[object]]

JITTER: Final = 0.05  # of an interval, to either side
HASTE: Final = 4  # by so much sooner is the next check of what is unsure
WINDOW: Final = 100  # latencies
_logger = logging.getLogger("trioresil")


class Retirable(Protocol):
    """A pool that can be told to lend none of its connections again: open_pool's, or another with this method."""

    def retire(self) -> object:
        """Lend none of the connections again that are open now. Synchronous."""


@attrs.frozen(kw_only=True)
class HealthMonitorStatistics:
    """Snapshot of a HealthMonitor."""

    name: str
    """Its name."""
    healthy: bool
    """Whether the whole is healthy."""
    draining: bool
    """Whether a shutdown has begun."""
    running: bool
    """Whether it is open and each check has its task."""
    checks: Mapping[str, HealthStatus]
    """What is known about each check, by its name, in the order of watching."""
    subscribers: int
    """How many subscribe."""
    missed: int
    """Changes that subscribers lost because they were too slow, in all."""


class open_health_monitor:
    """Check again and again what the program depends on, and know whether it is healthy.

    Who waits for a request to fail has kept a user waiting. A monitor asks beforehand, each in its own time, and changes its mind
    only after several answers that agree. It is not for the calls themselves: those have a CircuitBreaker, which can be tied to a
    check.

    Synopsis::

        async with trioresil.open_health_monitor(interval=10) as health:
            health.watch("db", trioresil.check_tcp("db.internal", 5432), critical=True)
            health.watch("search", check_search, breaker=search_breaker)
            await health.wait_healthy()

    A check starts for the first time at a random instant of its interval, and then every interval, give or take 5 %, from one
    start to the next. While it is unsure (fewer results in a row than `rise` or `fall` ask for) it is four times as fast. One
    that takes longer than its interval is run again when it has ended: it never overlaps itself.

    Sharing: any task of the run may use the monitor. Checks run in the context of the task that opened it.

    Args:
      interval (float, seconds, > 0): from one start of a check to the next. Default: 30.
      timeout (float, seconds, > 0): what takes longer is cancelled and has failed. Default: 5.
      need (dict of str to int >= 1): how many checks of a group must be healthy for the whole to be: {"upstreams": 1}.
        Default: None, no group needs anything.
      rng (random.Random): chance, for the instants of checks. Default: None, seeded by the system.
      name (str): its name in events and statistics. Default: "health".

    Cancellation: entering is no checkpoint. Leaving cancels the checks that run and waits until they have ended; isolations
    have been released before.

    Raises:
      Exception: what a bug of the monitor itself raises, bare, in the block; and a mistake in the program, such as a check that
        isn't async. What else checks raise is in their status.

    Source: HAProxy's and keepalived's `rise` and `fall`; Kubernetes' probes.
    """

    def __init__(
        self,
        *,
        interval: float = 30.0,
        timeout: float = 5.0,
        need: Mapping[str, int] | None = None,
        rng: random.Random | None = None,
        name: str = "health",
    ) -> None:
        self.name: str = text("name", name)
        self._interval = seconds("interval", interval, zero=False, finite=True)
        self._timeout = seconds("timeout", timeout, zero=False)
        self._need = _check_need(need)
        self._rng = chance("rng", rng) or random.Random()
        self._monitor: HealthMonitor | None = None

    @enable_ki_protection
    async def __aenter__(self) -> HealthMonitor:
        if self._monitor is not None:
            raise RuntimeError(
                f"{self.name}: this monitor was opened already: call open_health_monitor() for each `async with`"
            )
        monitor = HealthMonitor(self)
        await monitor._tasks.__aenter__()
        self._monitor = monitor
        if _instruments.installed:
            _instruments.announce(monitor)
        return monitor

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        monitor = self._monitor
        assert monitor is not None
        monitor._tasks.check_task()
        monitor._close()
        return await monitor._tasks.__aexit__(kind, error, traceback)


async def serve_health_monitor(
    *, task_status: trio.TaskStatus[HealthMonitor] = trio.TASK_STATUS_IGNORED, **options: Any
) -> None:
    """Keep a health monitor open until this is cancelled, for a nursery that outlives the function that starts it.

    Synopsis::

        health = await nursery.start(functools.partial(trioresil.serve_health_monitor, interval=10))

    Args:
      task_status: tells the HealthMonitor to `nursery.start`.
      **options: what `open_health_monitor` takes.

    Cancellation: closes the monitor.
    """
    async with open_health_monitor(**options) as monitor:
        task_status.started(monitor)
        await trio.sleep_forever()


class HealthMonitor:
    """What `open_health_monitor` opens. It is not built by hand.

    `monitor[name]` is the HealthStatus of a check, iteration gives the names, `name in monitor` tells whether it is watched.

    Attributes:
      name (str): its name.
      draining (bool): whether a shutdown has begun. Only `/readyz` of `trioresil.asgi.health_app` reads it. Settable.
    """

    def __init__(self, options: open_health_monitor, /) -> None:
        self.name: str = options.name
        self.draining = False
        self._options = options
        self._watches: dict[str, _Watch] = {}
        self._subscribers: list[_Subscriber] = []
        self._missed = 0
        self._waiting = ParkingLot()  # for the whole
        self._clock = current_clock()
        self._is_open = True
        self._tasks = Tasks(self.name)

    # -- what is watched -------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def watch(
        self,
        name: str,
        check: Check,
        *,
        interval: float | None = None,
        timeout: float | None = None,
        rise: int = 2,
        fall: int = 3,
        degraded_above: float | None = None,
        critical: bool = False,
        group: str | None = None,
        breaker: CircuitBreaker | None = None,
        pool: Retirable | None = None,
    ) -> None:
        """Run a check from now on. Synchronous.

        Args:
          name (str): what to call it; no two have the same.
          check (async () -> object): passes if it returns; fails if it raises an Exception, returns False or takes too long.
          interval (float, seconds, > 0): from start to start. Default: None, the monitor's.
          timeout (float, seconds, > 0): when it is cancelled and has failed. Default: None, the monitor's.
          rise (int, >= 1): how many in a row must pass to be healthy. Default: 2.
          fall (int, >= 1): how many in a row must fail to be unhealthy. Default: 3.
          degraded_above (float, seconds, > 0): a check that takes longer is slow; `fall` slow ones in a row are a degraded
            state, which counts as healthy. Default: None, none is slow.
          critical (bool): the whole is healthy only if this is. Default: False.
          group (str): counts for what the group of this name needs. Default: None.
          breaker (CircuitBreaker): isolated while the check is unhealthy. The check's own calls through it get by without a
            verdict and without a probe's slot unless it is CLOSED; then they are calls like any other. Default: None.
          pool (a Pool, or what else has a method `retire`): its connections are retired when the check becomes unhealthy, so
            that none of them is used when it is healthy again. Default: None.

        Raises:
          ValueError: the name is watched already, or an argument is out of range.
          TypeError: an argument is of another kind, as a check that wants arguments.
          RuntimeError: the monitor is closed.
        """
        options = self._options
        watch = _Watch(
            text("name", name),
            _check_function(check),
            interval=options._interval if interval is None else seconds("interval", interval, zero=False, finite=True),
            timeout=options._timeout if timeout is None else seconds("timeout", timeout, zero=False),
            health=Health(whole("rise", rise), whole("fall", fall)),
            degraded_above=math.inf
            if degraded_above is None
            else seconds("degraded_above", degraded_above, zero=False),
            critical=flag("critical", critical),
            group=None if group is None else text("group", group),
            breaker=_check_breaker(breaker),
            pool=_check_pool(pool),
        )
        if name in self._watches:
            raise ValueError(f"name must be one that isn't watched yet, not {name!r}: unwatch it first")
        watch.since = self._now()
        self._check_open()
        first_at = watch.since + watch.interval * options._rng.random()
        self._watches[name] = watch
        self._tasks.start_soon(self._run, watch, first_at, name=f"{self.name}: checks {name}")
        self._wake_waiters()

    @enable_ki_protection
    def unwatch(self, name: str) -> None:
        """Stop a check and forget it: its isolation is released, and `wait_healthy(name)` is a KeyError. Synchronous.

        Raises:
          KeyError: it isn't watched.
        """
        watch = self._watches.pop(name)
        self._end(watch, "unwatched")
        self._wake_waiters()  # the whole may be healthy without it

    def __getitem__(self, name: str) -> HealthStatus:
        return self._watches[name].status()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._watches))

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, name: object) -> bool:
        return name in self._watches

    # -- what is known ---------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether every critical check is healthy and each group has what it needs; with neither declared, every check.

        What has not been found out yet is not healthy. A monitor that watches and needs nothing is.
        """
        return not self.what_lacks()

    def what_lacks(self) -> list[str]:
        """Return what keeps the whole from being healthy, a phrase each, as "db is not"; nothing if it is healthy."""
        watches = self._watches.values()
        members = ((each.name, each.health.state.is_healthy, each.critical, each.group) for each in watches)
        return what_lacks(members, self._options._need)

    def healthy_in(self, group: str) -> list[str]:
        """Return the names of the healthy checks of a group, in the order of watching."""
        return [name for name, each in self._watches.items() if each.group == group and each.health.state.is_healthy]

    async def wait_healthy(self, name: str | None = None) -> None:
        """Wait until a check is healthy, or the whole if no name is given.

        Cancellation: a full checkpoint; nothing changes.

        Raises:
          KeyError: the check isn't watched, or was unwatched in the meantime.
          RuntimeError: the monitor was closed.
        """
        await check_cancelled()
        watch = None if name is None else self._watches[name]
        waited = False
        while not (self.healthy if watch is None else watch.health.state.is_healthy):
            self._check_open()
            waited = True
            await (self._waiting if watch is None else watch.waiting).park()
            if watch is not None and self._is_open and self._watches.get(watch.name) is not watch:
                raise KeyError(watch.name)
        if not waited:
            await cancel_shielded_checkpoint()

    @enable_ki_protection
    def subscribe(self, buffer: int = 100) -> MemoryReceiveChannel[HealthChanged]:
        """Return a channel of the changes from now on: `async with monitor.subscribe() as changes`. Synchronous.

        A subscriber that doesn't keep up holds up nobody. It loses the changes that its buffer has no room for, but for the
        newest, which it gets as soon as there is room and another check has ended; `missed` says how many it lost before. So
        one that reads `missed > 0` looks at the monitor itself. Closing the channel ends the subscription; leaving the
        monitor ends the iteration.

        Args:
          buffer (int, >= 1): how many changes may wait for the subscriber. Default: 100.

        Raises:
          RuntimeError: the monitor is closed.
        """
        subscriber = _Subscriber(whole("buffer", buffer))
        self._check_open()
        self._subscribers = [each for each in self._subscribers if each.is_heard] + [subscriber]
        return subscriber.channel

    def statistics(self) -> HealthMonitorStatistics:
        """Return a snapshot; works outside of a run."""
        return HealthMonitorStatistics(
            name=self.name,
            healthy=self.healthy,
            draining=self.draining,
            running=self._is_open and all(each.has_task for each in self._watches.values()),
            checks={name: each.status() for name, each in self._watches.items()},
            subscribers=sum(each.is_heard for each in self._subscribers),
            missed=self._missed,
        )

    def __repr__(self) -> str:
        healthy = sum(each.health.state.is_healthy for each in self._watches.values())
        states = ["healthy" if self.healthy else "not healthy", f"{healthy}/{len(self._watches)} checks healthy"]
        states += ["draining"] if self.draining else []
        states += [] if self._is_open else ["closed"]
        return f"<trioresil.HealthMonitor {self.name!r} {', '.join(states)}>"

    # -- checking --------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _run(self, watch: _Watch, first_at: float) -> None:
        """Be the task of one check."""
        checked_breaker.set(watch.breaker)  # in the context of this task alone
        try:
            with watch.scope:
                await self._check_for_ever(watch, first_at)
        finally:
            watch.has_task = False

    async def _check_for_ever(self, watch: _Watch, first_at: float) -> None:
        clock, rng = self._clock, self._options._rng
        await trio.sleep_until(first_at)
        while True:
            began_at = clock.current_time()
            error = await self._ask(watch)
            self._record(watch, error, clock.current_time() - began_at)
            interval = watch.interval / HASTE if watch.health.is_unsure else watch.interval
            await trio.sleep_until(began_at + interval * (1 - JITTER + 2 * JITTER * rng.random()))

    async def _ask(self, watch: _Watch) -> Exception | None:
        """Run a check, once. Return what it failed with, None if it passed."""
        result: object = False
        ended = False
        try:
            with CancelScope(deadline=self._clock.current_time() + watch.timeout):
                result = await _call(watch.check)
                ended = True
        except Exception as exc:
            if is_usage_error(exc):
                raise
            await checkpoint_if_cancelled()  # what it raises because it is being cancelled says nothing
            trace = exc.__traceback__
            return exc.with_traceback(trace and trace.tb_next)  # without this frame, which the error would keep alive
        except BaseExceptionGroup as exc:
            cancellation, rest = exc.split(trio.Cancelled)
            if cancellation is None or not isinstance(rest, Exception):
                raise
            raise cancellation from None
        if not ended:
            return TimedOutError(watch.name, watch.timeout, started=True)
        return CheckFailedError(watch.name, "it returned False") if result is False else None

    def _record(self, watch: _Watch, error: Exception | None, took: float) -> None:
        """Take note of a check that has ended, with all that follows."""
        if watch.is_over:
            return
        for subscriber in [each for each in self._subscribers if each.late is not None]:
            self._send(subscriber, None)
        now, previous = self._now(), watch.health.state
        if watch.note(error, took, now):
            watch.since = now
            self._changed(watch, previous)

    def _changed(self, watch: _Watch, previous: HealthState) -> None:
        state = watch.health.state
        if state is HealthState.UNHEALTHY:
            watch.isolate()
        else:
            watch.release()
        if _instruments.installed or self._subscribers:
            facts: dict[str, Any] = {"name": watch.name, "status": watch.status(), "previous": previous}
            _instruments.emit(HealthChanged, policy=self, **facts)
            change = HealthChanged(policy=self, **facts)
            for subscriber in list(self._subscribers):
                self._send(subscriber, change)
        if state.is_healthy:
            watch.waiting.unpark_all()
        self._wake_waiters()

    def _send(self, subscriber: _Subscriber, change: HealthChanged | None) -> None:
        try:
            self._missed += subscriber.send(change)
        except trio.BrokenResourceError:  # it has closed the channel
            self._subscribers = [each for each in self._subscribers if each is not subscriber]

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _wake_waiters(self) -> None:
        if self._waiting and self.healthy:
            self._waiting.unpark_all()

    def _end(self, watch: _Watch, why: str) -> None:
        watch.is_over = True
        watch.release()
        watch.waiting.unpark_all()
        watch.scope.cancel(reason=f"{self.name}: {watch.name} is {why}")

    def _close(self) -> None:
        self._is_open = False
        for watch in self._watches.values():
            self._end(watch, "not watched any more: the monitor is closed")
        self._waiting.unpark_all()
        for subscriber in self._subscribers:
            with suppress(trio.BrokenResourceError):
                subscriber.send(None)
            subscriber.sender.close()
        self._subscribers.clear()

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError(f"{self.name}: the monitor is closed")

    def _now(self) -> float:
        if current_clock() is not self._clock:
            raise in_another_run(repr(self.name))
        return self._clock.current_time()


class _Subscriber:
    """One subscription: its channel, and the newest of the changes that found no room in it."""

    __slots__ = ("channel", "late", "sender")

    def __init__(self, buffer: int) -> None:
        self.sender, self.channel = trio.open_memory_channel[HealthChanged](buffer)
        self.late: HealthChanged | None = None

    @property
    def is_heard(self) -> bool:
        """Whether the receiver is open."""
        return self.sender.statistics().open_receive_channels > 0

    def send(self, change: HealthChanged | None) -> int:
        """Send a change after the one that is late, if there is room. Return how many were lost for good."""
        if self.late is not None:
            try:
                self.sender.send_nowait(self.late)
            except trio.WouldBlock:
                if change is None:
                    return 0
                self.late = attrs.evolve(change, missed=self.late.missed + 1)
                return 1
            self.late = None
        if change is not None:
            try:
                self.sender.send_nowait(change)
            except trio.WouldBlock:
                self.late = change
        return 0


class _Watch:
    """One check: what was asked for, and what is known."""

    def __init__(
        self,
        name: str,
        check: Check,
        *,
        interval: float,
        timeout: float,
        health: Health,
        degraded_above: float,
        critical: bool,
        group: str | None,
        breaker: CircuitBreaker | None,
        pool: Retirable | None,
    ) -> None:
        self.name = name
        self.check = check
        self.interval = interval
        self.timeout = timeout
        self.health = health
        self.critical = critical
        self.group = group
        self.breaker = breaker
        self.scope = CancelScope()
        self.waiting = ParkingLot()
        self.since = 0.0
        self.has_task = True
        self.is_over = False
        self._degraded_above = degraded_above
        self._pool = pool
        self._isolation: Isolation | None = None
        self._latencies = Latencies(WINDOW)
        self._checked_at: float | None = None
        self._checked_at_utc: datetime | None = None
        self._error: Exception | None = None

    def note(self, error: Exception | None, took: float, now: float) -> bool:
        """Take note of a check that has ended; tell whether that has changed the state."""
        self._checked_at, self._checked_at_utc = now, datetime.now(UTC)
        if error is not None:
            self._error = error
            return self.health.record(Result.FAILED)
        self._latencies.record(took)
        changed = self.health.record(Result.SLOW if took > self._degraded_above else Result.QUICK)
        if self.health.state.is_healthy:
            self._error = None
        return changed

    def isolate(self) -> None:
        """Keep calls away, and see to it that they will find new connections."""
        if self.breaker is not None:
            self._isolation = self.breaker.isolate()
        if self._pool is not None:
            try:
                self._pool.retire()
            except Exception:
                _logger.exception("%s: the connections of %r could not be retired", self.name, self._pool)

    def release(self) -> None:
        """Let calls through again."""
        isolation, self._isolation = self._isolation, None
        if isolation is not None:
            isolation.release()

    def status(self) -> HealthStatus:
        p50, p99 = self._latencies.quantiles(0.5, 0.99)
        return HealthStatus(
            name=self.name,
            healthy=self.health.state.is_healthy,
            state=self.health.state,
            latency=self._latencies.last,
            latency_p50=p50,
            latency_p99=p99,
            checked_at=self._checked_at,
            checked_at_utc=self._checked_at_utc,
            since=self.since,
            consecutive=self.health.consecutive,
            error=self._error,
            critical=self.critical,
            group=self.group,
        )


@disable_ki_protection  # what is called is the user's
async def _call(check: Check) -> object:
    result = check()
    if not inspect.isawaitable(result):
        raise NotAwaitableError(f"check must be an async function, but {name_of(check)} returned {shown(result)}")
    return await result


def _check_function(check: Any) -> Check:
    refuse_generators(check)
    try:
        inspect.signature(check).bind()
    except TypeError as exc:
        raise TypeError(f"check must be an async function without arguments, not {shown(check)}: {exc}") from None
    except ValueError:
        pass  # it doesn't tell its signature
    return check  # type: ignore[no-any-return]


def _check_need(need: Any) -> dict[str, int]:
    if need is None:
        return {}
    if not isinstance(need, Mapping):
        raise TypeError(f"need must be a dict of group names to whole numbers >= 1, not {need!r}")
    return {text("need's group", group): whole(f"need[{group!r}]", least) for group, least in need.items()}


def _check_breaker(breaker: Any) -> CircuitBreaker | None:
    if breaker is not None and not isinstance(breaker, CircuitBreaker):
        raise TypeError(f"breaker must be a CircuitBreaker or None, not {breaker!r}")
    return breaker


def _check_pool(pool: Any) -> Any:
    if pool is not None and not callable(getattr(pool, "retire", None)):
        raise TypeError(f"pool must be a Pool, or have a method retire(), or be None, not {pool!r}")
    if pool is not None and inspect.iscoroutinefunction(pool.retire):
        raise TypeError(f"pool must have a synchronous method retire(), and that of {pool!r} is async")
    return pool
