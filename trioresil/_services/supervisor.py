"""open_supervisor: tasks that are run again when they fail, and who else is restarted with them.

The law of this file:

1. A child is one task; its runs follow each other in it. Whatever ends a run is judged in the same step, synchronously.
2. What is being stopped doesn't fail: not a child that was asked to stop, not one whose turn to be stopped is yet to come, and
   nobody while the supervisor is closing or cancelled.
3. With one_for_one a child waits out its own back-off. With the other strategies one task of the supervisor makes a round: it
   stops in reverse order, waits out the back-off, starts in order. A further failure has the round made anew, from the earlier
   of the two on; whoever is stopped by then stays so.
4. Whoever asks for a stop or a restart and is cancelled has asked all the same. Only start() takes back what it began.
"""

from __future__ import annotations

import functools
import inspect
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

import attrs
import trio
from trio.lowlevel import checkpoint_if_cancelled, current_clock, current_task, enable_ki_protection

from .. import _instruments
from .._checks import chance, count, one_of, seconds, text
from .._errors import RestartLimitError, in_another_run, is_usage_error
from .._events import ChildFailed, ChildRestarted, Event
from .._kernel.backoff import Backoff, as_backoff, exponential
from .._kernel.intensity import Intensity, Pauses, Restart, Strategy, taken_along
from .._notes import name_of, raise_again
from ._restarts import AsyncFunction, Child, Run, State, current_run, stop_requested
from ._tasks import Tasks

Reason: TypeAlias = Literal["failed", "returned", "sibling", "by hand"]
Verdict: TypeAlias = Literal["restarts", "escalates", "ends", "stops"]


@attrs.frozen(kw_only=True)
class ChildStatistics:
    """Snapshot of one child of a supervisor."""

    name: str
    """Its name."""
    restart: Restart
    """When it is run again."""
    state: State
    """starting: it has not called `started()` yet; running; stopping: it was asked to stop, or cancelled; waiting: for its
    back-off, or for its turn in a restart of the group."""
    uptime: float
    """For how many seconds it has been running since it was last started; 0 if it isn't running."""
    restarts: int
    """How often it has been run again."""
    last_error: Exception | None
    """What it raised last. None: nothing yet."""
    supervisors: tuple[SupervisorStatistics, ...]
    """The supervisors that are open inside of it."""


@attrs.frozen(kw_only=True)
class SupervisorStatistics:
    """Snapshot of a Supervisor, and of those below it."""

    name: str
    """Its name."""
    strategy: Strategy
    """Who is restarted with a child that failed."""
    children: tuple[ChildStatistics, ...]
    """The children, in the order in which they were declared. One that has ended is not among them."""
    restarts: int
    """How often a child has been run again, all together: by hand and with a sibling too, which the limit doesn't count."""
    ended: int
    """How many children have ended: returned, stopped, or failed with restart="never"."""
    last_error: Exception | None
    """What a child raised last, also one that has ended. None: nothing yet."""
    closed: bool
    """Whether it takes in no more children."""


