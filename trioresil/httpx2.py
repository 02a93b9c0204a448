"""Resilience for httpx2: a client, transports, and errors that are httpx2's too."""

from . import _checks

try:
    import httpx2 as _  # noqa: F401
except ImportError as exc:
    raise ImportError("trioresil.httpx2 needs httpx2: pip install 'trioresil[httpx2]'", name=exc.name) from exc

from ._http._bound_httpx2 import BulkheadFullError as BulkheadFullError
from ._http._bound_httpx2 import CircuitIsolatedError as CircuitIsolatedError
from ._http._bound_httpx2 import CircuitOpenError as CircuitOpenError
from ._http._bound_httpx2 import ClientTLS as ClientTLS
from ._http._bound_httpx2 import PoolClosedError as PoolClosedError
from ._http._bound_httpx2 import RateLimitedError as RateLimitedError
from ._http._bound_httpx2 import TimedOutError as TimedOutError
from ._http._client_tls import ClientTLSStatistics as ClientTLSStatistics
from ._http._report import CallReport as CallReport

_checks.fix_module_names(__name__, globals())
