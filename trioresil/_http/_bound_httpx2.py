"""The HTTP edge, bound to httpx2."""

from __future__ import annotations

from typing import ClassVar

import httpcore2
import httpx2

from .. import _errors
from . import _client_tls
from ._edge_errors import EdgeRejection, EdgeTimeout
from ._library import Library


class CircuitOpenError(EdgeRejection, _errors.CircuitOpenError, httpx2.ConnectError):
    """The origin's circuit is open: nothing was sent. Also a trioresil.CircuitOpenError and an httpx2.ConnectError."""

    _request_error: ClassVar[type[httpx2.RequestError]] = httpx2.RequestError


class CircuitIsolatedError(CircuitOpenError, _errors.CircuitIsolatedError):
    """The origin's circuit is held open by hand. Also a trioresil.CircuitIsolatedError and an httpx2.ConnectError."""


class BulkheadFullError(EdgeRejection, _errors.BulkheadFullError, httpx2.PoolTimeout):
    """The origin's bulkhead is full. Also a trioresil.BulkheadFullError and an httpx2.PoolTimeout."""

    _request_error: ClassVar[type[httpx2.RequestError]] = httpx2.RequestError


class RateLimitedError(EdgeRejection, _errors.RateLimitedError, httpx2.PoolTimeout):
    """The wait for the origin's tokens would be too long. Also a trioresil.RateLimitedError and an httpx2.PoolTimeout."""

    _request_error: ClassVar[type[httpx2.RequestError]] = httpx2.RequestError


class PoolClosedError(EdgeRejection, _errors.PoolClosedError, httpx2.ConnectError):
    """The transport is closed, or takes in no more work. Also a trioresil.PoolClosedError and an httpx2.ConnectError."""

    _request_error: ClassVar[type[httpx2.RequestError]] = httpx2.RequestError


class TimedOutError(EdgeTimeout, httpx2.TimeoutException):
    """The total, attempt or body time-out passed. Also a trioresil.TimedOutError and an httpx2.TimeoutException."""

    _request_error: ClassVar[type[httpx2.RequestError]] = httpx2.RequestError


LIBRARY = Library(
    name="httpx2",
    client=httpx2,
    core=httpcore2,
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