class open_supervisor:
    """Run tasks, and run them again when they fail.

    For what has to live as long as the program: a consumer, a listener, a poller. A failure costs the child its run and nobody
    else theirs; one that keeps failing is not hidden: it ends the supervisor with a RestartLimitError. To repeat one call that
    somebody waits for, use a Retry.

    Synopsis::

        async with trioresil.open_supervisor(max_restarts=5, within=60) as supervisor:
            port = await supervisor.start(serve_metrics)
            supervisor.start_soon(consume, queue, restart="always")
            await trio.sleep_forever()

    Sharing: any task of the run may use the supervisor, its own children too.

    Args:
      strategy ("one_for_one", "one_for_all", "rest_for_one"): who is restarted with a child that failed: nobody, all, or those
        that were declared after it. Default: "one_for_one".
      max_restarts (int >= 0, or math.inf): so many restarts are made within the window, (now - within, now]; the next failure
        ends the supervisor at once. Counted for each child with one_for_one, else for the group. Default: 3.
      within (float, seconds, > 0): that window. Default: 60.
      backoff (Backoff, or list of seconds): the delays before restarts, counted from the failure; each child's own with
        one_for_one, else the group's. Default: None, exponential().
      stable_after (float, seconds, >= 0): after so much life the back-off starts afresh. Default: 30.
      grace (float, seconds, >= 0): how long a child that has called stop_requested() may take to stop before it is cancelled.
        Default: 5.
      rng (random.Random): chance, for the back-off. Default: None, seeded by the system.
      name (str): its name in errors, events and statistics. Default: "supervisor".

    Cancellation: opening waits for nothing. Leaving it after a clean body asks the children to stop and waits, up to `grace`, for
    those that listen; then all are cancelled. If the body raises or is cancelled, or this is cancelled, they are cancelled at
    once.

    Raises:
      RestartLimitError: out of the block, which is cancelled; bare, its `__cause__` the child's last error.

    Source: the supervisors of Erlang/OTP.
    """

    def __init__(
        self,
        strategy: Strategy = "one_for_one",
        *,
        max_restarts: float = 3,
        within: float = 60.0,
        backoff: Backoff | Iterable[float] | None = None,
        stable_after: float = 30.0,
        grace: float = 5.0,
        rng: random.Random | None = None,
        name: str = "supervisor",
    ) -> None:
        self.name: str = text("name", name)
        self._strategy: Strategy = one_of("strategy", strategy, get_args(Strategy))
        self._max_restarts = count("max_restarts", max_restarts, least=0, infinite=True)
        self._within = seconds("within", within, zero=False)
        self._backoff = exponential() if backoff is None else as_backoff("backoff", backoff)
        self._stable_after = seconds("stable_after", stable_after)
        self._grace = seconds("grace", grace)
        self._rng = chance("rng", rng) or random.Random()
        self._supervisor: Supervisor | None = None

    def _new_limits(self) -> tuple[Intensity, Pauses]:
        return (
            Intensity(self._max_restarts, self._within),
            Pauses(self._backoff, self._rng, self._stable_after),
        )

    @enable_ki_protection
    async def __aenter__(self) -> Supervisor:
        if self._supervisor is not None:
            raise RuntimeError(f"{self.name} was opened already: call open_supervisor() for each `async with`")
        supervisor = Supervisor(self)
        await supervisor._tasks.__aenter__()
        self._supervisor = supervisor
        supervisor._open()
        return supervisor

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        supervisor = self._supervisor
        assert supervisor is not None
        supervisor._tasks.check_task()
        return await supervisor._close(error)


