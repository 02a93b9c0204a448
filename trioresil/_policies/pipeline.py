"""Pipeline: policies in a row, as one policy."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping
from types import TracebackType
from typing import Any

import attrs
from trio import current_time
from trio.lowlevel import enable_ki_protection

from .. import _instruments
from .._checks import text
from .._errors import BulkheadFullError, CircuitOpenError, RateLimitedError, TimedOutError, is_unstarted
from .._events import CallFinished, CallStarted, Outcome
from .._failures import On, classes_of, failure_test
from .._links import Link, check_cancelled
from ..abc import Policy
from .bulkhead import Bulkhead
from .circuit_breaker import CircuitBreaker
from .fallback import Fallback
from .retry import Retry
from .timeout import Timeout
from .token_bucket import TokenBucket


@attrs.frozen(kw_only=True)
class PipelineStatistics:
    """Snapshot of a Pipeline."""

    name: str
    """Its name."""
    parts: tuple[Any, ...]
    """The statistics of its policies, outermost first."""


class Pipeline(Policy):
    """Puts policies around a call in one fixed order, the first outermost.

    The order matters. `Pipeline(Timeout(30), retry, breaker, bucket, Timeout(2))` bounds the whole by 30 s and each attempt by
    2 s; each attempt asks the breaker and takes a token, and no time in the queue counts against the 2 s. Combinations that
    can't do what they seem to say are refused when the Pipeline is built.

    Synopsis::

        pipeline = trioresil.Pipeline(trioresil.Timeout(30), retry, breaker, trioresil.Timeout(2), name="search")
        response = await pipeline.call(client.get, url)

        @pipeline
        async def search(query): ...

        async with trioresil.Pipeline(breaker, bulkhead):       # guards only
            ...

    Sharing: holds nothing for a call; what its policies share they share. Pipelines nest. Cost: that of its policies;
    the chain is built once, for `call` as for the decorator, unless a Keyed or a policy of your own is among them.

    Args:
      *policies (Policy): outermost first.
      name (str): its name in events and statistics. Default: "pipeline".

    Cancellation: checks for cancellation once, on entry; the rest is up to its policies and the function.

    Raises:
      TypeError: something is not a policy, or a block of a Pipeline with a Retry, a Fallback or a Keyed in it.
      ValueError: a combination that can't do what it seems to say; the message tells what to write instead.
    """

    stateful = False
    _one_chain = True

    def __init__(self, *policies: Policy, name: str = "pipeline") -> None:
        for each in policies:
            if not isinstance(each, Policy):
                raise TypeError(f"a Pipeline is made of policies (trioresil.abc.Policy), not {each!r}")
        self.policies: tuple[Policy, ...] = policies
        self.name: str = text("name", name)
        self._one_chain = type(self)._one_chain and all(policy._one_chain for policy in policies)
        _refuse_contradictions(list(_flatten(policies)))

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        for policy in reversed(self.policies):
            inner = policy.link(inner)
        chain = inner

        def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Awaitable[Any]:  # no coroutine of its own
            if _instruments.installed:
                return self._observed(chain, args, kwargs)
            return chain(args, kwargs)

        return link

    async def _observed(self, chain: Link, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        _instruments.announce(self)
        key, began_at = _instruments.begin(CallStarted, policy=self), current_time()
        try:
            result = await chain(args, kwargs)
        except BaseException as exc:
            self._finished(key, began_at, _instruments.outcome_of(exc), exc)
            raise
        self._finished(key, began_at, "success", None)
        return result

    def _finished(self, key: int, began_at: float, outcome: Outcome, error: BaseException | None) -> None:
        seconds = current_time() - began_at
        _instruments.emit(CallFinished, policy=self, outcome=outcome, seconds=seconds, error=error, key=key)

    @enable_ki_protection
    async def __aenter__(self) -> None:
        self._refuse_callers()
        await check_cancelled()
        if _instruments.installed:
            _instruments.announce(self)
        entered: list[Any] = []
        guards: tuple[Any, ...] = self.policies
        try:
            for guard in guards:
                await guard.__aenter__()
                entered.append(guard)
        except BaseException as exc:
            await _leave(entered, exc, undoing=True)
            raise

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # plain bool: checkers would think that a block may swallow
        return await _leave(self.policies, error, undoing=False)

    def _refuse_callers(self) -> None:
        for policy in _flatten(self.policies):
            if not hasattr(type(policy), "__aenter__"):
                raise TypeError(
                    f"{self.name}: {policy!r} can't guard a block, because it has to call what it guards: "
                    "put the block's work into an async function and use `await pipeline.call(fn)`"
                )

    def statistics(self) -> PipelineStatistics:
        """Return the statistics of all parts."""
        return PipelineStatistics(name=self.name, parts=tuple(policy.statistics() for policy in self.policies))

    def __repr__(self) -> str:
        return f"<trioresil.Pipeline {self.name!r} of {' > '.join(policy.name for policy in self.policies)}>"


async def _leave(guards: Any, error: BaseException | None, *, undoing: bool) -> bool:
    """Leave guards, innermost first, each with what the one inside of it let out; raise the last of it if it is new.

    When an entry is undone, the block was never entered: a time-out then came before it started, which the guards further out
    must know.
    """
    current = error
    for guard in reversed(guards):
        try:
            if current is None:
                await guard.__aexit__(None, None, None)
            elif await guard.__aexit__(type(current), current, current.__traceback__):
                current = None
        except BaseException as exc:
            if undoing and exc is not current and isinstance(exc, TimedOutError):
                exc.started = False
            current = exc
    if current is error:
        return False
    if current is None:
        return True
    try:
        raise current
    finally:
        del current


def _flatten(policies: tuple[Policy, ...]) -> Iterator[Policy]:
    for policy in policies:
        if isinstance(policy, Pipeline):
            yield from _flatten(policy.policies)
        else:
            yield policy


def _refuse_contradictions(policies: list[Policy]) -> None:
    for index, policy in enumerate(policies):
        inner = policies[index + 1 :]
        if policy.stateful and any(each is policy for each in inner):
            raise ValueError(
                f"{policy!r} occurs twice: each call would go through it twice and count twice; leave one of them out"
            )
        if isinstance(policy, (Retry, CircuitBreaker)):
            _refuse_hidden_errors(policy, inner)
        if isinstance(policy, Timeout):
            _refuse_longer_inside(policy, inner)
        if isinstance(policy, Retry):
            _refuse_unretried_timeout(policy, inner)


def _refuse_hidden_errors(outer: Retry | CircuitBreaker, inner: list[Policy]) -> None:
    """A Fallback that answers every error with a default leaves the policy around it nothing to see."""
    if classes_of(outer.on) is None or outer.on_result is not None:
        return
    for index, policy in enumerate(inner):
        if not isinstance(policy, Fallback) or not policy.has_default or not _covers(policy.on, outer.on):
            continue
        if _shows_something(outer, inner[:index], policy):
            continue
        does = "retry" if isinstance(outer, Retry) else "open"
        raise ValueError(
            f"{policy!r} answers with its default whatever {outer!r} around it could see, so that one would never {does}: "
            f"put the Fallback outside of it, or leave the default to an outer Fallback"
        )


def _covers(wide: On, narrow: On) -> bool:
    """Tell whether one `on` surely matches all that another does; a predicate is trusted not to."""
    wide_classes, narrow_classes = classes_of(wide), classes_of(narrow)
    if wide_classes is None or narrow_classes is None:
        return False
    return all(issubclass(each, wide_classes) for each in narrow_classes)


def _shows_something(
    outer: Retry | CircuitBreaker | Fallback[Any], between: list[Policy], answering: Fallback[Any]
) -> bool:
    """Tell whether what stands between the two may raise an error of its own that the outer one looks at."""
    is_failure = failure_test(outer.on)
    for index, policy in enumerate(between):
        if isinstance(policy, Retry):
            continue  # raises what it was given
        if isinstance(policy, Fallback):
            turns_to_others = (
                policy.on_result is not None
                or not _covers(answering.on, policy.on)
                or _shows_something(policy, between[index + 1 :], answering)
            )
            if policy.alternatives and turns_to_others:
                return True  # and they may raise anything
            continue
        example = _own_error(policy)
        if example is None:
            return True
        if is_failure(example) and not (isinstance(outer, CircuitBreaker) and is_unstarted(example)):
            return True
    return False


def _own_error(policy: Policy) -> Exception | None:
    """Return an example of the error that a policy raises itself, None if that could be any."""
    if isinstance(policy, Timeout):
        return TimedOutError(policy.name, policy.seconds, started=True)
    if isinstance(policy, CircuitBreaker):
        return CircuitOpenError(policy.name)
    if isinstance(policy, TokenBucket):
        return RateLimitedError(policy.name)
    return BulkheadFullError(policy.name) if isinstance(policy, Bulkhead) else None


def _refuse_longer_inside(outer: Timeout, inner: list[Policy]) -> None:
    for policy in inner:
        if isinstance(policy, Timeout) and policy.seconds >= outer.seconds:
            raise ValueError(
                f"{policy!r} is not shorter than {outer!r} around it and would never fire: "
                "the outer one bounds the whole, so give the inner one less"
            )


def _refuse_unretried_timeout(retry: Retry, inner: list[Policy]) -> None:
    """A time-out of an attempt that the Retry around it doesn't know is hardly ever meant."""
    if classes_of(retry.on) is None:
        return
    for policy in inner:
        if isinstance(policy, Fallback) and (classes_of(policy.on) is None or _matches_timeout(policy.on)):
            return  # it is answered before it gets here
        if isinstance(policy, Timeout) and not _matches_timeout(retry.on):
            raise ValueError(
                f"the {policy.seconds:g} s time-out would never be retried by {retry!r}: "
                "add trioresil.TimedOutError to on, or give a predicate if that is meant"
            )


def _matches_timeout(on: On) -> bool:
    return failure_test(on)(TimedOutError("timeout"))
