"""Children and their runs: a run is one life of a supervised function, from its call until it has returned or raised.

The law of this file:

1. Runs of a child follow each other in one task, without a nursery for each: a child's errors need no group, and what it has
   started belongs to it alone.
2. `started()` counts once a run. The first run's is handed on to whoever waits in `start()`; of later ones only the supervisor
   takes note.
3. A run is asked to stop before it is cancelled, if it listens: that is, if `stop_requested()` was called in it. If not, nobody
   would hear, and it is cancelled at once.
4. An Exception is an outcome and is returned; whatever else is raised goes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Literal, TypeAlias

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from .._errors import NotAwaitableError
from .._kernel.intensity import Intensity, Pauses, Restart
from .._notes import name_of

AsyncFunction: TypeAlias = Callable[..., Awaitable[object]]
State: TypeAlias = Literal["starting", "running", "stopping", "waiting"]

_run: Final[ContextVar[Run | None]] = ContextVar("trioresil_run", default=None)


def stop_requested() -> trio.Event:
    """Return the event that is set when the supervisor wants the calling child to stop.

    A child that has called this is waited for, up to the supervisor's `grace`, before it is cancelled; one that has not is
    cancelled at once. It holds for the child's run, whichever of its tasks calls. Where no supervisor is around, the event is
    never set, so a function that uses this works in any nursery.

    Synopsis::

        async def consume(queue):
            stop = trioresil.stop_requested()
            while not stop.is_set():
                await handle(await queue.get())

    Cancellation: no checkpoint.
    """
    run = _run.get()
    if run is None:
        return trio.Event()
    run.is_listening = True
    return run.stop


def current_run() -> Run | None:
    """Return the run that the calling task is a part of; None if no supervisor is around."""
    return _run.get()


class Run:
    """One life of a supervised function.

    Args:
      fn (async function): what is run.
      args: its positional arguments.
      has_status (bool): whether it takes a task_status, and is up only when it calls `started()`; else it is up at once.
    """

    __slots__ = (
        "_args",
        "_fn",
        "_has_status",
        "_scope",
        "_task_status",
        "is_asked",
        "is_condemned",
        "is_listening",
        "next",
        "over",
        "stop",
        "supervisors",
        "up",
        "up_at",
    )

    def __init__(self, fn: AsyncFunction, args: tuple[Any, ...], has_status: bool) -> None:
        self._fn = fn
        self._args = args
        self._has_status = has_status
        self._task_status: Callable[[Any], None] | None = None
        self._scope = trio.CancelScope()
        self.up = trio.Event()  # also when it is over
        self.over = trio.Event()
        self.next = trio.Event()  # there will be another run, or none any more
        self.stop = trio.Event()
        self.up_at: float | None = None
        self.is_listening = False  # stop_requested() was called in it
        self.is_asked = False  # to stop
        self.is_condemned = False  # will be asked, when its turn comes
        self.supervisors: list[Any] = []  # those that are open inside of it

    @enable_ki_protection
    async def live(self, forward: Callable[[Any], None] | None) -> Exception | None:
        """Call the function; return the Exception that it raised, None if it returned or was cancelled by `cancel`.

        `forward` hands on the value of `started()`, or raises.
        """
        self._task_status = forward
        _run.set(self)
        try:
            if not self.is_asked:  # before it began
                with self._scope:
                    await self._call()
        except Exception as exc:
            return exc
        finally:
            self.finish()
        return None

    async def _call(self) -> None:
        if self._has_status:
            await _call(self._fn, *self._args, task_status=self)
        else:
            self._come_up()
            await _call(self._fn, *self._args)

    def started(self, value: Any = None) -> None:
        """Be the task_status of the function."""
        if self.up_at is not None:
            raise RuntimeError("called 'started' twice on the same task status")
        if self._task_status is not None:
            self._task_status(value)
        self._come_up()

    def _come_up(self) -> None:
        self.up_at = trio.current_time()
        self.up.set()

    def ask_to_stop(self) -> bool:
        """Ask it to stop; tell whether it listens. If not, it is to be cancelled."""
        self.is_asked = True
        self.stop.set()
        return self.is_listening

    def cancel(self, reason: str) -> None:
        """Cancel it."""
        self.is_asked = True
        self._scope.cancel(reason=reason)

    def finish(self) -> None:
        """Note that it is over, or never began."""
        self.up.set()
        self.over.set()

    def lived(self, now: float) -> float:
        """Return for how many seconds it has been up."""
        return 0.0 if self.up_at is None else now - self.up_at


class Child:
    """What is supervised, and the run that it is in, or will be in next.

    Args:
      name (str): its name.
      fn (async function), args (tuple): what it runs.
      restart ("always", "on_failure", "never"): when it is run again.
      has_status (bool): whether fn takes a task_status.
      intensity (Intensity), pauses (Pauses): how often and how soon, for it alone or for its group.
    """

    __slots__ = (
        "_args",
        "_fn",
        "called",
        "gone",
        "has_joined",
        "has_status",
        "intensity",
        "is_leaving",
        "last_error",
        "name",
        "pauses",
        "restart",
        "restarts",
        "run",
    )

    def __init__(
        self,
        name: str,
        fn: AsyncFunction,
        args: tuple[Any, ...],
        restart: Restart,
        has_status: bool,
        intensity: Intensity,
        pauses: Pauses,
    ) -> None:
        self.name = name
        self._fn = fn
        self._args = args
        self.restart: Restart = restart
        self.has_status = has_status
        self.intensity = intensity
        self.pauses = pauses
        self.run = Run(fn, args, has_status)
        self.called = trio.Event()  # ends the wait between two runs
        self.gone = trio.Event()
        self.has_joined = False  # it belongs to its supervisor, and no longer to whoever starts it
        self.is_leaving = False  # there will be no other run
        self.restarts = 0
        self.last_error: Exception | None = None

    def renew(self) -> None:
        """Prepare the next run, and call for it."""
        last, self.run = self.run, Run(self._fn, self._args, self.has_status)
        last.next.set()
        self.called.set()
        self.called = trio.Event()
        self.restarts += 1

    def leave(self) -> None:
        """Note that its task ends."""
        self.run.finish()
        self.run.next.set()
        self.gone.set()

    @property
    def state(self) -> State:
        if self.run.over.is_set():
            return "waiting"
        if self.run.is_asked:
            return "stopping"
        return "running" if self.run.up.is_set() else "starting"


@disable_ki_protection  # what is called is the user's
async def _call(fn: AsyncFunction, *args: Any, **status: Any) -> None:
    result = fn(*args, **status)
    if not inspect.isawaitable(result):
        raise NotAwaitableError(f"{name_of(fn)} must be an async function, but it returned {result!r}")
    await result
