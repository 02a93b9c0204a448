"""The errors. The line between them: *did the operation start?*

A RejectedError says that the call it leaves was not started, so it may be made elsewhere even where it must not be made twice.
A TimedOutError says that time ran out; whether the operation started is in its `started`. What left the *user's* function has
started, whatever it says: the innermost link of a chain corrects it (see _links).

Errors carry numbers in attributes and build their message from them. `policy` is the policy's name, not the object, and
everything but the name is set after `Exception.__init__`, so that errors pickle and copy without further help.
"""

from __future__ import annotations

import sys

import trio


class TrioresilError(Exception):
    """What every error of trioresil is; never raised itself."""

    policy: str
    """Name of the policy that raised it."""

    started: bool | None = None
    """False: the operation was not started. True: it was. None: nobody can tell."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class RejectedError(TrioresilError):
    """A policy refused a call: what it guards was not started, so it is safe to try elsewhere.

    Attributes:
      policy (str): name of the policy that refused.
      retry_after (float, seconds, or None): when a new try could succeed, from now; None if nobody can tell.
      started (bool): False, unless the rejection came out of a function that had itself started.
    """

    started: bool
    retry_after: float | None

    def __init__(self, policy: str, retry_after: float | None = None, *, started: bool = False) -> None:
        Exception.__init__(self, policy)
        self.policy = policy
        self.retry_after = retry_after
        self.started = started

    def __str__(self) -> str:
        return f"{self.policy}: {self._why()}"

    def _why(self) -> str:
        return f"rejected{_hint(self.retry_after)}"


class CircuitOpenError(RejectedError):
    """The circuit is open, or half-open with all of its probes out.

    `retry_after` is the time to the next probe, exactly; None while a probe is out.
    """

    def _why(self) -> str:
        if self.retry_after is None:
            return "the circuit is half-open and its probes are out; their outcome decides"
        return f"the circuit is open, next probe in {in_seconds(self.retry_after)}"


class CircuitIsolatedError(CircuitOpenError):
    """The circuit is held open by hand, until whoever isolated it releases it."""

    def _why(self) -> str:
        return "the circuit is isolated, until it is released"


class RateLimitedError(RejectedError):
    """The wait for tokens would be longer than `max_wait`.

    `retry_after` is the wait that was refused, exactly, as things stood.
    """

    max_wait: float | None = None
    """The longest wait that was allowed, in seconds."""

    def _why(self) -> str:
        limit = "" if self.max_wait is None else f", longer than max_wait={self.max_wait:g}"
        wait = "unknown" if self.retry_after is None else in_seconds(self.retry_after)
        return f"rate limit reached: the wait would be {wait}{limit}"


class BulkheadFullError(RejectedError):
    """Every permit is taken and the queue is full, or the wait took longer than `max_wait`, or admission is closed."""

    reason: str = "every permit is taken"
    """Which of these it was, in words."""

    def _why(self) -> str:
        return self.reason


class PoolFullError(RejectedError):
    """No connection of a pool came free within `max_wait`."""

    max_wait: float | None = None
    """The longest wait that was allowed, in seconds."""

    def _why(self) -> str:
        limit = "" if self.max_wait is None else f" within max_wait={self.max_wait:g}"
        return f"every connection is in use, and none came free{limit}"


class PoolClosedError(RejectedError):
    """A pool, or workers, are closed, or take in no more work."""

    def _why(self) -> str:
        return "admission is closed"


class TimedOutError(TrioresilError, trio.TooSlowError):
    """A Timeout's own deadline passed before the work was done. It is also a trio.TooSlowError.

    Attributes:
      policy (str): name of the Timeout.
      seconds (float): the time that was allowed.
      started (bool or None): False if the guarded function was never entered (the time went in a queue), True if it
        was entered (its outcome is unknown), None if nobody can tell (a block).
    """

    seconds: float

    def __init__(self, policy: str, seconds: float = 0.0, *, started: bool | None = None) -> None:
        Exception.__init__(self, policy)
        self.policy = policy
        self.seconds = seconds
        self.started = started

    def __str__(self) -> str:
        before = " before the call was started" if self.started is False else ""
        return f"{self.policy}: timed out after {in_seconds(self.seconds)}{before}"


class CheckFailedError(TrioresilError):
    """A health check found that what it looked at is not as it should be.

    Attributes:
      policy (str): name of the check.
      reason (str): what was found.
    """

    reason: str = "the check failed"

    def __init__(self, policy: str, reason: str | None = None) -> None:
        Exception.__init__(self, policy)
        self.policy = policy
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.policy}: {self.reason}"


class RestartLimitError(TrioresilError):
    """A child of a supervisor failed once more than it may. `__cause__` is its last error, None if it had returned.

    Attributes:
      policy, supervisor (str): name of the supervisor.
      child (str): name of the child.
      restarts (int): how many restarts there had been within the time.
      within (float, seconds): that time.
    """

    def __init__(self, supervisor: str, child: str = "", restarts: int = 0, within: float = 0.0) -> None:
        Exception.__init__(self, supervisor)
        self.policy = supervisor
        self.child = child
        self.restarts = restarts
        self.within = within

    @property
    def supervisor(self) -> str:
        """Name of the supervisor, as `policy`."""
        return self.policy

    def __str__(self) -> str:
        times = "1 restart" if self.restarts == 1 else f"{self.restarts} restarts"
        return f"{self.policy}: child {self.child!r} ended again after {times} within {in_seconds(self.within)}"


class SharedStateError(TrioresilError):
    """State that processes share can't be used: wrong type at the key, no permission, or another fault that won't pass.

    Attributes:
      policy (str): name of the policy that needed it.
      key (str): where the state lies.
      reason (str): what the server said.
      started (bool): False: nothing that the policy guards was started.
    """

    started: bool
    key: str = ""
    reason: str = "the shared state can't be used"

    def __init__(self, policy: str, key: str = "", reason: str | None = None) -> None:
        Exception.__init__(self, policy)
        self.policy = policy
        self.key = key
        self.started = False
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        at = f"key {self.key!r}: " if self.key else ""
        return f"{self.policy}: {at}{self.reason}"


class SharedStateUnavailableError(SharedStateError, RejectedError):
    """The server of the shared state did not answer in time, or is away, and `on_unavailable` says to refuse the call.

    `retry_after` is None: nobody can tell.
    """

    started: bool
    retry_after: float | None
    reason: str = "the server of the shared state is away"

    def __init__(self, policy: str, key: str = "", reason: str | None = None) -> None:
        SharedStateError.__init__(self, policy, key, reason)
        self.retry_after = None


class LeaseLostError(SharedStateError):
    """A permit's lease could not be renewed in time, so its block was cancelled before another may hold the permit.

    Attributes:
      fence (int): the number of the hold that was lost.
      started (bool): True: the block was under way.
    """

    started: bool
    fence: int = 0
    reason: str = "the lease could not be renewed in time, and its block was cancelled"

    def __init__(self, policy: str, key: str = "", reason: str | None = None) -> None:
        super().__init__(policy, key, reason)
        self.started = True


class UsageError(Exception):
    """Marks a mistake in the program that shows only when a call is made. No policy handles it: not retried, no verdict.

    Users see the builtin that each subclass also is.
    """


class NotAwaitableError(UsageError, TypeError):
    """A function that should have been async returned something else."""


class WrongTokensError(UsageError, ValueError):
    """More tokens than the bucket holds, or a number that is none."""


class WrongTokensTypeError(UsageError, TypeError):
    """A number of tokens that is no number."""


class WrongPolicyError(UsageError, TypeError):
    """A factory made something else than a policy."""


class ChangedArgumentsError(UsageError, TypeError):
    """A link promised to hand the arguments on, and did not."""


class NestingError(UsageError, RuntimeError):
    """A task would wait for itself."""


def is_unstarted(error: BaseException) -> bool:
    """Tell whether an error, or each leaf of a group, says that what it leaves was never started."""
    if isinstance(error, ExceptionGroup):
        return all(map(is_unstarted, error.exceptions))
    return isinstance(error, TrioresilError) and error.started is False


def is_no_verdict(error: BaseException) -> bool:
    """Tell whether an error says nothing about the other side: cancellation, what never started, a mistake in the program."""
    return not isinstance(error, Exception) or is_unstarted(error) or is_usage_error(error)


def is_usage_error(error: BaseException) -> bool:
    """Tell whether an error, or any leaf of a group, is a mistake in the program."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_usage_error, error.exceptions))
    return isinstance(error, UsageError)


def outside_trio(exc: RuntimeError) -> RuntimeError:
    """Return the error to raise when Trio said that it isn't running."""
    if not any(words in str(exc) for words in ("must be called from async context", "outside of a run context")):
        return exc
    asyncio = sys.modules.get("asyncio")
    running = asyncio is not None and asyncio._get_running_loop() is not None
    under = "under asyncio" if running else "outside of a Trio program"
    return RuntimeError(f"trioresil runs on Trio: start the program with trio.run(...); this ran {under}")


def in_another_run(owner: str) -> RuntimeError:
    """Return the error to raise when an object has tasks of another run inside."""
    return RuntimeError(
        f"{owner} is in use in another trio.run: an object serves one run at a time; give each thread its own"
    )


def in_seconds(value: float) -> str:
    """Return a duration as text, without an exponent where a person would not write one."""
    return f"{value:.4g} s" if value < 1000 else f"{value:.0f} s"


def _hint(retry_after: float | None) -> str:
    return "" if retry_after is None else f", try again in {in_seconds(retry_after)}"
