"""An engine in memory, on Trio's clock: for tests of programs that share state, without a server."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from .. import _instruments
from .._checks import seconds, text
from .._events import SharedStateLost, SharedStateRestored
from .._services._tasks import Tasks
from .engine import Argument, EngineDownError, Late, Receive, Reply, Script, Subscription, as_text

EPOCH: Final = 1_700_000_000
"""Seconds since 1970 at which this server's clock starts."""


@attrs.frozen(kw_only=True)
class MemoryEngineStatistics:
    """Snapshot of a MemoryEngine."""

    name: str
    """Its name."""
    available: bool
    """Whether it answers."""
    evaluations: int
    """Scripts that have run."""
    keys: int
    """Keys that hold something."""
    subscriptions: int
    """Who hears of a channel."""


class MemoryEngine:
    """A server that is no server: the same scripts, in this process, on the clock of the run.

    Several policies over one MemoryEngine behave to each other as those of several processes do over one server. On a virtual
    clock all is exact. What the server's absence does can be tried out too.

    Synopsis::

        async with MemoryEngine() as engine:
            bucket = SharedTokenBucket(engine, "api", rate=10, on_unavailable=FailClosed())
            await bucket.acquire()
            engine.kill()
            ...

    Args:
      latency (float, seconds, >= 0): how long each answer takes; messages take no time. Default: 0.
      name (str): its name in events and statistics. Default: "memory".

    Cancellation: leaving the block cancels what the policies have started in it.
    """

    def __init__(self, *, latency: float = 0.0, name: str = "memory") -> None:
        self.name: str = text("name", name)
        self._latency = seconds("latency", latency, finite=True)
        self._tasks = Tasks(f"MemoryEngine {name!r}")
        self._open = False
        self._available = True
        self._frozen = False
        self._lost_at = 0.0
        self._clock_step = 0.0
        self._values: dict[str, tuple[object, float]] = {}
        self._subscriptions: dict[str, list[_Subscription]] = defaultdict(list)
        self._watchers: list[_Watcher] = []
        self._waiting: list[_Request] = []
        self._evaluations = 0
        self._now = 0

    # -- the engine ------------------------------------------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether it answers, as far as is known: a frozen one is thought to, until somebody has waited in vain."""
        return self._available

    @enable_ki_protection
    async def __aenter__(self) -> MemoryEngine:
        await self._tasks.__aenter__()
        self._open = True
        if _instruments.installed:
            _instruments.announce(self)
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._tasks.__aexit__(kind, error, traceback)
        finally:
            self._open = False

    async def eval(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument],
        *,
        within: float,
        late: Late | None = None,
    ) -> Reply:
        """Run a script; see ScriptEngine."""
        if not self._open:
            raise RuntimeError(f"engine {self.name!r} is not open: use it inside of `async with`")
        if not self._available:
            raise EngineDownError(f"{self.name} is away")
        request = _Request(script, tuple(keys), tuple(map(as_text, args)), late)
        if self._frozen:
            self._waiting.append(request)
        else:
            self._run(request)
        try:
            with trio.move_on_after(within):
                await request.wait()
                return request.reply
            if self._frozen:
                self._lose(EngineDownError(f"{self.name} did not answer within {within:g} s"))
            raise EngineDownError(f"{self.name} did not answer within {within:g} s")
        except BaseException:
            request.abandoned = True
            if request.is_done:
                self.start_soon(self._answer_late, request)
            raise

    def subscribe(self, channel: str, receive: Receive) -> Subscription:
        """Hear of a channel's messages; see ScriptEngine."""
        subscription = _Subscription(self._subscriptions[channel], receive)
        self.start_soon(subscription.begin)
        return subscription

    def watch(self, changed: Callable[[bool], None]) -> Subscription:
        """Hear when it goes away and comes back; see ScriptEngine."""
        return _Watcher(self._watchers, changed)

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task in the engine's block; see ScriptEngine."""
        self._tasks.start_soon(fn, *args)

    # -- what a test does to it ------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop answering: who asks waits in vain, and what was asked happens when it resumes."""
        self._frozen = True

    def kill(self) -> None:
        """Go away: who asks is told at once, and so is who waits. What is stored stays; what was not done yet never will be."""
        self._frozen = True
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.fail(EngineDownError(f"{self.name} was killed"))
        self._lose(EngineDownError(f"{self.name} was killed"))

    def resume(self) -> None:
        """Answer again, after `freeze` or `kill`. Subscribers are told that they may have missed messages."""
        self._frozen = False
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._run(request)
        if not self._available:
            self._available = True
            self.start_soon(self._come_back, trio.current_time() - self._lost_at)

    def flush(self) -> None:
        """Forget everything, as a server does that restarts without having saved."""
        self._values.clear()

    def step_clock(self, by: float) -> None:
        """Set the server's clock.

        Args:
          by (float, seconds): so much later; below 0: earlier.
        """
        self._clock_step += by

    def statistics(self) -> MemoryEngineStatistics:
        """Return a snapshot."""
        return MemoryEngineStatistics(
            name=self.name,
            available=self._available,
            evaluations=self._evaluations,
            keys=len(self._values),
            subscriptions=sum(map(len, self._subscriptions.values())),
        )

    def __repr__(self) -> str:
        state = "frozen" if self._frozen and self._available else "available" if self._available else "away"
        return f"<trioresil.redis.MemoryEngine {self.name!r} {state}, {len(self._values)} keys>"

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _run(self, request: _Request) -> None:
        self._evaluations += 1
        store = _Store(self._values, trio.current_time() + EPOCH + self._clock_step)
        reply = request.script.local(store, request.keys, request.args)
        request.finish(_as_reply(reply), trio.current_time() + self._latency)
        if request.abandoned:
            self.start_soon(self._answer_late, request)
        for channel, message in store.messages:
            for subscription in tuple(self._subscriptions[channel]):
                self.start_soon(subscription.receive_soon, message)

    async def _answer_late(self, request: _Request) -> None:
        await trio.sleep_until(request.arrives_at)
        if request.late is not None:
            request.late(request.reply)

    def _lose(self, error: EngineDownError) -> None:
        if not self._available:
            return
        self._available = False
        self._lost_at = trio.current_time()
        _instruments.emit(SharedStateLost, policy=self, error=error)
        self._tell(False)

    async def _come_back(self, away_for: float) -> None:
        _instruments.emit(SharedStateRestored, policy=self, seconds=away_for)
        self._tell(True)
        for subscriptions in tuple(self._subscriptions.values()):
            for subscription in tuple(subscriptions):
                subscription.receive(None)

    def _tell(self, available: bool) -> None:
        for watcher in tuple(self._watchers):
            watcher.changed(available)


