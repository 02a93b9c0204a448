"""What one request has been through since its first failure, and what is to be done about it.

The core's Retry sees a function that failed. Here there is more to see: the method and the body decide what may be made twice,
answers have to be closed before the wait, and the other side says when to come back. So this reads a Retry as configuration,
and decides by itself. It has no clock but for the decision, and waits for nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from trio import current_effective_deadline, current_time

from .. import _instruments
from .._checks import number
from .._errors import TrioresilError, is_unstarted
from .._events import RetryGaveUp, RetryScheduled
from .._kernel.backoff import endless
from .._links import passage
from .._notes import raise_again, shown
from .._policies.retry import _BECAUSE, KEPT_ERRORS, Reason, Retry, _note_cancelled, quickened
from ._judgement import PUSHED_BACK, Judge, is_probe_out


class Course:
    """One request's failed attempts."""

    __slots__ = (
        "_copy", "_deadline", "_delays", "_error", "_errors", "_judge", "_kept", "_limit", "_reason", "_request",
        "_response", "_retry", "attempts", "began_at", "bucket", "has_started", "waited", "waits_in_bucket",
    )  # fmt: skip

    def __init__(self, judge: Judge, retry: Retry, request: Any, deadline: float, *, began_at: float) -> None:
        quick = quickened.get()
        self._judge = judge
        self._retry = retry
        self._request = request
        self._deadline = deadline
        self.bucket = False  # whether attempts take tokens of a bucket
        self._limit = retry.max_attempts if quick is None else min(retry.max_attempts, quick)
        self._delays: Iterator[float] | None = None
        self._errors: deque[tuple[int, Exception]] = deque(maxlen=KEPT_ERRORS + 1)
        self._error: Exception | None = None
        self._response: Any = None
        self._kept: tuple[Exception | None, Any] = (None, None)  # the last outcome of an attempt that started
        self._copy: bytes | None = None  # the body of the kept response
        self._reason: Reason = "attempts"
        self.attempts = 0
        self.began_at = began_at  # the attempt that is being made
        self.waited = 0.0
        self.has_started = False
        self.waits_in_bucket = False  # whether the next attempt waits there, and not before

    # -- deciding --------------------------------------------------------------------------------------------------------

    def next_instant(self, error: Exception | None, response: Any, *, replayable: bool) -> float | None:
        """Take note of a failed attempt. Return when to make the next, None if none is to be made. Withdraws from the budget."""
        self.attempts += 1
        self._error, self._response = error, response
        if error is not None:
            self._errors.append((self.attempts, error))
        if error is None or not is_unstarted(error):
            self.has_started = True
            self._kept, self._copy = (error, response), None
        if not self._is_worth_another(replayable):
            self._reason = "unmatched"
        elif self.attempts >= self._limit:
            self._reason = "attempts"
        else:
            return self._scheduled()
        return None

    def _is_worth_another(self, replayable: bool) -> bool:
        error, response = self._error, self._response
        if is_probe_out(error):
            return self.attempts > 1  # what this call was told before is newer than the circuit's opinion
        if not replayable:
            return False
        outcome = response if error is None else error
        if not self._judge.may_be_sent_again(outcome, self._request):
            return False
        self._judge.introduce(outcome, self._request)
        if error is not None:
            return self._retry._is_failure(error)
        on_result = self._retry.on_result
        return on_result is None or bool(on_result(response))

    def _scheduled(self) -> float | None:
        retry = self._retry
        now = current_time()
        hint = self._hint()
        delay = self._delay(hint)
        if hint is not None and hint > retry.max_hint:
            self._reason = "hint"
            return None
        self.waits_in_bucket = hint is not None and self._is_paused_for(hint)
        if self.waits_in_bucket and hint is not None:
            delay = hint
        if now + delay >= min(self._deadline, current_effective_deadline()):
            self._reason = "deadline"
            return None
        if retry.budget is not None and not retry.budget.withdraw():
            self._reason = "budget"
            return None
        if not self.waits_in_bucket:
            self.waited += delay
        error, response = self._error, self._response
        _instruments.emit(
            RetryScheduled, policy=retry, attempt=self.attempts, delay=delay, error=error, result=response
        )
        return now + delay

    def _is_paused_for(self, hint: float) -> bool:
        """Tell whether the origin's bucket was paused by what this attempt was told: the wait is then in its queue."""
        if not self.bucket or not hint or self._error is not None or quickened.get() is not None:
            return False
        return self._response.status_code == PUSHED_BACK and self._judge.seconds_asked(self._response) == hint

    def _delay(self, hint: float | None) -> float:
        retry = self._retry
        if self._delays is None:
            self._delays = endless("backoff", retry.backoff.delays(retry.rng))
        delay = next(self._delays)
        if hint is not None:
            jittered = getattr(retry.backoff, "jitter", "unknown") != "none"
            delay = hint * (1 + retry.rng.random() / 2) if jittered else hint
        return delay if quickened.get() is None else 0.0

    def _hint(self) -> float | None:
        outcome = self._response if self._error is None else self._error
        asked = self._retry.delay_hint
        hint = None if asked is None else asked(outcome)
        if hint is None:
            return self._judge.seconds_asked(outcome)
        return max(0.0, number("the result of delay_hint", hint))

    # -- going on --------------------------------------------------------------------------------------------------------

    def keep(self, body: bytes | None) -> None:
        """Keep what was drained of the response that is being put away."""
        self._copy = body
        self._response = None

    def note_cancelled(self, exc: BaseException, what: str = "was in flight") -> None:
        """Note on a passing cancellation where it met this call."""
        if self.has_started:
            passage(exc).started = True
        elif what != "was in flight":
            passage(exc).started = False
        _note_cancelled(self._retry, exc, self.attempts + 1, self._last_error, what)

    def in_flight(self) -> str:
        """Return the note of a time-out: which attempt it met."""
        after = "" if self._last_error is None else f"; the last error was {shown(self._last_error)}"
        return f"trioresil: attempt {self.attempts + 1} of retry {self._retry.name!r} was in flight{after}"

    @property
    def _last_error(self) -> Exception | None:
        return self._errors[-1][1] if self._errors else None

    # -- ending ----------------------------------------------------------------------------------------------------------

    def conclude(self, library: Any) -> Any:
        """End the call: return an answer, or raise the error that comes out.

        That is the outcome of the last attempt that started. What started and gave an answer is told by a copy of that answer,
        if all of it is there; if not, by the error of now, which then says that the call has started.
        """
        if self._error is None:
            self._tell(None)
            return self._response
        error, response = self._kept
        if response is not None and self._copy is not None:
            self._tell(None)
            return library.client.Response(
                response.status_code,
                headers=response.headers,
                stream=library.client.ByteStream(self._copy),
                extensions=response.extensions,
            )
        error = error or self._error
        try:
            if response is not None and isinstance(error, TrioresilError):
                error.started = True
                error.add_note(f"trioresil: an attempt before this was answered with status {response.status_code}")
            self._tell(error)
            raise_again(error)
        finally:
            del error  # its traceback holds this frame

    def _tell(self, error: Exception | None) -> None:
        """Tell how it ended: a note on the error that comes out, and an event. Not for a first outcome that is final."""
        if self._reason == "unmatched" and self.attempts == 1:
            return
        if error is not None:
            error.add_note(self._note(error))
        _instruments.emit(
            RetryGaveUp,
            policy=self._retry,
            reason=self._reason,
            attempts=self.attempts,
            waited=self.waited,
            error=error,
            errors=tuple(each for _, each in self._errors)[-KEPT_ERRORS:],
        )

    def _note(self, error: Exception) -> str:
        attempts = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        lines = [
            f"trioresil: retry {self._retry.name!r} gave up after {attempts} and {self.waited:.3g} s of waiting"
            + _BECAUSE[self._reason]
        ]
        earlier = [(at, each) for at, each in self._errors if each is not error][-KEPT_ERRORS:]
        lines += [f"  attempt {at}: {shown(each)}" for at, each in earlier]
        return "\n".join(lines)

    def forget(self) -> None:
        """Let go of the errors, whose tracebacks hold the frames that hold this."""
        self._errors.clear()
        self._kept = (None, None)
        self._error = self._response = None
