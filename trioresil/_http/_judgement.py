"""What an outcome means: whether the request may be sent again, and whether it counts against the other side.

An outcome is an exception or a response of the client library. The law of sending again:

- The connection was never made, or the server refused with 429: any method, for nothing was done.
- The exchange broke, or the answer is 408, 502, 503 or 504: idempotent methods, or a request with an Idempotency-Key, for the
  server may have done it. Of an outcome that doesn't know its request nothing is taken for granted.
- A rejection of our own is not sent again: it told at once what there is to know.

The law of the circuit: a failure is a 5xx but 501 (it says "not implemented", by a server in good health), a broken exchange,
a connection not made, and a time-out that may have started. No verdict is what says nothing about the other side: our own
queues, a mistake in the request, and whatever is not the client library's. All else is a good sign: somebody answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .._errors import CircuitIsolatedError, CircuitOpenError, RejectedError, TimedOutError, is_unstarted, is_usage_error
from ._edge_errors import was_connecting
from ._library import Library
from ._options import EXTENSION
from ._retry_after import seconds_asked

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
PUSHED_BACK: Final = 429
UNAVAILABLE: Final = 503
BROKEN: Final = frozenset({408, 502, 503, 504})
TRANSIENT: Final = BROKEN | {PUSHED_BACK}


class Judge:
    """Judges outcomes of one client library."""

    __slots__ = (
        "_hopeless",
        "_never_made",
        "_no_verdict",
        "_request_error",
        "_response",
        "_silences",
        "_status_error",
        "_transport_error",
    )

    def __init__(self, library: Library) -> None:
        client = library.client
        self._response: Any = client.Response
        self._status_error: Any = client.HTTPStatusError
        self._request_error: Any = client.RequestError
        self._transport_error: Any = client.TransportError
        self._hopeless: Any = (client.LocalProtocolError, client.UnsupportedProtocol)
        self._never_made: Any = (client.ConnectError, client.ConnectTimeout, client.PoolTimeout, client.ProxyError)
        self._silences: Any = (client.ReadTimeout, client.WriteTimeout, library.timed_out_error)
        self._no_verdict: Any = (client.PoolTimeout, library.pool_closed_error, *self._hopeless)

    def may_be_sent_again(self, outcome: object, request: Any = None) -> bool:
        """Tell whether a request, by default the one that the outcome knows of, may be made once more."""
        if isinstance(outcome, self._status_error):
            outcome = outcome.response
        if isinstance(outcome, self._response):
            status = outcome.status_code
            return status == PUSHED_BACK or (status in BROKEN and _is_idempotent(outcome, request))
        if isinstance(outcome, ExceptionGroup):
            return all(self.may_be_sent_again(leaf, request) for leaf in outcome.exceptions)
        if isinstance(outcome, RejectedError):
            return False
        if isinstance(outcome, TimedOutError):
            return outcome.started is False or _is_idempotent(outcome, request)
        if not isinstance(outcome, self._transport_error) or isinstance(outcome, self._hopeless):
            return False
        return isinstance(outcome, self._never_made) or _is_idempotent(outcome, request)

    def verdict(self, outcome: object) -> bool | None:
        """Say what an outcome means to a circuit: True a failure, False a good sign, None nothing."""
        if isinstance(outcome, self._status_error):
            outcome = outcome.response
        if isinstance(outcome, self._response):
            return is_failing(outcome.status_code)
        if isinstance(outcome, ExceptionGroup):
            return self._verdict_of_group(outcome)
        if not isinstance(outcome, Exception) or is_usage_error(outcome):
            return None
        if isinstance(outcome, TimedOutError):
            return True if outcome.started is not False or getattr(outcome, "_connecting", False) else None
        if is_unstarted(outcome) or isinstance(outcome, self._no_verdict):
            return None
        return True if isinstance(outcome, self._transport_error) else None

    def fell_silent(self, error: object) -> bool:
        """Tell whether an attempt ended because nothing came over its connection any more, which others may share."""
        return isinstance(error, self._silences) and not is_unstarted(error) and not was_connecting(error)

    def _verdict_of_group(self, group: ExceptionGroup[Exception]) -> bool | None:
        verdicts = {self.verdict(leaf) for leaf in group.exceptions}
        return True if verdicts == {True} else None

    def introduce(self, outcome: Any, request: Any) -> None:
        """Let an outcome know its request, before the user is asked about it."""
        if isinstance(outcome, ExceptionGroup):
            for leaf in outcome.exceptions:
                self.introduce(leaf, request)
        elif isinstance(outcome, (self._request_error, self._response)):
            outcome.request = request

    def seconds_asked(self, outcome: object) -> float | None:
        """Return the wait that an outcome asks for, in seconds, or None."""
        if isinstance(outcome, self._status_error):
            outcome = outcome.response
        if isinstance(outcome, self._response):
            return seconds_asked(outcome.headers)
        if isinstance(outcome, RejectedError) and not outcome.started:
            return outcome.retry_after
        return None


def is_failing(status: int) -> bool:
    """Tell whether a status counts against the server."""
    return 500 <= status < 600 and status != 501


def is_probe_out(error: object) -> bool:
    """Tell whether a circuit refused because its probes are out, whose outcome will decide soon."""
    if not isinstance(error, CircuitOpenError) or isinstance(error, CircuitIsolatedError):
        return False
    return error.retry_after is None and not error.started


def says_idempotent(request: Any) -> bool:
    """Tell whether a request may be made twice, by the user's word, its method or its key."""
    options = request.extensions.get(EXTENSION)
    said = options.get("idempotent") if isinstance(options, Mapping) else None
    if said is not None:
        return bool(said)
    return request.method in IDEMPOTENT or bool(request.headers.get("idempotency-key"))


def _is_idempotent(outcome: Any, request: Any) -> bool:
    if request is None:
        try:
            request = outcome.request
        except (AttributeError, RuntimeError):  # it knows of none; the client sets it
            return False
    return says_idempotent(request)
