"""The HTTP edge, bound to httpx."""

from __future__ import annotations

from typing import ClassVar

import httpcore
import httpx

from .. import _errors
from . import _client_tls
from ._edge_errors import EdgeRejection, EdgeTimeout
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
