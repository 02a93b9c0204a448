"""The two clients: the same call, bare and through a Pipeline."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import httpx
import trio

import trioresil

LIMITS: Final = httpx.Limits(max_connections=1000, max_keepalive_connections=20)
"""Of both clients. Generous: neither is to be judged by its connection pool."""

RETRIED_STATUSES: Final = {429, 502, 503, 504}


@attrs.frozen
class Answer:
    """What a caller gets."""

    item: str
    age: float = 0.0
    """Seconds since the service gave it."""
    fresh: bool = True
    """False: it came from the cache."""


Call = Callable[[str], Awaitable[Answer]]


def open_http_client(base_url: str) -> httpx.AsyncClient:
    """Return a client with httpx's own time-outs: 5 s each for connecting, reading, writing."""
    return httpx.AsyncClient(base_url=base_url, limits=LIMITS)


def bare(client: httpx.AsyncClient) -> Call:
    """Return the call as it is written at first."""

    async def fetch(item: str) -> Answer:
        response = await client.get(f"/items/{item}")
        response.raise_for_status()
        return Answer(item)

    return fetch


class ResilientClient:
    """The same call through a Pipeline.

    Attributes:
      call: the call.
      breaker, budget, bucket, bulkhead: its policies that have a state to be seen.
    """

    def __init__(self, client: httpx.AsyncClient, rate: float) -> None:
        self._client = client
        self._cache: dict[str, float] = {}
        self.breaker = trioresil.CircuitBreaker(
            trip=trioresil.FailureRatio(0.5, window=2.0, min_calls=20), open_for=0.5, on=says_unhealthy, name="items"
        )
        self.budget = trioresil.RetryBudget(ratio=0.25, min_per_second=1)
        self.bucket = trioresil.TokenBucket(rate=1.5 * rate, capacity=max(5.0, rate / 4), name="items")
        self.bulkhead = trioresil.Bulkhead(math.ceil(max(10.0, rate)), name="items")
        self.pipeline = trioresil.Pipeline(
            trioresil.Fallback(
                self._from_cache,
                on=(httpx.HTTPError, trioresil.TrioresilError),
                on_result=lambda answer: answer is None,  # nothing is cached: the error comes out
            ),
            trioresil.Timeout(2.5, name="total"),
            trioresil.Retry(
                on=is_transient,
                max_attempts=4,
                backoff=trioresil.exponential(0.05, max=0.5),
                budget=self.budget,
                delay_hint=delay_hint,
            ),
            self.breaker,
            self.bucket,
            self.bulkhead,
            trioresil.Timeout(0.7, name="attempt"),
            name="items",
        )
        self.call: Call = self.pipeline(self._fetch)

    async def _fetch(self, item: str) -> Answer:
        response = await self._client.get(f"/items/{item}")
        wait = retry_after(response)
        if response.status_code == 503 and wait:
            self.breaker.open(wait)  # the service has said when to come back, so nobody need ask before
        response.raise_for_status()
        self._cache[item] = trio.current_time()
        return Answer(item)

    async def _from_cache(self, item: str) -> Answer | None:
        if item not in self._cache:
            return None
        return Answer(item, age=trio.current_time() - self._cache[item], fresh=False)


def is_transient(error: Exception) -> bool:
    """Tell whether another attempt may succeed: a broken exchange, an attempt out of time, a passing status."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in RETRIED_STATUSES
    return isinstance(error, (httpx.TransportError, trioresil.TimedOutError))


def says_unhealthy(error: Exception) -> bool:
    """Tell whether an error says that the service is ill; a 404 or a 429 says that it works."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, (httpx.TransportError, trioresil.TimedOutError))


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a response asks to wait for."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def delay_hint(outcome: object) -> float | None:
    """Return the wait that the service asks for before another attempt."""
    return retry_after(outcome.response) if isinstance(outcome, httpx.HTTPStatusError) else None
