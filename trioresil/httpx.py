"""Resilience for httpx: a client, transports, and errors that are httpx's too."""

from . import _checks
from ._http._bound_httpx import BulkheadFullError as BulkheadFullError
from ._http._bound_httpx import CircuitIsolatedError as CircuitIsolatedError
from ._http._bound_httpx import CircuitOpenError as CircuitOpenError
from ._http._bound_httpx import ClientTLS as ClientTLS
from ._http._bound_httpx import PoolClosedError as PoolClosedError
from ._http._bound_httpx import PoolTransport as PoolTransport
from ._http._bound_httpx import RateLimitedError as RateLimitedError
from ._http._bound_httpx import ResilientTransport as ResilientTransport
from ._http._bound_httpx import TimedOutError as TimedOutError
from ._http._bound_httpx import check_http as check_http
from ._http._bound_httpx import download as download
from ._http._bound_httpx import failed as failed
from ._http._bound_httpx import open_client as open_client
from ._http._bound_httpx import retry_after as retry_after
from ._http._bound_httpx import transient as transient
from ._http._client_tls import ClientTLSStatistics as ClientTLSStatistics
from ._http._download import DownloadReport as DownloadReport
from ._http._options import RequestOptions as RequestOptions
from ._http._origin_policies import OriginStatistics as OriginStatistics
from ._http._pool_statistics import PoolOriginStatistics as PoolOriginStatistics
from ._http._pool_statistics import PoolTransportStatistics as PoolTransportStatistics
from ._http._report import CallReport as CallReport
from ._http._resilient import ResilientTransportStatistics as ResilientTransportStatistics

_checks.fix_module_names(__name__, globals())
