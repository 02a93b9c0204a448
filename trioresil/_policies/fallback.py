"""Fallback: when a call fails, something else that will do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, Never, ParamSpec, TypeAlias, TypeVar, TypeVarTuple, cast, overload

import attrs

from .. import _instruments
from .._checks import MISSING, function, text
from .._errors import is_unstarted
from .._events import FellBack
from .._failures import On, check_on, failure_test
from .._immutable import Immutable
from .._links import Link, make_link, passage, refuse_generators
from .._notes import name_of, raise_again, shown
from ..abc import Policy

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")

Alternative = Callable[..., Awaitable[Any]]
Outcome: TypeAlias = tuple[str, Exception | None, Any]  # of whom; what it raised; else what it returned


@attrs.frozen(kw_only=True)
class FallbackStatistics:
    """What a Fallback can tell. It has no state; its events tell what happened."""

    name: str
    """Its name."""
    alternatives: tuple[str, ...]
    """Names of the alternatives, in order."""
    has_default: bool
    """Whether a default value stands at the end."""


class Fallback(Immutable, Policy, Generic[D]):
    """Answers a failure with an alternative: another server, a cache, a default value.

    The alternatives are called in order, with the arguments of the call, until one gives something acceptable. A cancellation
    never falls back. If nothing acceptable is found, the outcome of the first that *started* comes out, error or result, the
    same object, with notes about the others.

    Synopsis::

        fallback = trioresil.Fallback(from_cache, from_mirror, on=httpx.HTTPError, default=None)
        price = await fallback.call(from_primary, "EURUSD")

    Sharing: holds nothing for a call; one object serves any number of tasks. Cost: one try-statement until something fails.

    Args:
      *alternatives (async functions): called with the same arguments, in order, after the wrapped one.
      on (exception class, tuple of classes, or (Exception) -> bool): which failures to answer. Must not raise. No default: what
        is hidden must be named. An alternative's error that it doesn't match comes out at once.
      default (any value): returned when everything else has failed. Default: none; the failure comes out.
      on_result ((result) -> bool): True: this result is no answer, go on. Must not raise. Default: every result is one.
      name (str): its name in notes, events and statistics. Default: "fallback".

    Cancellation: comes out at once; nothing else is tried. As much of a checkpoint as the functions that it calls.

    Source: M. Nygard, "Release It!".
    """

    stateful = False
    _one_chain = True

    @overload
    def __init__(
        self: Fallback[Never],
        *alternatives: Alternative,
        on: On,
        on_result: Callable[[Any], bool] | None = None,
        name: str = "fallback",
    ) -> None: ...
    @overload
    def __init__(
        self: Fallback[D],
        *alternatives: Alternative,
        on: On,
        default: D,
        on_result: Callable[[Any], bool] | None = None,
        name: str = "fallback",
    ) -> None: ...
    def __init__(
        self,
        *alternatives: Alternative,
        on: On,
        default: Any = MISSING,
        on_result: Callable[[Any], bool] | None = None,
        name: str = "fallback",
    ) -> None:
        for index, each in enumerate(alternatives):
            refuse_generators(each)
            if each in alternatives[:index]:
                raise ValueError(f"alternatives must be different functions, but {each!r} is among them twice")
        if not alternatives and default is MISSING:
            raise ValueError("a Fallback needs an alternative or a default to fall back to")
        self.alternatives = alternatives
        self.on: On = check_on(on)
        self.default = default
        self.on_result: Callable[[Any], bool] | None = function("on_result", on_result, signature="(result) -> bool")
        self.name: str = text("name", name)
        self._is_failure = failure_test(self.on)
        self._links = tuple((name_of(each), make_link(each)) for each in alternatives)
        self._built = True

    @property
    def has_default(self) -> bool:
        """Whether a default value stands at the end."""
        return self.default is not MISSING

    def replace(self, **changes: Any) -> Fallback[Any]:
        """Return a copy with other arguments: `fallback.replace(default=0)`. `alternatives` is a tuple here."""
        given = {"on": self.on, "default": self.default, "on_result": self.on_result, "name": self.name, **changes}
        return Fallback(*given.pop("alternatives", self.alternatives), **given)

    # A Fallback with a default returns that as well: these two say so to type checkers.

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T | D:  # type: ignore[override]
        """Call an async function, and the alternatives if it fails; see Policy.call."""
        return await super().call(fn, *args)

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T | D]]:  # type: ignore[override]
        """Decorate an async function or method."""
        return cast("Callable[P, Coroutine[Any, Any, T | D]]", super().__call__(fn))

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        on_result = self.on_result

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if _instruments.installed:
                _instruments.announce(self)
            try:
                result = await inner(args, kwargs)
            except Exception as exc:
                if not self._is_failure(exc):
                    raise
                failure: Exception | None = exc
                result = None
            else:
                if on_result is None or not on_result(result):
                    return result
                failure = None
            try:
                return await self._fall_back(args, kwargs, failure, result)
            finally:
                del failure  # its traceback holds this frame

        return link

    async def _fall_back(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception | None, result: Any
    ) -> Any:
        outcomes: list[Outcome] = [("the call itself", error, result)]
        unmatched = False
        try:
            for name, link in self._links:
                _instruments.emit(FellBack, policy=self, alternative=name, error=error, result=result)
                try:
                    result = await link(args, kwargs)
                except Exception as exc:
                    error, result = exc, None
                    unmatched = not self._is_failure(exc)
                except BaseException as exc:
                    self._note_cancelled(exc, name, outcomes)
                    raise
                else:
                    if self.on_result is None or not self.on_result(result):
                        return result
                    error = None
                outcomes.append((name, error, result))
                if unmatched:
                    break
            else:
                if self.has_default:
                    _instruments.emit(FellBack, policy=self, alternative="default", error=error, result=result)
                    return self.default
            error, result = self._choose(outcomes, unmatched)
            return result if error is None else raise_again(error)
        finally:  # the tracebacks of all these errors hold this frame
            outcomes.clear()
            del error

    def _choose(self, outcomes: list[Outcome], unmatched: bool) -> tuple[Exception | None, Any]:
        """Return the outcome to end with, and note the others on it.

        It is the first that started, where an unmatched error at the end goes before the others; if none did, the first.
        """
        candidates = [outcomes[-1], *outcomes] if unmatched else outcomes
        started = [each for each in candidates if each[1] is None or not is_unstarted(each[1])]
        _, error, result = (started or candidates)[0]
        for name, other, other_result in outcomes:
            if error is not None and other is not error:
                outcome = (
                    f"returned {shown(other_result)}, which is no answer" if other is None else f"raised {shown(other)}"
                )
                error.add_note(f"trioresil: fallback {self.name!r}: {name} {outcome}")
        return error, result

    def _note_cancelled(self, exc: BaseException, name: str, outcomes: list[Outcome]) -> None:
        if any(error is None or not is_unstarted(error) for _, error, _ in outcomes):
            passage(exc).started = True
        last = next((error for _, error, _ in reversed(outcomes) if error is not None), None)
        after = "" if last is None else f"; the last error was {shown(last)}"
        passage(exc).notes.append(f"trioresil: alternative {name} of fallback {self.name!r} was in flight{after}")

    def statistics(self) -> FallbackStatistics:
        """Return a snapshot of its configuration."""
        names = tuple(name for name, _ in self._links)
        return FallbackStatistics(name=self.name, alternatives=names, has_default=self.has_default)

    def __repr__(self) -> str:
        parts = [name for name, _ in self._links] + (["default"] if self.has_default else [])
        return f"<trioresil.Fallback {self.name!r} to {', '.join(parts)}>"