class _Store:
    """What one script sees; see engine.Store."""

    def __init__(self, values: dict[str, tuple[object, float]], at: float) -> None:
        self.now = round(at * 1e6)
        self.messages: list[tuple[str, str]] = []
        self._values = values
        self._at = at

    def load(self, key: str) -> Any:
        value, until = self._values.get(key, (None, math.inf))
        return copy.deepcopy(value) if until > self._at else None

    def save(self, key: str, value: object, *, ttl: float) -> None:
        self._values[key] = value, self._at + ttl

    def delete(self, key: str) -> None:
        self._values.pop(key, None)

    def publish(self, channel: str, message: str) -> None:
        self.messages.append((channel, message))


class _Request:
    """One script that was asked for, its answer, and whether anybody still waits for it."""

    def __init__(self, script: Script, keys: tuple[str, ...], args: tuple[str, ...], late: Late | None) -> None:
        self.script, self.keys, self.args = script, keys, args
        self.late = late
        self.reply: Reply = None
        self.arrives_at = math.inf
        self.abandoned = False
        self._error: EngineDownError | None = None
        self._done = trio.Event()

    @property
    def is_done(self) -> bool:
        return self._done.is_set() and self._error is None

    async def wait(self) -> None:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        await trio.sleep_until(self.arrives_at)

    def fail(self, error: EngineDownError) -> None:
        self._error = error
        self._done.set()

    def finish(self, reply: Reply, arrives_at: float) -> None:
        self.reply, self.arrives_at = reply, arrives_at
        self._done.set()


class _Subscription:
    def __init__(self, others: list[_Subscription], receive: Receive) -> None:
        self._others = others
        self._receive = receive
        self._closed = False

    async def begin(self) -> None:
        if not self._closed:
            self._others.append(self)
            self.receive(None)

    async def receive_soon(self, message: str) -> None:
        self.receive(message)

    def receive(self, message: str | None) -> None:
        if not self._closed:
            self._receive(message)

    def close(self) -> None:
        self._closed = True
        if self in self._others:
            self._others.remove(self)


class _Watcher:
    def __init__(self, others: list[_Watcher], changed: Callable[[bool], None]) -> None:
        self._others = others
        self.changed = changed
        others.append(self)

    def close(self) -> None:
        if self in self._others:
            self._others.remove(self)


def _as_reply(value: object) -> Reply:
    """Return a reply as a server would send it: text as bytes, a truth as 1 or nothing."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (list, tuple)):
        return [_as_reply(each) for each in value]
    if isinstance(value, float):
        raise TypeError(f"a script must return numbers that aren't whole as text, not {value!r}")
    return value
