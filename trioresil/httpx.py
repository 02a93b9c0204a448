"""Resilience for httpx: a client, transports, and errors that are httpx's too."""

from . import _checks
from ._http._bound_httpx import BulkheadFullError as BulkheadFullError
from ._http._bound_httpx import CircuitIsolatedError as CircuitIsolatedError
from ._http._bound_httpx import CircuitOpenError as CircuitOpenError
from ._http._bound_httpx import ClientTLS as ClientTLS
from ._http._bound_httpx import PoolClosedError as PoolClosedError
from ._http._bound_httpx import RateLimitedError as RateLimitedError
from ._http._bound_httpx import TimedOutError as TimedOutError
from ._http._client_tls import ClientTLSStatistics as ClientTLSStatistics
from ._http._report import CallReport as CallReport

_checks.fix_module_names(__name__, globals())
