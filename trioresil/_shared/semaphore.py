"""SharedSemaphore: at most so many at once, over many processes.

A permit is a lease: who is not heard of gives it up, or a process that dies would keep it for ever. So one task, the agent,
renews all that this process holds and waits for, and a holder's block is cancelled before its lease can end on the server: what
the server believes began later than what is believed here, since that counts from before the request was sent.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, NoReturn

import attrs
import trio
from trio.lowlevel import Task, cancel_shielded_checkpoint, current_task, enable_ki_protection

from .. import _instruments
from .._checks import count, number, seconds, whole
from .._errors import (
    BulkheadFullError,
    LeaseLostError,
    RejectedError,
    SharedStateError,
    SharedStateUnavailableError,
)
from .._kernel.permits import LOST, WAITING
from .._links import Link, check_cancelled, mark_unstarted
from .._policies.bulkhead import Bulkhead
from ..abc import Policy
from .engine import Argument, EngineDownError, Reply, Script, ScriptEngine, ScriptRefusedError
from .semaphore_scripts import ACQUIRE, PARTS, RELEASE, RENEW
from .together import check_part
from .token_bucket import check_engine
from .unavailable import FailClosed, FailLocal, FailOpen, OnUnavailable, check_on_unavailable

MARGIN: Final = 0.1
"""Of a lease: so long before its end the block is cancelled, to have time to clean up."""
RENEWALS: Final = 3
"""In one lease."""
PAUSE: Final = 0.01
"""Seconds between two looks at the server, at least."""
MOST_AT_ONCE: Final = 500
"""Leases in one round trip."""
MOST_WAITING: Final = 2**53
"""Stands for a queue without limit."""


@attrs.frozen(kw_only=True)
class SharedSemaphoreStatistics:
    """Snapshot of what this process knows of a SharedSemaphore."""

    name: str
    """Its name."""
    limit: int
    """How many may be inside at once, in all processes together."""
    lease: float
    """Seconds for which a holder is believed without being heard of."""
    inside: int
    """How many are inside in this process."""
    waiting: int
    """Tasks of this process that wait."""
    granted: int
    """Permits granted by the server, so far."""
    rejected: int
    """Rejections so far."""
    lost: int
    """Blocks that lost their permit."""
    unavailable: int
    """Calls that were decided without the server, because it was away."""
    available: bool
    """Whether the server answers, as far as is known."""


class Hold:
    """One permit, as its block gets it: `async with semaphore as hold`."""

    __slots__ = ("_answered", "_error", "_local", "_reason", "_scope", "_until", "_who", "fence")

    fence: int | None
    """A number that is larger than that of each hold before, over all processes; None if it was got without the server.

    Hand it to what is protected, and let that refuse numbers smaller than the largest it has seen: so a holder that was stalled
    and doesn't know yet that its permit is gone can do no harm.
    """

    def __init__(self, who: str) -> None:
        self.fence = None
        self._who = who
        self._until = math.inf  # on Trio's clock; the server believes it at least as long
        self._answered = trio.Event()
        self._error: EngineDownError | RuntimeError | None = None
        self._scope = trio.CancelScope()
        self._reason = ""
        self._local: Bulkhead | None = None

    @property
    def lost(self) -> bool:
        """Whether the permit is gone, so that another may hold it."""
        return bool(self._reason) or trio.current_time() >= self._until

    def _believe(self, until: float, margin: float) -> None:
        self._until = until
        self._scope.deadline = until - margin

    def _grant(self, fence: int) -> None:
        if self.fence is None:
            self.fence = fence
            self._answered.set()

    def _refuse(self, error: EngineDownError | RuntimeError) -> None:
        if self.fence is None:
            self._error = error
            self._answered.set()

    def _lose(self, reason: str) -> None:
        self._reason = reason
        self._scope.cancel()

    def __repr__(self) -> str:
        fence = "without the server" if self.fence is None else f"fence {self.fence}"
        return f"<trioresil.redis.Hold {fence}>"


class SharedSemaphore(Policy):
    """Limits how many calls run at once over many processes; the others wait in one queue on a server, in order.

    For what bears only so many users at a time: a database, a licence, a device. With `limit=1` it is a lock. For one process
    use a Bulkhead. A permit is a lease, which is renewed as long as its block runs. If that fails, as when the server can't be
    reached, the block is cancelled before the permit can go to another, and leaves with a LeaseLostError.

    Synopsis::

        async with open_redis("redis://127.0.0.1:6379/0") as engine:
            exports = SharedSemaphore(engine, "exports", limit=5, on_unavailable=FailClosed())

            async with exports as hold:
                await write(report, fence=hold.fence)

            await exports.call(export, report)

    Fairness: first come, first served, over all processes. A permit that somebody gives back is granted on the server in the
    same step. Sharing: one object for all tasks of a process; the same name, limit and lease in each process. Cost: a round trip
    for each permit; it is given back in the background.

    Args:
      engine (ScriptEngine): the server, as `open_redis` gives it.
      name (str, without braces): its name in errors, events and statistics, and the name of the state on the server.
      limit (int, >= 0): how many may be inside at once, in all processes together.
      lease (float, seconds, > 4 * timeout): how long a holder is believed without being heard of. The permit of a process that
        is killed is free after so long. Renewed three times in that time. Default: 10.
      max_waiting (int, >= 0, or math.inf): longest queue, over all processes; whoever finds it full is rejected.
        Default: math.inf.
      max_wait (float, seconds, >= 0): longest wait in the queue. Default: math.inf.
      on_unavailable (FailOpen, FailClosed or FailLocal): what to do when the server is away. Must be given.
      timeout (float, seconds, > 0): how long to wait for the server. Default: 0.05.

    Cancellation: the block is a full checkpoint. If entering it raises, no permit is held. `call` and the decorator check for
    cancellation, and then wait for the server. Leaving gives the permit back in the background, however the block ends.

    Raises:
      trioresil.BulkheadFullError: the queue is full, or the wait took longer than max_wait.
      LeaseLostError: the lease could not be renewed, and the block was cancelled, or ended when the permit was gone.
      SharedStateUnavailableError: the server is away, and on_unavailable is FailClosed().
      SharedStateError: the server refused: something else lies at the key, or permission is lacking.

    Source: leases by C. Gray and D. Cheriton; fences as in M. Burrows, "The Chubby lock service".
    """

    _one_chain = True

    def __init__(
        self,
        engine: ScriptEngine,
        name: str,
        *,
        limit: int,
        lease: float = 10.0,
        max_waiting: float = math.inf,
        max_wait: float = math.inf,
        on_unavailable: OnUnavailable,
        timeout: float = 0.05,
    ) -> None:
        self.name: str = check_part("name", name)
        self._engine = check_engine(engine)
        self._keys = [f"trioresil:{{{name}}}:permits:{part}" for part in PARTS]
        self._channels = f"trioresil:{{{name}}}:permits:granted:"
        self._limit = whole("limit", limit, least=0)
        self._timeout = seconds("timeout", timeout, zero=False, finite=True)
        self._lease = number("lease", lease, above=4 * self._timeout, finite=True, unit="seconds")
        self._max_waiting = count("max_waiting", max_waiting, least=0, infinite=True)
        self._max_wait = seconds("max_wait", max_wait)
        self._on_unavailable = check_on_unavailable(on_unavailable)
        self._numbers = itertools.count(1)
        self._holds: dict[str, Hold] = {}  # who holds, or waits, by the server's word
        self._blocks: dict[Task, list[Hold]] = {}
        self._released: dict[str, float] = {}  # what the server has yet to hear of, and until when it would matter
        self._local: Bulkhead | None = None
        self._waiting = self._inside = 0
        self._granted = self._rejected = self._lost = self._unavailable = 0
        self._process = ""  # the agent's
        self._attended = self._releasing = False
        self._nudge = trio.Event()
        self._sleeps_until = self._renew_at = self._expiry_at = math.inf

    @property
    def limit(self) -> int:
        """How many may be inside at once. May be set: this process's requests from then on go by it. Set it in all processes."""
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        self._limit = whole("limit", value, least=0)
        if self._attended:
            self._engine.start_soon(self._release, {})

    # -- the forms -------------------------------------------------------------------------------------------------------

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            # A Ctrl-C must find the permit not taken, or given back: see CircuitBreaker._call_admitted.
            hold = None
            try:
                hold = await self._obtain()
                with hold._scope:
                    result = await inner(args, kwargs)
                    if not hold.lost:
                        return result
                raise self._lose(hold)
            finally:
                if hold is not None:
                    self._leave(hold)

        return link

    @enable_ki_protection
    async def __aenter__(self) -> Hold:
        await check_cancelled()
        hold = await self._obtain()
        hold._scope.__enter__()
        self._blocks.setdefault(current_task(), []).append(hold)
        return hold

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        task = current_task()
        holds = self._blocks.get(task)
        if not holds:
            raise RuntimeError(f"{self.name}: a block must be left in the task that entered it")
        hold = holds.pop()
        if not holds:
            del self._blocks[task]
        try:
            caught = hold._scope.__exit__(kind, error, traceback)
            lost = caught if error is not None else hold.lost
        finally:
            self._leave(hold)
        if not lost:
            return False
        exc = self._lose(hold)
        try:
            raise exc
        finally:
            exc.__context__ = None  # the cancellation, with all its frames
            del exc

    def statistics(self) -> SharedSemaphoreStatistics:
        """Return a snapshot of what this process knows; the server is not asked."""
        return SharedSemaphoreStatistics(
            name=self.name,
            limit=self._limit,
            lease=self._lease,
            inside=self._inside,
            waiting=self._waiting,
            granted=self._granted,
            rejected=self._rejected,
            lost=self._lost,
            unavailable=self._unavailable,
            available=self._engine.available,
        )

    def __repr__(self) -> str:
        away = "" if self._engine.available else ", the server is away"
        here = f"{self._inside} inside and {self._waiting} waiting in this process"
        return f"<trioresil.redis.SharedSemaphore {self.name!r} limit {self._limit}, {here}{away}>"

    # -- taking a permit -------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _obtain(self) -> Hold:
        """Take a permit; if this raises, none is held."""
        if _instruments.installed:
            _instruments.announce(self)
        self._waiting += 1
        try:
            hold = await self._take()
        except BaseException as exc:
            mark_unstarted(exc)
            raise
        finally:
            self._waiting -= 1
        self._inside += 1
        return hold

    async def _take(self) -> Hold:
        gives_up_at = trio.current_time() + self._max_wait
        while True:
            hold = self._new_hold()
            try:
                await self._ask(hold)
                if hold.fence is None:
                    await self._wait(hold, gives_up_at)
                if hold._error is not None:
                    raise hold._error
            except EngineDownError as exc:
                self._give_back(hold)
                return await self._take_without_server(exc)
            except ScriptRefusedError as exc:
                self._give_back(hold)
                raise SharedStateError(self.name, self._keys[0], str(exc)) from None
            except BaseException:
                self._give_back(hold)
                raise
            if not hold.lost:  # else this program was held up for so long that the grant is worth nothing
                self._granted += 1
                return hold
            self._give_back(hold)

    async def _ask(self, hold: Hold) -> None:
        """Ask for a permit, or for a place in the queue."""
        hold._believe(trio.current_time() + self._lease, self._lease * MARGIN)
        most_waiting = 0 if self._max_wait == 0 else min(self._max_waiting, MOST_WAITING)
        batch = self._take_released()  # by the server's word a permit is free again before this asks for one
        try:
            fence, next_expiry, *granted = await self._eval(
                ACQUIRE, hold._who, most_waiting, *batch, late=lambda reply: self._take_granted(reply[2:])
            )
        except BaseException:
            self._release_later(batch)
            raise
        self._take_granted(granted)
        if fence > WAITING:
            hold._grant(fence)
        elif fence == WAITING:
            self._note_expiry(next_expiry)
        elif self._max_wait == 0 or self._max_waiting == 0:
            await self._reject("every permit is taken and nobody may wait")
        else:
            await self._reject(f"every permit is taken and {self._max_waiting:g} wait already")

    async def _wait(self, hold: Hold, gives_up_at: float) -> None:
        with trio.CancelScope(deadline=gives_up_at):
            await hold._answered.wait()
        if not hold._answered.is_set():
            await self._reject(f"no permit became free within max_wait={self._max_wait:g} s")

    async def _take_without_server(self, error: EngineDownError) -> Hold:
        """Do what is to be done while the server is away."""
        self._unavailable += 1
        hold = Hold("")
        if isinstance(self._on_unavailable, FailClosed):
            await self._reject_with(SharedStateUnavailableError(self.name, self._keys[0], str(error)))
        if isinstance(self._on_unavailable, FailOpen):
            await cancel_shielded_checkpoint()
            return hold
        local = self._local_bulkhead(self._on_unavailable)
        await local.acquire()
        hold._local = local
        return hold

    def _local_bulkhead(self, choice: FailLocal) -> Bulkhead:
        limit = max(1, math.floor(self._limit * choice.share)) if self._limit else 0
        if self._local is None:
            self._local = Bulkhead(
                limit, max_waiting=self._max_waiting, max_wait=self._max_wait, name=f"{self.name} (local)"
            )
        self._local.limit = limit
        return self._local

    async def _reject(self, reason: str) -> NoReturn:
        error = BulkheadFullError(self.name)
        error.reason = reason
        await self._reject_with(error)

    async def _reject_with(self, error: RejectedError) -> NoReturn:
        self._rejected += 1
        try:
            await _instruments.reject(self, error)
        finally:
            del error  # its traceback holds this frame

    # -- giving it back --------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def _leave(self, hold: Hold) -> None:
        self._inside -= 1
        if hold._local is not None:
            hold._local.release()
        else:
            self._give_back(hold)

    def _lose(self, hold: Hold) -> LeaseLostError:
        self._lost += 1
        error = LeaseLostError(self.name, self._keys[0], hold._reason or None)
        error.fence = hold.fence or 0
        return error

    def _give_back(self, hold: Hold) -> None:
        """Tell the server soon that somebody neither holds nor waits any longer."""
        if self._holds.pop(hold._who, None) is not None:
            self._released[hold._who] = hold._until
            self._release_soon()

    def _release_soon(self) -> None:
        if self._released and not self._releasing:
            with suppress(RuntimeError):  # the engine is closed; the leases run out
                self._engine.start_soon(self._release_all)
                self._releasing = True

    async def _release_all(self) -> None:
        """Tell the server whatever it has yet to hear."""
        self._releasing = False  # what is released from here on is for another message
        if batch := self._take_released():  # else somebody who asked for a permit has told it
            await self._release(batch)

    async def _release(self, batch: dict[str, float]) -> None:
        try:
            with trio.CancelScope(shield=True):  # bounded by the time-out
                self._take_granted(await self._eval(RELEASE, *batch, late=self._take_granted))
        except EngineDownError:
            self._release_later(batch)
        except ScriptRefusedError:
            pass  # whoever asks for a permit is told

    def _take_released(self) -> dict[str, float]:
        batch, self._released = self._released, {}
        return batch

    def _release_later(self, batch: dict[str, float]) -> None:
        """Keep what the server may not have heard, until it doesn't matter any more."""
        now = trio.current_time()
        self._released.update((who, until) for who, until in batch.items() if until > now)

    # -- the agent -------------------------------------------------------------------------------------------------------

    def _new_hold(self) -> Hold:
        if not self._attended:
            self._process = secrets.token_hex(8)
            self._nudge = trio.Event()
            self._renew_at = self._expiry_at = math.inf
            self._engine.start_soon(self._attend)
            self._attended = True
        hold = Hold(f"{self._process}.{next(self._numbers)}")
        self._holds[hold._who] = hold
        if len(self._holds) == 1:
            self._renew_at = trio.current_time() + self._lease / RENEWALS
            self._look_by(self._renew_at)
        return hold

    async def _attend(self) -> None:
        """Renew leases, hear of grants, and look again when somebody else's lease may have ended."""
        subscription = self._engine.subscribe(f"{self._channels}{self._process}", self._hear)
        watcher = self._engine.watch(self._changed)
        try:
            while True:
                await self._sleep()
                if trio.current_time() >= self._next_look():
                    await self._renew_all()
        finally:
            subscription.close()
            watcher.close()
            self._attended = False
            for hold in self._holds.values():
                hold._refuse(RuntimeError(f"{self.name}: its engine {self._engine.name!r} was closed"))

    async def _sleep(self) -> None:
        self._sleeps_until = self._next_look()
        with trio.CancelScope(deadline=self._sleeps_until):
            await self._nudge.wait()
        self._sleeps_until = -math.inf
        self._nudge = trio.Event()

    def _next_look(self) -> float:
        if not self._holds:
            return math.inf
        return min(self._renew_at, self._expiry_at) if self._waiting else self._renew_at

    def _note_expiry(self, microseconds: int) -> None:
        """Note when the next of all leases ends, whose permit is then free."""
        at = trio.current_time() + max(microseconds / 1e6, PAUSE) if microseconds >= 0 else math.inf
        self._expiry_at = min(self._expiry_at, at)
        if self._waiting:
            self._look_by(at)

    async def _renew_all(self) -> None:
        began_at = trio.current_time()
        self._renew_at = began_at + self._lease / RENEWALS
        self._expiry_at = math.inf
        holds = list(self._holds.values())
        try:
            for first in range(0, len(holds), MOST_AT_ONCE):
                await self._renew(holds[first : first + MOST_AT_ONCE])
        except (EngineDownError, ScriptRefusedError):
            self._renew_at = trio.current_time() + max(PAUSE, self._lease / 30)

    async def _renew(self, holds: list[Hold]) -> None:
        until = trio.current_time() + self._lease
        numbers = [part for hold in holds for part in (hold._who, hold.fence or WAITING)]
        next_expiry, *fences = await self._eval(RENEW, *numbers)
        for hold, fence in zip(holds, fences, strict=True):
            if hold._who not in self._holds:  # it was given back meanwhile, and may have been taken anew by this
                self._released[hold._who] = until
            elif fence == LOST:
                hold._lose("the server has forgotten the permit, and none is free")
            else:
                hold._believe(until, self._lease * MARGIN)
                if fence > WAITING:
                    hold._grant(fence)
        self._note_expiry(next_expiry)
        self._release_soon()

    def _hear(self, message: str | None) -> None:
        """Hear of a grant; None: messages may have been missed."""
        if message is None:
            self._look_now()
            return
        who, _, fence = message.partition(" ")
        if who in self._holds:
            self._holds[who]._grant(int(fence))

    def _take_granted(self, told: Sequence[bytes]) -> None:
        """Take what was granted to those of this process who wait, in an answer to another of them."""
        for each in told:
            self._hear(each.decode())

    def _changed(self, available: bool) -> None:
        """Hear that the server went away or came back."""
        if available:
            self._look_now()
            self._release_soon()
            return
        for hold in self._holds.values():
            hold._refuse(EngineDownError("it went away while this call waited"))

    def _look_now(self) -> None:
        self._renew_at = trio.current_time()
        self._look_by(self._renew_at)

    def _look_by(self, at: float) -> None:
        if at < self._sleeps_until:
            self._nudge.set()

    async def _eval(self, script: Script, *args: Argument, late: Callable[[Reply], None] | None = None) -> Reply:
        numbers = self._limit, round(self._lease * 1e6), self._channels
        return await self._engine.eval(script, self._keys, [*numbers, *args], within=self._timeout, late=late)
