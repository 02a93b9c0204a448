"""Retry: makes a call again, after a wait, while there is hope and time.

Both forms, `call` and the loop, go through one _Course, which is made at the first failure: it keeps the count, decides whether
another attempt is worth it, and says what comes out in the end. The happy path is one try-statement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from random import Random
from types import TracebackType
from typing import Any, Final, Literal

import attrs
import trio
from trio import current_effective_deadline, current_time
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from .. import _instruments
from .._checks import MISSING, chance, count, function, number, seconds, text
from .._errors import RejectedError, is_unstarted
from .._events import AttemptStarted, RetryGaveUp, RetryScheduled
from .._failures import On, check_on, failure_test
from .._immutable import Immutable
from .._kernel.backoff import Backoff, as_backoff, endless, exponential
from .._links import Link, not_let_in, passage
from .._notes import raise_again, shown
from .._retry_budget import RetryBudget
from ..abc import Policy

KEPT_ERRORS: Final = 10

quickened: ContextVar[float | None] = ContextVar("trioresil_quickened", default=None)
"""Set by trioresil.testing.quick: retries don't wait, and make at most this many attempts."""

Reason = Literal["attempts", "hint", "deadline", "budget", "unmatched"]


@attrs.frozen(kw_only=True)
class RetryStatistics:
    """What a Retry can tell. It has no state; its events tell what happened."""

    name: str
    """Its name."""
    max_attempts: float
    """Attempts in all, the first included."""


class Retry(Immutable, Policy):
    """Calls again after a failure that may pass, with a growing, jittered wait between attempts.

    It never retries a cancellation, whatever `on` says. It never waits for what can't come in time: if the wait would pass the
    deadline around the call (`trio.fail_after`, a Timeout), the real error comes out at once. When it gives up, the error of the
    last attempt that *started* comes out, the same object, with a note that tells how many attempts were made; a rejection
    comes out only if every attempt was rejected. Only repeat what may be done twice.

    Synopsis::

        retry = trioresil.Retry(on=httpx.TransportError, max_attempts=3)
        response = await retry.call(client.get, url)

        async for attempt in retry:
            with attempt:
                response = await client.get(url)

    The loop decides in the same way, but never retries StopIteration and StopAsyncIteration, which no iterator can raise as
    errors: they leave the block at once. `attempt.number` counts from 1; `attempt.previous` is the last error; a value given
    to `attempt.result` is what `on_result` judges.

    Sharing: holds nothing for a call; one object serves any number of tasks. Cost: one try-statement until something fails.

    Args:
      on (exception class, tuple of classes, or (Exception) -> bool): what is worth another attempt. Must not raise. Of an
        ExceptionGroup the group itself is asked about first, then every leaf must match. No default: "retry what?" must be
        answered.
      max_attempts (int, >= 1, or math.inf): attempts in all, the first included. Default: 5.
      backoff (Backoff, or a list of seconds): the waits. The last value repeats. Default: exponential(initial=0.1, max=10.0)
        with full jitter: at most 0.1, 0.2, 0.4, 0.8 s.
      budget (RetryBudget): shared among policies, it keeps their retries a fraction of their calls. Default: none.
      on_result ((result) -> bool): True: this result is a failure. When attempts run out the last result is returned. Must not
        raise. Default: none is.
      delay_hint ((Exception or result) -> seconds or None): a wait that the other side asks for, as in Retry-After; it takes
        the place of the backoff's and is never cut short: the wait is hint * (1 + U/2), exactly the hint if the backoff has no
        jitter. Below 0 counts as 0. Must not raise. Default: the `retry_after` of a rejection.
      max_hint (float, seconds, >= 0): a hint above it ends the retry at once with the real error. Default: 60.
      rng (random.Random): source of jitter. Default: one seeded by the system.
      name (str): its name in errors' notes, events and logs. Default: "retry".

    Cancellation: comes out at once, from an attempt or a wait. The call is otherwise as much of a checkpoint as its function;
    each wait is a full one.

    Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """

    stateful = False
    _one_chain = True

    def __init__(
        self,
        *,
        on: On,
        max_attempts: float = 5,
        backoff: Backoff | Iterable[float] | None = None,
        budget: RetryBudget | None = None,
        on_result: Callable[[Any], bool] | None = None,
        delay_hint: Callable[[Any], float | None] | None = None,
        max_hint: float = 60.0,
        rng: Random | None = None,
        name: str = "retry",
    ) -> None:
        self.on: On = check_on(on)
        self.max_attempts: float = count("max_attempts", max_attempts, infinite=True)
        self.backoff: Backoff = exponential() if backoff is None else as_backoff("backoff", backoff)
        self.budget: RetryBudget | None = _check_budget(budget)
        self.on_result: Callable[[Any], bool] | None = function("on_result", on_result, signature="(result) -> bool")
        self.delay_hint: Callable[[Any], float | None] | None = function(
            "delay_hint", delay_hint, signature="(Exception or result) -> seconds or None"
        )
        self.max_hint: float = seconds("max_hint", max_hint)
        self.rng: Random = chance("rng", rng) or Random()
        self.name: str = text("name", name)
        self._is_failure = failure_test(self.on)
        self._given: dict[str, Any] = {
            "on": on,
            "max_attempts": max_attempts,
            "backoff": backoff,
            "budget": budget,
            "on_result": on_result,
            "delay_hint": delay_hint,
            "max_hint": max_hint,
            "rng": rng,
            "name": name,
        }
        self._built = True

    def replace(self, **changes: Any) -> Retry:
        """Return a copy with other arguments: `retry.replace(max_attempts=2)`."""
        return Retry(**{**self._given, **changes})

    def link(self, inner: Link) -> Link:
        """Return one link of a chain; see trioresil.abc.Policy."""
        budget, on_result = self.budget, self.on_result

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            run = inner
            if _instruments.installed:
                _instruments.announce(self)
                if _instruments.tracing:
                    run = _instruments.traced_attempts(self, inner)
            if budget is not None:
                budget.deposit()
            try:
                result = await run(args, kwargs)
            except Exception as exc:
                failure: Exception | None = exc
                result = None
            except BaseException as exc:
                _note_cancelled(self, exc, 1, None)
                raise
            else:
                if on_result is None or not on_result(result):
                    return result
                failure = None
            try:
                return await self._rerun(run, args, kwargs, failure, result)
            finally:
                del failure  # its traceback holds this frame

        return link

    async def _rerun(
        self, inner: Link, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception | None, result: Any
    ) -> Any:
        course = _Course(self)
        try:
            while course.goes_on_after(error, result):
                wake_at = course.next_instant()
                if wake_at is None:
                    break
                await course.wait_until(wake_at)
                try:
                    result = await inner(args, kwargs)
                except Exception as exc:
                    error, result = exc, None
                except BaseException as exc:
                    course.note_cancelled(exc, "was in flight")
                    raise
                else:
                    if self.on_result is None or not self.on_result(result):
                        return result
                    error = None
            return course.conclude()
        finally:
            course.forget()
            del error

    def __aiter__(self) -> _Attempts:
        return _Attempts(self)

    def statistics(self) -> RetryStatistics:
        """Return a snapshot of its configuration."""
        return RetryStatistics(name=self.name, max_attempts=self.max_attempts)

    def __repr__(self) -> str:
        return f"<trioresil.Retry {self.name!r} {self.max_attempts} attempts, {self.backoff!r}>"


