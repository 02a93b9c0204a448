"""Other libraries, each used as its own documentation does, with the features on that it is bought for.

Those that aren't installed are left out and named in the report.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

import trio

Fetch = Callable[[int], Awaitable[object]]

NAMES = {
    "tenacity": "tenacity",
    "stamina": "stamina",
    "pyresilience": "pyresilience",
    "circuitbreaker": "circuitbreaker",
    "purgatory": "purgatory",
    "aiolimiter": "aiolimiter",
    "pyrate-limiter": "pyrate_limiter",
    "limits": "limits",
    "throttled-py": "throttled",
}
"""Of each distribution the module."""


def missing() -> list[str]:
    """Return the rivals that aren't installed."""
    return [name for name, module in NAMES.items() if importlib.util.find_spec(module) is None]


def module(name: str) -> Any:
    """Return a rival's module, or None."""
    return None if name in missing() else importlib.import_module(NAMES[name])


def happy(fetch: Fetch, limiter: trio.CapacityLimiter) -> dict[str, Fetch]:
    """Return the calls that work on Trio, by contender."""
    calls: dict[str, Fetch] = {}
    for add in (_tenacity, _stamina, _pyresilience, _breakers):
        calls |= add(fetch, limiter)
    return calls


def flaky(make: Callable[[], Fetch], on: type[Exception]) -> dict[str, Fetch]:
    """Return retries without a delay between attempts, for functions that fail each second time."""
    calls: dict[str, Fetch] = {}
    if tenacity := module("tenacity"):
        options = _tenacity_options(tenacity, on) | {"wait": tenacity.wait_none()}
        calls["tenacity"] = tenacity.retry(**options)(make())
    if stamina := module("stamina"):
        calls["stamina"] = stamina.retry(on=on, wait_initial=0, wait_max=0, wait_jitter=0)(make())
    return calls


def _tenacity_options(tenacity: Any, on: type[Exception]) -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception_type(on),
        "stop": tenacity.stop_after_attempt(5),
        "wait": tenacity.wait_random_exponential(multiplier=0.1, max=10),
        "sleep": trio.sleep,
        "reraise": True,
    }


def _tenacity(fetch: Fetch, limiter: trio.CapacityLimiter) -> dict[str, Fetch]:
    tenacity = module("tenacity")
    if tenacity is None:
        return {}
    options = _tenacity_options(tenacity, OSError)
    retrying = tenacity.AsyncRetrying(**options)

    async def loop(value: int) -> object:
        async for attempt in tenacity.AsyncRetrying(**options):
            with attempt:
                return await fetch(value)
        return None

    async def limited(value: int) -> object:
        async with limiter:
            return await fetch(value)

    async def limited_and_timed(value: int) -> object:
        async with limiter:
            with trio.fail_after(2):
                return await fetch(value)

    calls = {
        "retry: tenacity": tenacity.retry(**options)(fetch),
        "call: tenacity": lambda value: retrying(fetch, value),
        "loop: tenacity": loop,
        "four: tenacity + CapacityLimiter": _or_default(tenacity.retry(**options)(limited)),
        "five: tenacity + CapacityLimiter + fail_after": _or_default(tenacity.retry(**options)(limited_and_timed)),
    }
    if circuitbreaker := module("circuitbreaker"):
        circuit = circuitbreaker.circuit(failure_threshold=5, recovery_timeout=30, name="stack")
        all_of_it = tenacity.retry(**options)(circuit(limited_and_timed))
        calls["five: tenacity + CapacityLimiter + fail_after + circuitbreaker"] = _or_default(all_of_it)
    return calls


def _or_default(fetch: Fetch) -> Fetch:
    async def answered(value: int) -> object:
        try:
            return await fetch(value)
        except OSError:
            return None

    return answered


def _stamina(fetch: Fetch, limiter: trio.CapacityLimiter) -> dict[str, Fetch]:
    stamina = module("stamina")
    if stamina is None:
        return {}
    caller = stamina.AsyncRetryingCaller(attempts=5).on(OSError)

    async def loop(value: int) -> object:
        async for attempt in stamina.retry_context(on=OSError, attempts=5):
            with attempt:
                return await fetch(value)
        return None

    return {
        "retry: stamina": stamina.retry(on=OSError, attempts=5)(fetch),
        "call: stamina": lambda value: caller(fetch, value),
        "loop: stamina": loop,
    }


def _pyresilience(fetch: Fetch, limiter: trio.CapacityLimiter) -> dict[str, Fetch]:
    kit = module("pyresilience")
    if kit is None:
        return {}
    retry = kit.RetryConfig(max_attempts=5, retry_on=(OSError,))
    breaker = kit.CircuitBreakerConfig(failure_threshold=5)
    ratio = kit.CircuitBreakerConfig(sliding_window_size=100, failure_rate_threshold=0.5, minimum_calls=20)
    fallback = kit.FallbackConfig(handler="default", fallback_on=(OSError,))
    bulkhead = kit.BulkheadConfig(max_concurrent=10)
    four = kit.resilient(retry=retry, circuit_breaker=breaker, fallback=fallback, bulkhead=bulkhead)
    return {
        "retry: pyresilience": kit.resilient(retry=retry)(fetch),
        "breaker: pyresilience": kit.resilient(circuit_breaker=breaker)(fetch),
        "ratio: pyresilience, last 100 calls": kit.resilient(circuit_breaker=ratio)(fetch),
        "bulkhead: pyresilience": kit.resilient(bulkhead=bulkhead)(fetch),
        "fallback: pyresilience": kit.resilient(fallback=fallback)(fetch),
        "four: pyresilience": four(fetch),
    }


def _breakers(fetch: Fetch, limiter: trio.CapacityLimiter) -> dict[str, Fetch]:
    calls: dict[str, Fetch] = {}
    if circuitbreaker := module("circuitbreaker"):
        circuit = circuitbreaker.circuit(failure_threshold=5, recovery_timeout=30, name="alone")
        calls["breaker: circuitbreaker"] = circuit(fetch)
    if purgatory := module("purgatory"):
        factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=30)
        calls["breaker: purgatory"] = factory("alone")(fetch)
    return calls
