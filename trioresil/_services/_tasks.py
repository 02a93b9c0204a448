"""Tasks: the nursery that a service keeps inside, and the order in which it is closed.

The law of this file:

1. The body ends first, then its workers are cancelled and waited for: nobody outlives the service.
2. Only cancellations go through the nursery, whose own they may be: a worker that fails cancels the body. Every other error of
   the body stays out of it, and leaves as the object that it was.
3. A worker's error is kept as it was raised. Alone it leaves bare; with others, or beside an error of the body, in one group.
4. An error wins over a cancellation that only the workers have seen, as when an outer scope is cancelled while they end.
5. Whoever waits in `start` is told when the service ends. Until its worker has started, that is under the caller and not in the
   nursery, which would wait for it, perhaps for ever.
6. A KeyboardInterrupt finds workers where the service lets it, and never before their first step: they are counted already.
   So they are protected, and a service that calls what is the user's unprotects that.

Rejected: reading the errors out of Trio's own group, which its scope has by then split: a group that a worker raised would
come out as another object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, TypeAlias

import trio
from trio.lowlevel import current_task, enable_ki_protection

from .._notes import name_of, raise_again

AsyncFunction: TypeAlias = Callable[..., Awaitable[object]]


class Tasks:
    """An `async with` for a service's own tasks: what it starts is cancelled when the body has ended.

    Workers run in the context of the task that opened it, so they report to its instruments, whoever has them started.

    Args:
      owner (str): what to call the service in messages.
    """

    __slots__ = ("_context", "_ended", "_errors", "_manager", "_nursery", "_owner", "_starting", "_task")

    _context: Context
    _manager: AbstractAsyncContextManager[trio.Nursery]
    _nursery: trio.Nursery

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._errors: list[BaseException] = []
        self._ended: str | None = None  # why nothing is started any more
        self._starting: set[trio.CancelScope] = set()
        self._task: trio.lowlevel.Task | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Tasks:
        if self._task is not None:
            raise RuntimeError(f"{self._owner} was opened already: make a new one for each `async with`")
        self._task = current_task()
        self._context = copy_context()
        self._manager = trio.open_nursery(strict_exception_groups=True)
        self._nursery = await self._manager.__aenter__()
        return self

    def start_soon(
        self, fn: AsyncFunction, *args: Any, name: str | None = None, context: Context | None = None
    ) -> None:
        """Start a worker; any task may ask for it. If it fails, the body and the other workers are cancelled.

        It runs in a copy of `context`, if that is given: what the user has started for him belongs in the caller's.
        """
        run = (self._context if context is None else context).run
        run(self._nursery.start_soon, self._work, fn, args, name=name or name_of(fn))  # type: ignore[arg-type]

    async def start(self, fn: AsyncFunction, *args: Any, name: str | None = None) -> Any:
        """Start a worker, wait until it calls `task_status.started(value)`, and return that value.

        It runs in the caller's context. An error before that comes out here, as the object that it was, and leaves the service
        as it is. If the service ends before that, so does the worker, and this is a RuntimeError.
        """
        early: list[Exception] = []
        with trio.CancelScope() as scope:
            self._starting.add(scope)
            if self._ended is not None:
                scope.cancel(reason=self._ended)
            try:
                return await self._nursery.start(self._work, fn, args, early, name=name or name_of(fn))
            except Exception:
                if early:
                    raise_again(early[0])  # a group that has come through Trio is another object by now
                raise
            finally:
                self._starting.discard(scope)
        raise RuntimeError(f"{self._owner} was closed before {name or name_of(fn)} had started")

    def refuse_starts(self, reason: str) -> None:
        """Cancel every worker that has not started yet, and whoever asks for one from now on by `start`."""
        self._ended = reason
        for scope in tuple(self._starting):
            scope.cancel(reason=reason)

    def cancel(self, reason: str) -> None:
        """Cancel the body and every worker."""
        self.refuse_starts(reason)
        self._nursery.cancel_scope.cancel(reason=reason)

    def check_task(self) -> None:
        """Refuse to be left in another task than the one that opened it, before anything is closed."""
        if current_task() is not self._task:
            raise RuntimeError(f"{self._owner} must be left in the task that opened it")

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.check_task()
        self.cancel(f"{self._owner}: the body has ended")
        passing, kept = _split(error)
        left = await self._close(passing)
        failures, self._errors = [*self._errors, *_failures(left)], []
        absorbed = passing is not None and not _shares_a_leaf(passing, left)
        of_body = kept if absorbed else error
        try:
            if not failures and of_body is error:
                if error is None and left is not None:
                    raise_again(next(_leaves(left)))  # a cancellation that came while the workers ended
                return False
            self._raise([*([] if of_body is None else [of_body]), *failures])
            return True
        finally:
            del error, passing, kept, left, failures, of_body  # their tracebacks hold this frame

    async def _close(self, passing: BaseException | None) -> BaseException | None:
        """Close the nursery, with what the body may have got from it; return what comes out of it."""
        try:
            traceback = None if passing is None else passing.__traceback__
            swallowed = await self._manager.__aexit__(None if passing is None else type(passing), passing, traceback)
        except BaseException as left:
            return left
        return None if swallowed else passing

    def _raise(self, errors: list[BaseException]) -> None:
        """Raise an error as it was, several as a group; return if there is none."""
        if len(errors) > 1:
            raise_again(BaseExceptionGroup(f"{self._owner}: more than one error", errors))
        if errors:
            raise_again(errors[0])

    @enable_ki_protection  # else an interrupt could strike before the worker's first step, which nobody would then count out
    async def _work(
        self, fn: AsyncFunction, args: tuple[Any, ...], early: list[Exception] | None = None, **status: Any
    ) -> None:
        try:
            await fn(*args, **status)
        except Exception as exc:
            if early is not None and current_task().parent_nursery is not self._nursery:
                early.append(exc)  # not started yet: `start` raises it
                raise
            self._errors.append(exc)
            self.cancel(f"{self._owner}: {name_of(fn)} failed")


def _split(error: BaseException | None) -> tuple[BaseException | None, BaseException | None]:
    """Part what the body raised into its cancellations and the rest."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)


def _failures(left: BaseException | None) -> tuple[BaseException, ...]:
    """Return what came out of the nursery besides cancellations, as a KeyboardInterrupt that struck a worker."""
    rest = left.split(trio.Cancelled)[1] if isinstance(left, BaseExceptionGroup) else None
    return () if rest is None else rest.exceptions


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _shares_a_leaf(error: BaseException, other: BaseException | None) -> bool:
    if other is None:
        return False
    leaves = set(map(id, _leaves(other)))
    return any(id(each) in leaves for each in _leaves(error))