class _Course:
    """What one call has been through since its first failure, and what is to be done about it."""

    __slots__ = ("_delays", "_due", "_errors", "_kept", "_latest", "_limit", "_reason", "_retry", "_waited", "attempts")

    def __init__(self, retry: Retry) -> None:
        quick = quickened.get()
        self._retry = retry
        self._limit = retry.max_attempts if quick is None else min(retry.max_attempts, quick)
        self._delays: Iterator[float] | None = None
        self._errors: deque[tuple[int, Exception]] = deque(maxlen=KEPT_ERRORS + 1)
        self._latest: tuple[Exception | None, Any] = (None, None)
        self._kept: tuple[Exception | None, Any] | None = None  # the last outcome of an attempt that started
        self._waited = 0.0
        self._due = False  # whether the next attempt needs no sleep
        self._reason: Reason = "attempts"
        self.attempts = 0

    @property
    def previous(self) -> Exception | None:
        """The latest error."""
        return self._errors[-1][1] if self._errors else None

    def goes_on_after(self, error: Exception | None, result: Any, *, final: bool = False) -> bool:
        """Take note of a failed attempt and tell whether another could follow, as far as that needs no clock.

        After a final error none could, whatever `on` says.
        """
        self.attempts += 1
        self._latest = (error, result)
        if error is not None:
            self._errors.append((self.attempts, error))
        if error is None or not is_unstarted(error):
            self._kept = self._latest
        if error is not None and (final or not self._retry._is_failure(error)):
            self._reason = "unmatched"
            return False
        return self.attempts < self._limit

    def next_instant(self) -> float | None:
        """Return when to make the next attempt, or None if it isn't worth waiting for. Withdraws from the budget."""
        retry = self._retry
        try:
            delay = self._delay()
        except Exception as exc:
            self._went_wrong(exc)
            raise
        if delay is None:
            self._reason = "hint"
            return None
        wake_at = current_time() + delay
        if wake_at >= current_effective_deadline():
            self._reason = "deadline"
            return None
        if retry.budget is not None and not retry.budget.withdraw():
            self._reason = "budget"
            return None
        self._waited += delay
        self._due = not delay
        error, result = self._latest
        _instruments.emit(RetryScheduled, policy=retry, attempt=self.attempts, delay=delay, error=error, result=result)
        return wake_at

    def _delay(self) -> float | None:
        retry = self._retry
        if self._delays is None:
            self._delays = endless("backoff", retry.backoff.delays(retry.rng))
        delay = next(self._delays)
        hint = self._hint()
        if hint is not None:
            if hint > retry.max_hint:
                return None
            jittered = getattr(retry.backoff, "jitter", "unknown") != "none"
            delay = hint * (1 + retry.rng.random() / 2) if jittered else hint
        return delay if quickened.get() is None else 0.0

    def _went_wrong(self, exc: Exception) -> None:
        """Have an error of `delay_hint` or `backoff` tell of the attempt's own error, whose place it takes."""
        error = self._latest[0]
        if error is not None and error is not exc:
            exc.__cause__ = error
        del error
        if isinstance(exc, _ENDS_OF_ITERATION):
            raise RuntimeError(f"retry {self._retry.name!r}: delay_hint or backoff raised {shown(exc)}") from exc

    def _hint(self) -> float | None:
        error, result = self._latest
        if self._retry.delay_hint is not None:
            hint = self._retry.delay_hint(result if error is None else error)
        else:
            hint = error.retry_after if isinstance(error, RejectedError) and not error.started else None
        return None if hint is None else max(0.0, number("the result of delay_hint", hint))

    async def wait_until(self, instant: float) -> None:
        """Wait for the next attempt."""
        try:
            if self._due:
                await checkpoint()  # a fifth of the price of a sleep
            else:
                await trio.sleep_until(instant)
        except BaseException as exc:
            self.note_cancelled(exc, "was being waited for")
            raise

    def note_cancelled(self, exc: BaseException, what: str) -> None:
        """Note on a passing cancellation where it met this call."""
        if self._kept is not None:
            passage(exc).started = True
        elif what != "was in flight":
            passage(exc).started = False
        _note_cancelled(self._retry, exc, self.attempts + 1, self.previous, what)

    def comes_out(self) -> tuple[Exception | None, Any]:
        """Return the outcome to end with, (error, result): the last that started, or the last if none did."""
        return self._kept if self._kept is not None else self._latest

    def conclude(self) -> Any:
        """End the call: return the outcome's result, or raise its error."""
        error, result = self.comes_out()
        self.report()
        try:
            return result if error is None else raise_again(error)
        finally:
            del error  # its traceback holds this frame

    def report(self) -> None:
        """Tell how it ended: a note on the error that comes out, and an event. Not for a first error that doesn't match."""
        if self._reason == "unmatched" and self.attempts == 1:
            return
        error, _ = self.comes_out()
        if error is not None:
            error.add_note(self._note(error))
        _instruments.emit(
            RetryGaveUp,
            policy=self._retry,
            reason=self._reason,
            attempts=self.attempts,
            waited=self._waited,
            error=error,
            errors=tuple(each for _, each in self._errors)[-KEPT_ERRORS:],
        )

    def _note(self, error: Exception) -> str:
        attempts = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        lines = [
            f"trioresil: retry {self._retry.name!r} gave up after {attempts} and {self._waited:.3g} s of waiting"
            + _BECAUSE[self._reason]
        ]
        earlier = [(at, each) for at, each in self._errors if each is not error][-KEPT_ERRORS:]
        lines += [f"  attempt {at}: {shown(each)}" for at, each in earlier]
        return "\n".join(lines)

    def forget(self) -> None:
        """Let go of the errors, whose tracebacks hold the frames that hold this."""
        self._errors.clear()
        self._kept = None
        self._latest = (None, None)


