"""Errors that are trioresil's and the client library's at once.

A program, or somebody's SDK, that catches the client library's errors has to catch ours too. So each class that can leave a
transport has a face for each library, which inherits from both sides. The libraries' constructor takes other arguments and
calls `super().__init__`, so the order is fixed: the library's first, ours last, which sets `args` to what pickling needs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from .._errors import (
    BulkheadFullError,
    CircuitIsolatedError,
    CircuitOpenError,
    PoolClosedError,
    RateLimitedError,
    RejectedError,
    TimedOutError,
    TrioresilError,
)
from .._links import mark_unstarted
from ._library import Library

_CONNECTING: Final = "__trioresil_connecting__"


class EdgeRejection(RejectedError):
    """A rejection that is an error of the client library too. Its `request` is set by the client."""

    _request_error: ClassVar[Any]

    def __init__(self, policy: str, retry_after: float | None = None, *, started: bool = False) -> None:
        self._request_error.__init__(self, policy)
        RejectedError.__init__(self, policy, retry_after, started=started)


class EdgeTimeout(TimedOutError):
    """A time-out that is an error of the client library too. Its `request` is set by the client."""

    _request_error: ClassVar[Any]

    _connecting = False  # whether the time went into making a connection: not started, and yet the other side's failure

    def __init__(self, policy: str, seconds: float = 0.0, *, started: bool | None = None) -> None:
        self._request_error.__init__(self, policy)
        TimedOutError.__init__(self, policy, seconds, started=started)


def mark_connecting(exc: BaseException) -> None:
    """Note on a cancellation that a connection was being made: nothing was sent, and yet it tells of the other side."""
    if not isinstance(exc, Exception):
        mark_unstarted(exc)
        exc.__dict__[_CONNECTING] = True


def was_connecting(exc: BaseException) -> bool:
    """Tell whether that was noted."""
    return _CONNECTING in exc.__dict__


def to_edge(library: Library, error: TrioresilError) -> Any:
    """Return the library's face of an error, with all that the error tells; one that has no other face as it is."""
    if isinstance(error, (EdgeRejection, EdgeTimeout)):
        return error
    for kind, edge in (
        (CircuitIsolatedError, library.circuit_isolated_error),
        (CircuitOpenError, library.circuit_open_error),
        (BulkheadFullError, library.bulkhead_full_error),
        (RateLimitedError, library.rate_limited_error),
        (PoolClosedError, library.pool_closed_error),
        (TimedOutError, library.timed_out_error),
    ):
        if isinstance(error, kind):
            face = edge(error.policy)
            face.__dict__.update(error.__dict__)
            return face
    return error
