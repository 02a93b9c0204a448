"""The HTTP edge, bound to httpx."""

from __future__ import annotations

from typing import ClassVar

import httpcore
import httpx

from .. import _errors
from . import _check, _client, _client_tls, _download, _pool_transport, _resilient
from ._edge_errors import EdgeRejection, EdgeTimeout
from ._judgement import Judge
from ._library import Library


class CircuitOpenError(EdgeRejection, _errors.CircuitOpenError, httpx.ConnectError):
    """The origin's circuit is open: nothing was sent. Also a trioresil.CircuitOpenError and an httpx.ConnectError."""

    _request_error: ClassVar[type[httpx.RequestError]] = httpx.RequestError


class CircuitIsolatedError(CircuitOpenError, _errors.CircuitIsolatedError):
    """The origin's circuit is held open by hand. Also a trioresil.CircuitIsolatedError and an httpx.ConnectError."""


class BulkheadFullError(EdgeRejection, _errors.BulkheadFullError, httpx.PoolTimeout):
    """The origin's bulkhead is full. Also a trioresil.BulkheadFullError and an httpx.PoolTimeout."""

    _request_error: ClassVar[type[httpx.RequestError]] = httpx.RequestError


class RateLimitedError(EdgeRejection, _errors.RateLimitedError, httpx.PoolTimeout):
    """The wait for the origin's tokens would be too long. Also a trioresil.RateLimitedError and an httpx.PoolTimeout."""

    _request_error: ClassVar[type[httpx.RequestError]] = httpx.RequestError


class PoolClosedError(EdgeRejection, _errors.PoolClosedError, httpx.ConnectError):
    """The transport is closed, or takes in no more work. Also a trioresil.PoolClosedError and an httpx.ConnectError."""

    _request_error: ClassVar[type[httpx.RequestError]] = httpx.RequestError


class TimedOutError(EdgeTimeout, httpx.TimeoutException):
    """The total, attempt or body time-out passed. Also a trioresil.TimedOutError and an httpx.TimeoutException."""

    _request_error: ClassVar[type[httpx.RequestError]] = httpx.RequestError


LIBRARY = Library(
    name="httpx",
    client=httpx,
    core=httpcore,
    circuit_open_error=CircuitOpenError,
    circuit_isolated_error=CircuitIsolatedError,
    bulkhead_full_error=BulkheadFullError,
    rate_limited_error=RateLimitedError,
    timed_out_error=TimedOutError,
    pool_closed_error=PoolClosedError,
)


class ClientTLS(_client_tls.ClientTLS):
    __doc__ = _client_tls.ClientTLS.__doc__
    _library = LIBRARY


JUDGE = Judge(LIBRARY)


def transient(outcome: object) -> bool:
    """Tell whether a request may be sent again: for `on=` and `on_result=` of a Retry of your own.

    Any method, if the connection was never made or the answer is 429. Idempotent methods, and requests with an Idempotency-Key,
    if the exchange broke or the answer is 408, 502, 503 or 504. An outcome that doesn't know its request counts as not
    idempotent. An httpx.HTTPStatusError is judged by its response.

    Args:
      outcome (exception or httpx.Response): what a request ended with.
    """
    return JUDGE.may_be_sent_again(outcome)


def retry_after(outcome: object) -> float | None:
    """Return the seconds that an outcome asks to wait, or None: for `delay_hint=` of a Retry of your own.

    That is a Retry-After, in seconds or as a date (which counts from the answer's own Date, if it has one), or the
    `retry_after` of an unstarted rejection.

    Args:
      outcome (exception or httpx.Response): what a request ended with.
    """
    return JUDGE.seconds_asked(outcome)


def failed(outcome: object) -> bool:
    """Tell whether an outcome speaks against the other side: for `on=` and `on_result=` of a CircuitBreaker of your own.

    Failures are a 5xx but 501, a transport error, and a time-out that may have started; not what never left this program, and
    not what isn't httpx's.

    Args:
      outcome (exception or httpx.Response): what a request ended with.
    """
    return JUDGE.verdict(outcome) is True


class ResilientTransport(_resilient.ResilientTransport, httpx.AsyncBaseTransport):
    __doc__ = _resilient.ResilientTransport.__doc__
    _library = LIBRARY
    _judge = JUDGE


download: _download.Download = _download.bind(LIBRARY)

check_http: _check.CheckHTTP = _check.bind(LIBRARY)


class PoolTransport(_pool_transport.PoolTransport, httpx.AsyncBaseTransport):
    __doc__ = _pool_transport.PoolTransport.__doc__
    _library = LIBRARY


class open_client(_client.OpenClient):
    __doc__ = _client.OpenClient.__doc__
    _library = LIBRARY
    _pool_class = PoolTransport
    _resilient_class = ResilientTransport

    async def __aenter__(self) -> httpx.AsyncClient:
        client: httpx.AsyncClient = await self._open()
        return client

    @property
    def transport(self) -> ResilientTransport:
        """The transport of the client: its statistics, `close_admission` and `wait_drained`."""
        assert isinstance(self._transport, ResilientTransport)
        return self._transport