async def serve_supervisor(
    strategy: Strategy = "one_for_one",
    *,
    task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> None:
    """Keep a supervisor open until this is cancelled, for a nursery that outlives the function that starts it.

    As a child of another supervisor it ends as cleanly as a block when it is asked to stop.

    Synopsis::

        supervisor = await nursery.start(functools.partial(trioresil.serve_supervisor, max_restarts=5))

    Args:
      strategy ("one_for_one", "one_for_all", "rest_for_one"): who is restarted with a child that failed.
      task_status: tells the Supervisor to `nursery.start`.
      **options: what `open_supervisor` takes.

    Cancellation: cancels the children.

    Raises:
      RestartLimitError: as `open_supervisor`.
    """
    async with open_supervisor(strategy, **options) as supervisor:
        task_status.started(supervisor)
        await stop_requested().wait()


class _Round:
    """A restart of children of a group, in the making.

    Args:
      cause (Child): whose failure it is, or whom restart() named.
      members (list of Child): all that are restarted, in the declared order.
      not_before (float): the instant of Trio's clock at which the back-off is over.
    """

    __slots__ = ("cause", "delay", "error", "members", "not_before", "pending", "reason", "scope")

    def __init__(
        self, cause: Child, members: list[Child], reason: Reason, error: Exception | None, now: float, delay: float
    ) -> None:
        self.cause, self.members, self.reason, self.error = cause, members, reason, error
        self.delay, self.not_before = delay, now + delay
        self.pending = dict.fromkeys(members)  # those that are not up yet
        self.scope = trio.CancelScope()


class Supervisor:
    """What `open_supervisor` opens: it starts children, and restarts them. It is not built by hand.

    Attributes:
      name (str): its name.
    """

    def __init__(self, options: open_supervisor, /) -> None:
        self.name: str = options.name
        self._options = options
        self._strategy = options._strategy
        self._clock = current_clock()
        self._tasks = Tasks(self.name)
        self._children: dict[str, Child] = {}
        self._restarts = self._ended = self._begun = 0
        self._last_error: Exception | None = None
        self._is_closing = False
        self._group = None if self._strategy == "one_for_one" else options._new_limits()
        self._round: _Round | None = None  # the one that is being made
        self._round_wanted = trio.Event()
        self._stable_since = self._clock.current_time()

    # -- for users -------------------------------------------------------------------------------------------------------

    async def start(
        self, fn: Callable[..., Awaitable[object]], *args: Any, restart: Restart = "always", name: str | None = None
    ) -> Any:
        """Start a child, wait until it calls `task_status.started(value)`, and return that value.

        In later runs `started()` is taken note of, and its value is dropped. The child runs in the caller's context.

        Args:
          fn (async function): called as `fn(*args, task_status=...)`, once for each run.
          *args: its positional arguments.
          restart ("always", "on_failure", "never"): when it is run again: also if it returns, if it raises an Exception, or
            not at all. Default: "always".
          name (str): its name, unlike that of any other child. Default: None, the function's, with a number if that is taken.

        Cancellation: if this raises, also by cancellation, no child is left; it waits for that, shielded.

        Raises:
          Exception: what `fn` raised before it called `started()`, bare. The other children go on.
          RuntimeError: `fn` returned before it called `started()`; or the supervisor is closed, or was closed before that.
          TypeError: `fn` can't be called so, as one without a task_status.
          ValueError: another child has this name.
        """
        child = self._declare(fn, args, restart, name, has_status=True)
        try:
            return await self._tasks.start(functools.partial(self._keep, child), name=child.name)
        except BaseException:
            child.is_leaving = True
            if child.has_joined:
                child.run.cancel(f"{self.name}: start({child.name!r}) has failed")
                child.called.set()
                with trio.CancelScope(shield=True):
                    await child.gone.wait()
            raise
        finally:
            if not child.has_joined:
                self._forget(child)

    def start_soon(
        self,
        fn: Callable[..., Awaitable[object]],
        *args: Any,
        restart: Restart = "on_failure",
        name: str | None = None,
    ) -> None:
        """Start a child that has no task_status. It runs in the caller's context.

        Args:
          fn (async function): called as `fn(*args)`, once for each run.
          *args: its positional arguments.
          restart ("always", "on_failure", "never"): when it is run again: also if it returns, if it raises an Exception, or
            not at all. Default: "on_failure".
          name (str): its name, unlike that of any other child. Default: None, the function's, with a number if that is taken.

        Raises:
          RuntimeError: the supervisor is closed.
          TypeError: `fn` can't be called so, as one that needs a task_status.
          ValueError: another child has this name.
        """
        child = self._declare(fn, args, restart, name, has_status=False)
        child.has_joined = True
        self._tasks.start_soon(self._keep, child, name=child.name, context=copy_context())

    async def stop(self, name: str) -> None:
        """Stop a child for good: ask it if it listens, cancel it after `grace` or else at once, and wait until it has ended.

        What it raises then is an event, and no failure. The others of its group go on.

        Args:
          name (str): its name.

        Cancellation: a full checkpoint; the child is stopped all the same.

        Raises:
          KeyError: no child has this name.
        """
        child = self._find(name)
        child.is_leaving = True
        child.called.set()
        self._ask_to_stop(child.run, f"{self.name}: stop({name!r}) was called")
        await child.gone.wait()

    async def restart(self, name: str) -> None:
        """Stop a child, as `stop` does, and run it again at once, with those that its strategy restarts with it.

        Returns when it is up again, or when that run has ended too. It counts as no failure.

        Args:
          name (str): its name.

        Cancellation: a full checkpoint; the child is restarted all the same.

        Raises:
          KeyError: no child has this name.
        """
        child = self._find(name)
        run = child.run
        if self._group is None or self._is_closing:
            child.called.set()
            self._ask_to_stop(run, f"{self.name}: restart({name!r}) was called")
        else:
            self._want_round(child, "by hand", None, 0.0)
        await run.next.wait()
        await child.run.up.wait()

    def statistics(self) -> SupervisorStatistics:
        """Return a snapshot, those of the supervisors below included; works outside of a run."""
        now = self._clock.current_time()
        return SupervisorStatistics(
            name=self.name,
            strategy=self._strategy,
            children=tuple(_describe(child, now) for child in self._members()),
            restarts=self._restarts,
            ended=self._ended,
            last_error=self._last_error,
            closed=self._is_closing,
        )

    def __repr__(self) -> str:
        states = [child.state for child in self._members()]
        counts = [f", {states.count(state)} {state}" for state in get_args(State) if state in states]
        children = f"{len(states)} {'child' if len(states) == 1 else 'children'}{''.join(counts)}"
        closed = ", closed" if self._is_closing else ""
        return f"<trioresil.Supervisor {self.name!r} {self._strategy}, {children}, {self._restarts} restarts{closed}>"

    # -- opening and closing ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._context = copy_context()
        self._above = current_run()
        if self._above is not None:
            self._above.supervisors.append(self)
        if _instruments.installed:
            _instruments.announce(self)
        if self._group is not None:
            self._tasks.start_soon(self._make_rounds)

    async def _close(self, error: BaseException | None) -> bool:
        self._is_closing = True
        try:
            if error is None:
                try:
                    await self._stop_all()
                except BaseException as exc:  # as a part of the body
                    if await self._tasks.__aexit__(type(exc), exc, exc.__traceback__):
                        return True
                    raise
            kind, traceback = (None, None) if error is None else (type(error), error.__traceback__)
            return await self._tasks.__aexit__(kind, error, traceback)
        finally:
            if self._above is not None:
                self._above.supervisors.remove(self)
            del error  # its traceback holds this frame

    async def _stop_all(self) -> None:
        """Ask all children to stop, and wait for those that listen."""
        reason = f"{self.name}: the body has ended"
        self._tasks.refuse_starts(reason)
        if self._round is not None:
            self._round.scope.cancel(reason=reason)
        waiting_for = []
        for child in self._members():
            child.is_leaving = True
            child.run.stop.set()  # also for those that begin to listen while others are waited for
            if child.run.is_listening:
                child.run.ask_to_stop()
                waiting_for.append(child.run)
        with trio.move_on_after(self._options._grace):
            for run in waiting_for:
                if not run.over.is_set():
                    await run.over.wait()

    # -- children --------------------------------------------------------------------------------------------------------

    def _declare(
        self, fn: AsyncFunction, args: tuple[Any, ...], restart: Restart, name: str | None, *, has_status: bool
    ) -> Child:
        if not callable(fn):
            raise TypeError(f"fn must be an async function, and its arguments come after it, not {fn!r}")
        one_of("restart", restart, get_args(Restart))
        self._now()
        if self._is_closing:
            raise RuntimeError(f"{self.name}: the supervisor is closed")
        self._begun += 1
        name = self._default_name(fn) if name is None else text("name", name)
        if name in self._children:
            raise ValueError(f"name must be unlike that of any other child of {self.name}, not {name!r}")
        _check_fit(fn, args, has_status=has_status)
        intensity, pauses = self._group or self._options._new_limits()
        child = self._children[name] = Child(name, fn, args, restart, has_status, intensity, pauses)
        return child

    def _default_name(self, fn: AsyncFunction) -> str:
        while isinstance(fn, functools.partial):
            fn = fn.func
        name = wanted = name_of(fn).rpartition("<locals>.")[2]
        number = self._begun
        while name in self._children:
            name, number = f"{wanted}-{number}", number + 1
        return name

    def _find(self, name: str) -> Child:
        self._now()
        child = self._children.get(name)
        if child is None or not child.has_joined:
            raise KeyError(f"{self.name} has no child {name!r}")
        return child

    def _members(self) -> list[Child]:
        return [child for child in self._children.values() if child.has_joined]

    def _now(self) -> float:
        if current_clock() is not self._clock:
            raise in_another_run(repr(self.name))
        return self._clock.current_time()

    @enable_ki_protection
    async def _keep(self, child: Child, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the task of a child: one run after the other."""
        task = current_task()
        start = task.parent_nursery

        def forward(value: Any) -> None:
            task_status.started(value)
            child.has_joined = task.parent_nursery is not start  # not if start() has been cancelled

        hand_on = forward if child.has_status else None
        error: Exception | None = None
        try:
            goes_on = True
            while goes_on:
                try:
                    error = await child.run.live(hand_on)
                except BaseExceptionGroup as exc:
                    error = _failure_beside_cancellation(exc)
                    if error is None or not child.has_joined:
                        raise
                if error is not None and (not child.has_joined or is_usage_error(error)):
                    raise_again(error)
                goes_on = child.has_joined and await self._goes_on(child, error)
                hand_on = error = None
        finally:
            self._forget(child)
            del error  # its traceback holds this frame

    async def _goes_on(self, child: Child, error: Exception | None) -> bool:
        """Do what follows from the end of a run, and tell whether there is another; return when it may begin."""
        now = self._now()
        verdict = self._judge(child, error, now)
        if error is not None:
            child.last_error = self._last_error = error
            self._emit(ChildFailed, child=child.name, error=error, outcome=verdict)
        if verdict == "escalates":
            limit = int(self._options._max_restarts)
            raise RestartLimitError(self.name, child.name, limit, self._options._within) from error
        await checkpoint_if_cancelled()
        if verdict == "ends" or child.is_leaving:
            return False
        reason: Reason = "by hand" if verdict == "stops" else "returned" if error is None else "failed"
        if self._group is None:
            delay = await self._pause(child, now) if verdict == "restarts" else 0.0
            if not child.is_leaving:
                self._renew(child, reason, error, delay)
        else:
            if verdict == "restarts":
                lived = 0.0 if self._round is not None else now - self._stable_since
                self._want_round(child, reason, error, child.pauses.next(lived))
            await child.called.wait()
        return not child.is_leaving

    def _judge(self, child: Child, error: Exception | None, now: float) -> Verdict:
        """Tell what comes of the end of a run. Counts a restart."""
        is_cancelled = trio.current_effective_deadline() == -math.inf
        if child.run.is_asked or child.is_leaving or is_cancelled:
            return "stops"
        if child.restart == "never" or (error is None and child.restart == "on_failure"):
            return "ends"
        if child.run.is_condemned:
            return "stops"
        return "restarts" if child.intensity.allows(now) else "escalates"

    async def _pause(self, child: Child, now: float) -> float:
        """Wait for a child's back-off, or until somebody calls it; return how long."""
        delay = child.pauses.next(child.run.lived(now))
        with trio.move_on_at(now + delay):
            await child.called.wait()
            return self._now() - now
        return delay

    def _renew(self, child: Child, reason: Reason, error: Exception | None, delay: float) -> None:
        """Have a child begin its next run."""
        self._restarts += 1
        child.renew()
        self._emit(ChildRestarted, child=child.name, reason=reason, error=error, delay=delay, restarts=child.restarts)

    def _forget(self, child: Child) -> None:
        if not child.gone.is_set():
            del self._children[child.name]
            self._ended += child.has_joined
            child.leave()

    def _ask_to_stop(self, run: Run, reason: str) -> None:
        """Have a run stop: softly if it listens. Whoever has asked first is the one who cancels it."""
        if run.is_asked:
            return
        if run.ask_to_stop():
            self._tasks.start_soon(self._cancel_after_grace, run, reason)
        else:
            run.cancel(reason)

    async def _cancel_after_grace(self, run: Run, reason: str) -> None:
        with trio.move_on_after(self._options._grace):
            await run.over.wait()
        run.cancel(reason)

    def _emit(self, kind: type[Event], **fields: Any) -> None:
        """Report a fact to those who listen to the task that opened the supervisor."""
        self._context.copy().run(functools.partial(_instruments.emit, kind, policy=self, **fields))

    # -- groups ----------------------------------------------------------------------------------------------------------

    def _want_round(self, cause: Child, reason: Reason, error: Exception | None, delay: float) -> None:
        """Have a group restarted from a child on, or from the first on that the round under way has not got up yet."""
        order = self._members()
        first, under_way = cause, self._round
        if under_way is not None:
            first = next(child for child in order if child is cause or child in under_way.pending)
            under_way.scope.cancel(reason=f"{self.name}: the round is made anew")
        members = list(taken_along(self._strategy, order, first))
        for child in members:
            child.run.is_condemned = True
        self._round = _Round(cause, members, reason, error, self._now(), delay)
        self._round_wanted.set()

    async def _make_rounds(self) -> None:
        while True:
            await self._round_wanted.wait()
            self._round_wanted = trio.Event()
            one = self._round
            assert one is not None
            with one.scope:
                await self._stop_members(one)
                await trio.sleep_until(one.not_before)
                await self._start_members(one)
                self._round = None
                self._stable_since = self._now()

    async def _stop_members(self, one: _Round) -> None:
        for child in reversed(one.members):
            if child.restart == "never" and child is not one.cause:
                child.is_leaving = True
                child.called.set()
            if not child.run.over.is_set():
                self._ask_to_stop(child.run, f"{self.name}: restarts with {one.cause.name!r}")
                await child.run.over.wait()
                await checkpoint_if_cancelled()

    async def _start_members(self, one: _Round) -> None:
        for child in one.members:
            if not child.is_leaving and not child.gone.is_set():
                self._renew(child, one.reason if child is one.cause else "sibling", one.error, one.delay)
                await child.run.up.wait()
                await checkpoint_if_cancelled()  # a child that failed has ended this round, and its wait too
            del one.pending[child]


def _failure_beside_cancellation(group: BaseExceptionGroup[BaseException]) -> Exception | None:
    """Return what a child raised while it was cancelled from outside, if that is all; its next checkpoint cancels it again."""
    rest: BaseException | None = group.split(trio.Cancelled)[1]
    return rest if isinstance(rest, Exception) else None


def _describe(child: Child, now: float) -> ChildStatistics:
    return ChildStatistics(
        name=child.name,
        restart=child.restart,
        state=child.state,
        uptime=0.0 if child.state == "waiting" else child.run.lived(now),
        restarts=child.restarts,
        last_error=child.last_error,
        supervisors=tuple(each.statistics() for each in child.run.supervisors),
    )


def _check_fit(fn: AsyncFunction, args: tuple[Any, ...], *, has_status: bool) -> None:
    """Refuse a call that can't be made: no run of it would ever begin."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return  # it doesn't tell
    try:
        signature.bind(*args, **({"task_status": None} if has_status else {}))
    except TypeError as exc:
        takes_status = "task_status" in signature.parameters
        advice = ""
        if has_status and not takes_status:
            advice = ": it takes no task_status, so use start_soon"
        elif takes_status and not has_status:
            advice = ": it takes a task_status, so use start"
        raise TypeError(f"{name_of(fn)}{signature} can't be called with these arguments ({exc}){advice}") from None