_ENDS_OF_ITERATION: Final = (StopIteration, StopAsyncIteration)
"""Raised by an iterator, they would end the loop as if all were well, or turn into a RuntimeError."""

_BECAUSE: Final[dict[Reason, str]] = {
    "attempts": "",
    "hint": ": the wait asked for is longer than max_hint",
    "deadline": ": the next wait would pass the deadline",
    "budget": ": the retry budget is spent",
    "unmatched": ": `on` doesn't match this error",
}


def _note_cancelled(
    retry: Retry, exc: BaseException, attempt: int, last: Exception | None, what: str = "was in flight"
) -> None:
    after = "" if last is None else f"; the last error was {shown(last)}"
    passage(exc).notes.append(f"trioresil: attempt {attempt} of retry {retry.name!r} {what}{after}")


class _Attempts:
    """The loop form: an iterator of attempts that makes the decisions which need a clock, outside of every attempt's scopes."""

    __slots__ = ("_attempt", "_course", "_retry")

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._course: _Course | None = None
        self._attempt: Attempt | None = None

    def __aiter__(self) -> _Attempts:
        return self

    async def __anext__(self) -> Attempt:
        attempt = self._attempt
        if attempt is None:
            try:
                await checkpoint_if_cancelled()
            except BaseException as exc:
                not_let_in(exc)
                raise
            if _instruments.installed:
                _instruments.announce(self._retry)
            if self._retry.budget is not None:
                self._retry.budget.deposit()
            self._attempt = attempt = Attempt(self, 1, None)
            return attempt
        if attempt._state is not _LEFT:
            raise RuntimeError(
                f"retry {self._retry.name!r}: attempt {attempt.number} was not "
                f"{'entered' if attempt._state is _NEW else 'left'}: write `with attempt:` around the work in the loop"
            )
        course = self._course
        if course is None:
            raise StopAsyncIteration
        try:
            wake_at = course.next_instant() if attempt._retryable else None
            if wake_at is None:
                course.conclude()
            else:
                await course.wait_until(wake_at)
        except BaseException:
            self._end()
            raise
        if wake_at is None:
            self._end()
            raise StopAsyncIteration
        self._attempt = Attempt(self, course.attempts + 1, course.previous)
        return self._attempt

    def _course_now(self) -> _Course:
        if self._course is None:
            self._course = _Course(self._retry)
        return self._course

    def _failed(self, attempt: Attempt, error: Exception | None, result: Any) -> bool:
        """Take note of a failure; True if the attempt's block is to swallow its error."""
        course = self._course_now()
        final = isinstance(error, _ENDS_OF_ITERATION)
        attempt._retryable = course.goes_on_after(error, result, final=final)
        if attempt._retryable or (course.comes_out()[0] is not error and not final):
            return True  # the iterator decides, and raises what has to come out
        course.report()
        self._end()
        return False

    def _cancelled(self, exc: BaseException) -> None:
        if self._course is not None:
            self._course.note_cancelled(exc, "was in flight")
            self._end()
        else:
            _note_cancelled(self._retry, exc, 1, None)

    def _end(self) -> None:
        """Let go of the errors: their tracebacks hold the frame that holds the loop and its attempt."""
        assert self._course is not None
        assert self._attempt is not None
        self._course.forget()
        self._course = None
        self._attempt.previous = None


