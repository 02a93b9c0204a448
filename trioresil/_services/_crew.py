"""Crew: tasks that each run one item after the other, and what becomes of each item.

The law of this file:

1. An item is in one hand at a time. It changes hands in a single step, so that a cancellation finds it in one place: with the
   owner of the crew, who keeps the queue, or with one worker.
2. Finished is an item whose function returned or raised an Exception. All that ends otherwise, above all by a cancellation, is
   unfinished and can be read from the crew after its end. Nothing is both, and nothing is entered after the cancellation.
3. A worker is made when there is an item for it and nobody is idle; there are at most `size`. When there are more, because the
   crew was made smaller, whoever finishes an item retires. When one was cancelled or has failed, all are about to be: nobody
   takes an item any more, and the owner is told, so that nobody waits for those who are gone.
4. When errors are raised, the first is; those that others come to while they are stopped are outcomes without a reader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from trio.lowlevel import (
    Abort,
    Task,
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    current_task,
    disable_ki_protection,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from .._checks import function
from .._errors import is_usage_error
from .._kernel.progress import Progress
from .._links import Link, make_link
from ..abc import Policy
from ._outcomes import Outcome, Reporter

I = TypeVar("I")  # noqa: E741 - an item
V = TypeVar("V")
OnError: TypeAlias = Literal["collect", "raise"]

NOTHING: Final[Any] = object()


class _Worker(Generic[I]):
    """One task of a crew, and what it has in hand."""

    __slots__ = ("attempts", "item", "number", "task")

    task: Task

    def __init__(self) -> None:
        self.item: I = NOTHING
        self.number = -1
        self.attempts = 0


_at_work: ContextVar[_Worker[Any] | None] = ContextVar("trioresil_at_work", default=None)


class Crew(Generic[I, V]):
    """Workers without a queue: the owner hands items to them, and is asked for the next by those who are done.

    Args:
      fn (async (item) -> value): what to run.
      policy (Policy or None): goes around each item; its chain is built once.
      size: most workers at once.
      on_error: whether an error is an outcome or ends the crew.
      start_soon: starts a task.
      next_item: takes the next item from the owner's queue, NOTHING if it is empty. Synchronous.
      deliver: is given the number of an item, in the order in which items were taken, and its outcome.
      settled: is called when a worker has become idle, has retired, or is gone. Synchronous.
    """

    def __init__(
        self,
        fn: Callable[[I], Awaitable[V]],
        policy: Policy | None,
        size: int,
        on_error: OnError,
        *,
        start_soon: Callable[..., None],
        next_item: Callable[[], I],
        deliver: Callable[[int, Outcome[I, V]], Awaitable[None]],
        settled: Callable[[], None],
        name: str,
    ) -> None:
        self.size = size
        self.succeeded = self.failed = 0
        self.last_error: Exception | None = None
        self.undelivered: list[Outcome[I, V]] = []
        self.reporter: Reporter | None = None
        self.is_over = False
        self._name = name
        self._link = _chain(fn, policy)
        self._raises = on_error == "raise"
        self._start_soon = start_soon
        self._next_item = next_item
        self._deliver = deliver
        self._settled = settled
        self._is_broken = False  # an error is on its way out
        self._taken = 0
        self._workers: set[_Worker[I]] = set()
        self._idle: dict[_Worker[I], None] = {}
        self._left: list[_Worker[I]] = []

    @property
    def busy(self) -> int:
        """How many workers have an item, or an outcome, in hand."""
        return len(self._workers) - len(self._idle)

    @property
    def done(self) -> int:
        """How many items are finished."""
        return self.succeeded + self.failed

    def is_at_work(self) -> bool:
        """Tell whether the current task is one of the workers."""
        worker = _at_work.get()
        return worker in self._workers and worker.task is current_task()

    def hand(self, item: I) -> bool:
        """Give an item to an idle worker, or to a new one; False if all are busy, or being stopped."""
        if self._idle:
            worker, _ = self._idle.popitem()
            self._give(worker, item)
            reschedule(worker.task)
        elif len(self._workers) < self.size and not self.is_over:
            worker = _Worker()
            self._workers.add(worker)
            self._give(worker, item)
            self._start_soon(self._work, worker, name=f"{self._name}: worker")
        else:
            return False
        return True

    def resize(self, size: int) -> None:
        """Change how many workers there are; a surplus one that is busy finishes its item."""
        self.size = size
        while len(self._workers) > size and self._idle:
            worker, _ = self._idle.popitem()
            self._workers.remove(worker)
            reschedule(worker.task)
        while len(self._workers) < size and not self.is_over and (item := self._next_item()) is not NOTHING:
            self.hand(item)

    def in_hand(self) -> list[I]:
        """Return the items that workers have, or had when they were cancelled, the earliest taken first."""
        holders = [*self._left, *(worker for worker in self._workers if worker.item is not NOTHING)]
        return [worker.item for worker in sorted(holders, key=lambda worker: worker.number)]

    # -- a worker --------------------------------------------------------------------------------------------------------

    def _give(self, worker: _Worker[I], item: I) -> None:
        worker.item = item
        worker.number = self._taken
        worker.attempts = 0
        self._taken += 1

    @enable_ki_protection
    async def _work(self, worker: _Worker[I]) -> None:
        worker.task = current_task()
        _at_work.set(worker)
        try:
            while worker.item is not NOTHING:
                await checkpoint_if_cancelled()
                try:
                    value = await _run(self._link, worker.item)
                except Exception as exc:
                    if self._breaks_at(exc):
                        worker.item = NOTHING
                        raise
                    outcome: Outcome[I, V] = Outcome(worker.item, None, exc, worker.attempts)
                else:
                    outcome = Outcome(worker.item, value, None, worker.attempts)
                    self.succeeded += 1
                    del value
                worker.item = NOTHING
                if self.reporter is not None:
                    self.reporter.changed()
                await self._deliver(worker.number, outcome)
                del outcome  # the traceback of its error holds this frame
                await self._take(worker)
        except BaseException:
            self.is_over = True
            self._workers.remove(worker)
            if worker.item is not NOTHING:
                self._left.append(worker)
            self._settled()
            raise

    def _breaks_at(self, error: Exception) -> bool:
        """Count an error, and tell whether it is the first that has to be raised."""
        self.failed += 1
        self.last_error = error
        if self._is_broken or not (self._raises or is_usage_error(error)):
            return False
        self._is_broken = True
        self._deliver = self._keep
        return True

    async def _keep(self, number: int, outcome: Outcome[I, V]) -> None:
        """Deliver nothing: the readers are being stopped."""
        self.undelivered.append(outcome)

    async def _take(self, worker: _Worker[I]) -> None:
        """Take the next item, wait for one, or retire with nothing in hand."""
        if len(self._workers) > self.size:
            self._workers.remove(worker)
            self._settled()
            return
        item = self._next_item()
        if item is not NOTHING:
            self._give(worker, item)
            await cancel_shielded_checkpoint()
            return
        self._idle[worker] = None
        self._settled()

        def abort(_: Any) -> Abort:
            del self._idle[worker]
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)


def _chain(fn: Callable[[Any], Awaitable[Any]], policy: Policy | None) -> Link:
    """Return the chain around the function, with a link that counts how often it is entered."""
    inner = make_link(fn)

    def counted(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Awaitable[Any]:
        worker = _at_work.get()
        if worker is not None:
            worker.attempts += 1
        return inner(args, kwargs)

    return counted if policy is None else policy.link(counted)


@disable_ki_protection  # what is called is the user's
async def _run(link: Link, item: object) -> Any:
    return await link((item,), {})


def check_policy(value: Policy | None) -> Policy | None:
    """Return value if it is a policy, or None."""
    if value is not None and not isinstance(value, Policy):
        raise TypeError(f"policy must be a policy (trioresil.abc.Policy), or None, not {value!r}")
    return value


def check_on_error(value: object) -> OnError:
    """Return value if it is one of the two ways to treat errors."""
    if value == "collect":
        return "collect"
    if value == "raise":
        return "raise"
    raise ValueError(f"on_error must be 'collect' or 'raise', not {value!r}")


def check_progress(value: Callable[[Progress], object] | None) -> Callable[[Progress], object] | None:
    """Return value if it is a synchronous callable, or None."""
    return function("progress", value, signature="(Progress) -> None")  # type: ignore[no-any-return]
