"""Limits, permits and breakers that many processes share, over Redis or Valkey; needs the extra `redis`."""

from . import _checks

try:
    import coredis as _  # noqa: F401
except ImportError as _error:
    raise ImportError("trioresil.redis needs coredis: pip install 'trioresil[redis]'", name=_error.name) from _error

from ._shared.circuit_breaker import SharedAdmission as SharedAdmission
from ._shared.circuit_breaker import SharedCircuitBreaker as SharedCircuitBreaker
from ._shared.circuit_breaker import SharedCircuitBreakerStatistics as SharedCircuitBreakerStatistics
from ._shared.circuit_breaker import SharedIsolation as SharedIsolation
from ._shared.engine import EngineDownError as EngineDownError
from ._shared.engine import Script as Script
from ._shared.engine import ScriptEngine as ScriptEngine
from ._shared.engine import ScriptRefusedError as ScriptRefusedError
from ._shared.engine import Store as Store
from ._shared.engine import Subscription as Subscription
from ._shared.memory import MemoryEngine as MemoryEngine
from ._shared.memory import MemoryEngineStatistics as MemoryEngineStatistics
from ._shared.redis_engine import RedisEngine as RedisEngine
from ._shared.redis_engine import RedisEngineStatistics as RedisEngineStatistics
from ._shared.redis_engine import open_redis as open_redis
from ._shared.semaphore import Hold as Hold
from ._shared.semaphore import SharedSemaphore as SharedSemaphore
from ._shared.semaphore import SharedSemaphoreStatistics as SharedSemaphoreStatistics
from ._shared.token_bucket import Combine as Combine
from ._shared.token_bucket import Exact as Exact
from ._shared.token_bucket import Lease as Lease
from ._shared.token_bucket import SharedTokenBucket as SharedTokenBucket
from ._shared.token_bucket import SharedTokenBucketStatistics as SharedTokenBucketStatistics
from ._shared.unavailable import FailClosed as FailClosed
from ._shared.unavailable import FailLocal as FailLocal
from ._shared.unavailable import FailOpen as FailOpen

_checks.fix_module_names(__name__, globals())
