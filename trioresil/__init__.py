"""trioresil: the resilience layer for Trio.

Retries, timeouts, circuit breakers, rate limits, bulkheads and fallbacks for programs that talk over unreliable networks:
correct under cancellation at every checkpoint, exact on a virtual clock, cheap on the happy path.
"""

from . import _checks
from . import abc as abc
from ._errors import BulkheadFullError as BulkheadFullError
from ._errors import CheckFailedError as CheckFailedError
from ._errors import CircuitIsolatedError as CircuitIsolatedError
from ._errors import CircuitOpenError as CircuitOpenError
from ._errors import PoolClosedError as PoolClosedError
from ._errors import PoolFullError as PoolFullError
from ._errors import RateLimitedError as RateLimitedError
from ._errors import RejectedError as RejectedError
from ._errors import RestartLimitError as RestartLimitError
from ._errors import TimedOutError as TimedOutError
from ._errors import TrioresilError as TrioresilError
from ._events import CallFinished as CallFinished
from ._events import CallRejected as CallRejected
from ._events import CertificateReloaded as CertificateReloaded
from ._events import CertificateReloadFailed as CertificateReloadFailed
from ._events import ChildFailed as ChildFailed
from ._events import ChildRestarted as ChildRestarted
from ._events import CircuitClosed as CircuitClosed
from ._events import CircuitHalfOpened as CircuitHalfOpened
from ._events import CircuitOpened as CircuitOpened
from ._events import ConnectFailed as ConnectFailed
from ._events import ConnectionClosed as ConnectionClosed
from ._events import ConnectionOpened as ConnectionOpened
from ._events import Event as Event
from ._events import FellBack as FellBack
from ._events import HealthChanged as HealthChanged
from ._events import HealthStatus as HealthStatus
from ._events import PolicySeen as PolicySeen
from ._events import RetryGaveUp as RetryGaveUp
from ._events import RetryScheduled as RetryScheduled
from ._events import TimedOut as TimedOut
from ._instruments import instrument as instrument
from ._instruments import instrument_run as instrument_run
from ._kernel.backoff import constant as constant
from ._kernel.backoff import exponential as exponential
from ._kernel.backoff import linear as linear
from ._kernel.circuit import CircuitState as CircuitState
from ._kernel.health import HealthState as HealthState
from ._kernel.trip_rules import ConsecutiveFailures as ConsecutiveFailures
from ._kernel.trip_rules import FailureRatio as FailureRatio
from ._kernel.trip_rules import FailuresOf as FailuresOf
from ._kernel.trip_rules import SlowRatio as SlowRatio
from ._policies.bulkhead import Bulkhead as Bulkhead
from ._policies.bulkhead import BulkheadStatistics as BulkheadStatistics
from ._policies.circuit_breaker import Admission as Admission
from ._policies.circuit_breaker import CircuitBreaker as CircuitBreaker
from ._policies.circuit_breaker import CircuitBreakerStatistics as CircuitBreakerStatistics
from ._policies.circuit_breaker import Isolation as Isolation
from ._policies.fallback import Fallback as Fallback
from ._policies.fallback import FallbackStatistics as FallbackStatistics
from ._policies.keyed import Keyed as Keyed
from ._policies.keyed import KeyedStatistics as KeyedStatistics
from ._policies.pipeline import Pipeline as Pipeline
from ._policies.pipeline import PipelineStatistics as PipelineStatistics
from ._policies.retry import Attempt as Attempt
from ._policies.retry import Retry as Retry
from ._policies.retry import RetryStatistics as RetryStatistics
from ._policies.timeout import Timeout as Timeout
from ._policies.timeout import TimeoutStatistics as TimeoutStatistics
from ._policies.token_bucket import TokenBucket as TokenBucket
from ._policies.token_bucket import TokenBucketStatistics as TokenBucketStatistics
from ._policies.token_bucket import acquire_all as acquire_all
from ._retry_budget import RetryBudget as RetryBudget
from ._retry_budget import RetryBudgetStatistics as RetryBudgetStatistics
from ._services._restarts import stop_requested as stop_requested
from ._services.health import HealthMonitor as HealthMonitor
from ._services.health import HealthMonitorStatistics as HealthMonitorStatistics
from ._services.health import open_health_monitor as open_health_monitor
from ._services.health import serve_health_monitor as serve_health_monitor
from ._services.pool import Pool as Pool
from ._services.pool import PoolStatistics as PoolStatistics
from ._services.pool import open_pool as open_pool
from ._services.pool import serve_pool as serve_pool
from ._services.supervisor import ChildStatistics as ChildStatistics
from ._services.supervisor import Supervisor as Supervisor
from ._services.supervisor import SupervisorStatistics as SupervisorStatistics
from ._services.supervisor import open_supervisor as open_supervisor
from ._services.supervisor import serve_supervisor as serve_supervisor

_checks.fix_module_names(__name__, globals())
