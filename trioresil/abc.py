"""What a user may implement: Policy, Backoff, TripRule, Instrument, Drainable.

Each is small on purpose. Backoff, Instrument and Drainable are protocols: any object of that shape will do. Policy and TripRule
are base classes, because they carry the forms that come for free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, TypeVarTuple, runtime_checkable

from trio.lowlevel import checkpoint_if_cancelled

from ._events import Event as Event
from ._kernel.backoff import Backoff as Backoff
from ._kernel.backoff import Chance as Chance
from ._kernel.trip_rules import TripCounter as TripCounter
from ._kernel.trip_rules import TripGauge as TripGauge
from ._kernel.trip_rules import TripRule as TripRule
from ._links import (
    Called,
    Linking,
    can_share_chain,
    enter_called,
    finish_wrapper,
    make_link,
    not_let_in,
    refuse_generators,
)
from ._links import Link as Link

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Policy(Linking, ABC):
    """Something that stands around a call: it may refuse it, delay it, bound it, repeat it or replace its outcome.

    A subclass sets `name`, and implements `link` and `statistics`; the forms `call`, decorator and `bind` come with this
    base class. A subclass that can also be a block has `__aenter__` and `__aexit__`; a Pipeline notices.

    Synopsis::

        class Logged(trioresil.abc.Policy):
            name = "logged"

            def link(self, inner):
                async def link(args, kwargs):
                    print("calling with", args, kwargs)
                    return await inner(args, kwargs)

                return link

            def statistics(self):
                return None
    """

    name: str
    """Name of this policy in errors, events and metrics."""

    stateful: bool = True
    """Whether calls that go through this object influence each other. Such an object may occur once in a Pipeline."""

    _one_chain: bool = False  # True promises that links hand the very arguments on, so that all calls may share a chain
    _chain_of_calls: Link | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        promising: Any = next(each for each in cls.__mro__ if "_one_chain" in vars(each))
        if promising._one_chain and cls.link is not promising.link:
            cls._one_chain = False  # what a class promises of its links it can't promise of a subclass's

    @abstractmethod
    def link(self, inner: Link) -> Link:
        """Return one link of a chain: an async function of (args, kwargs) that does this policy's work around `inner`.

        `args` and `kwargs` are the arguments of the call, packed; a link hands both on. A link must let every exception
        that it doesn't handle pass as it is, and must keep nothing behind when one does. Called once per chain.
        """

    @abstractmethod
    def statistics(self) -> Any:
        """Return a frozen snapshot of this policy's state."""

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T:
        """Call an async function under this policy and return its result.

        A policy of your own, and a Keyed, builds its chain anew for each call: decorate, or `bind`, what is called often.

        Args:
          fn (async function): what to call. Use functools.partial for keyword arguments.
          *args: its positional arguments.

        Cancellation: checks for cancellation before anything else; is otherwise as much of a checkpoint as `fn` is.
        """
        kwargs: dict[str, Any] = {}
        if self._one_chain and can_share_chain(fn):
            link = self._chain_of_calls or self._make_chain_of_calls()
            kwargs = Called()
            kwargs.fn = fn
        else:
            link = self.link(make_link(fn))
        try:
            await checkpoint_if_cancelled()
        except BaseException as exc:
            not_let_in(exc)
            raise
        return await link(args, kwargs)  # type: ignore[no-any-return]

    def _make_chain_of_calls(self) -> Link:
        link = self.link(enter_called)
        object.__setattr__(self, "_chain_of_calls", link)  # also of one that is immutable
        return link

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate an async function or method: each call of it goes through this policy."""
        refuse_generators(fn)
        link = self.link(make_link(fn))

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                await checkpoint_if_cancelled()
            except BaseException as exc:
                not_let_in(exc)
                raise
            return await link(args, kwargs)

        return finish_wrapper(wrapper, fn, link)

    def bind(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return fn behind this policy, like the decorator, but without the check for cancellation before it."""
        link = self.link(make_link(fn))

        async def bound(*args: Any, **kwargs: Any) -> Any:
            return await link(args, kwargs)

        return finish_wrapper(bound, fn, link)


@runtime_checkable
class Instrument(Protocol):
    """A listener: `record` is called with each event, in the task that caused it, and must return quickly.

    With a true attribute `traces` it also hears CallStarted, AttemptStarted and AttemptFinished.
    """

    def record(self, event: Event, /) -> None:
        """Take note of an event. Synchronous; if it raises, it is logged once and switched off."""


@runtime_checkable
class Drainable(Protocol):
    """What can stop taking in work and say when the work inside is done: a bulkhead, a pool, workers."""

    def close_admission(self) -> None:
        """From now on refuse new calls, with this object's rejection and no `retry_after`. Synchronous."""

    async def wait_drained(self) -> None:
        """Wait until nothing that was admitted is left inside."""