_NEW: Final = "new"
_ENTERED: Final = "entered"
_TRACED: Final = "entered and traced"
_LEFT: Final = "left"


class Attempt:
    """One attempt of the loop form: a block that swallows an error which is worth another attempt.

    Attributes:
      number (int, from 1): which attempt this is.
      previous (Exception or None): what the last attempt that raised had raised. Let go of when the loop is over.
      result: set it to a value that `on_result` is to judge.
    """

    __slots__ = ("_loop", "_retryable", "_state", "_trace", "number", "previous", "result")
    _trace: tuple[int, float]  # its key and when it began; there if somebody traces

    def __init__(self, loop: _Attempts, number: int, previous: Exception | None) -> None:
        self._loop = loop
        self._state = _NEW
        self._retryable = False
        self.number: int = number
        self.previous: Exception | None = previous
        self.result: Any = MISSING

    def __enter__(self) -> Attempt:
        if self._state is not _NEW:
            raise RuntimeError(
                f"attempt {self.number} was already entered: one `with attempt:` for each turn of the loop"
            )
        self._state = _ENTERED
        if _instruments.tracing:
            key = _instruments.begin(AttemptStarted, policy=self._loop._retry, attempt=self.number)
            if key:
                self._state = _TRACED
                self._trace = key, current_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._state is _TRACED:
            self._report_end(error)
        self._state = _LEFT
        loop = self._loop
        if error is None:
            on_result = loop._retry.on_result
            if self.result is not MISSING and on_result is not None and on_result(self.result):
                return loop._failed(self, None, self.result)
            if loop._course is not None:
                loop._end()
            return False
        if isinstance(error, Exception):
            return loop._failed(self, error, None)
        loop._cancelled(error)
        return False

    def _report_end(self, error: BaseException | None) -> None:
        key, began_at = self._trace
        outcome = "success" if error is None else _instruments.outcome_of(error)
        facts: dict[str, Any] = {
            "policy": self._loop._retry,
            "attempt": self.number,
            "outcome": outcome,
            "error": error,
        }
        _instruments.end_attempt(key, **facts, seconds=current_time() - began_at)

    def __repr__(self) -> str:
        return f"<attempt {self.number} of retry {self._loop._retry.name!r}, {self._state}>"


def _check_budget(budget: RetryBudget | None) -> RetryBudget | None:
    if budget is not None and not isinstance(budget, RetryBudget):
        raise TypeError(f"budget must be a RetryBudget or None, not {budget!r}")
    return budget
