"""open_client: the client library's own client, on our pool and behind our policies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import EllipsisType, TracebackType
from typing import Any, ClassVar, Final

from trio import CancelScope, current_time
from trio.lowlevel import enable_ki_protection

from .._checks import seconds
from .._policies.bulkhead import Bulkhead
from .._policies.circuit_breaker import CircuitBreaker
from .._policies.retry import Retry
from .._policies.token_bucket import TokenBucket
from .._services._tasks import Tasks
from ._library import Library
from ._options import attempt_seconds
from ._origin_policies import PerOrigin
from ._resilient import ResilientTransport

MAX_CLOSE_SECONDS: Final = 1.0


class OpenClient:
    """Open a real client of the library that is resilient by default, for an `async with` block.

    It is the library's own AsyncClient, with all that this can do, on a pool that stays fast with thousands of tasks
    (PoolTransport) and behind policies that know HTTP (ResilientTransport). Proxies, from `proxy` or the environment, get a
    pool of their own each, and the same policies; mounted transports get the policies. To put the policies around a transport
    without a client use ResilientTransport.

    Synopsis::

        async with open_client(base_url="https://api.example.com") as client:
            response = await client.get("/items")
            response.extensions["trioresil"].attempts

        opened = open_client(bulkhead=lambda origin: trioresil.Bulkhead(10))
        async with opened as client:
            print(opened.transport.statistics())

    Sharing: open one for a program and hand it around; its pool and its policies are what the tasks share.

    Args:
      total_timeout (float, seconds, > 0, or math.inf): bounds a request with all of its attempts, up to the head of the answer.
        Default: 30, the time after which hardly anybody still waits for an answer.
      attempt_timeout (float, seconds, > 0, or math.inf): bounds each attempt. Keep it below the total: only a time-out of an
        attempt counts for the circuit. Default: 10, or a third of the total if that is less, so that three attempts fit in.
      body_timeout (float, seconds, > 0, or math.inf): bounds the reading of a body. Default: math.inf, for nobody knows how
        long a body is, and each part of it is under `timeout` anyway.
      retry (Retry, or None): see ResilientTransport. Default: 3 attempts, as more seldom help and each is load; waits of at most
        0.2 and 0.4 s, long enough for a restarted connection and short for who waits; together with all other retries of this
        client at most a fifth of its requests (and 10 a second), so that retries never multiply an overload.
      breaker ((origin) -> CircuitBreaker, or a Keyed, or None): Default: a circuit for each origin, that opens when half of at
        least 20 requests in 30 s failed, as a share says the same of a busy and of a quiet client; for 5 s and, if that was not
        enough, twice as long each time, up to 60 s.
      bulkhead ((origin) -> Bulkhead, or a Keyed, or None): Default: none, since the pool bounds the connections.
      bucket ((origin) -> TokenBucket, or a Keyed, or None): Default: none, since only the other side knows its rate.
      deadline_header, attempt_header (str): headers that tell the server. Default: none are sent.
      http2 (bool): also speak HTTP/2, which needs the extra trioresil[http2]. Default: False, also where it is installed: what
        is spoken must not depend on what somebody else has installed.
      limits (Limits): Default: 100 connections, 20 of them idle for at most 5 s: the library's own.
      max_lifetime (float, seconds, > 0, or math.inf): how old a connection may become before it is replaced. Default: 300, so
        that a changed address is noticed in minutes.
      max_connections_per_origin, min_idle, head_timeout, verify, cert, http1, uds, local_address, socket_options: see
        PoolTransport.
      timeout: the library's time-out for each phase, taken as it is. Default: Timeout(attempt_timeout, pool=None), as the
        library's own 5 s would undercut attempt_timeout, and the wait for a connection is bounded by the total.
      proxy, mounts, trust_env: as the library's client has them.
      transport (AsyncBaseTransport): what sends, in place of our pool; then what concerns the pool is refused. Default: none.
      auth, params, headers, cookies, follow_redirects, max_redirects, event_hooks, base_url, default_encoding: as the library's
        client has them.
      name (str): its name in errors, events and statistics. Default: "http".

    Cancellation: entering and leaving are checkpoints. Leaving closes every connection, and waits for nothing longer than 1 s;
    an exception of the block comes out as it is.

    Raises:
      TypeError, ValueError: a wrong argument, at once.
    """

    _library: ClassVar[Library]
    _pool_class: ClassVar[Any]
    _resilient_class: ClassVar[type[ResilientTransport]]

    def __init__(
        self,
        *,
        total_timeout: float = 30.0,
        attempt_timeout: float | None = None,
        body_timeout: float = math.inf,
        retry: Retry | EllipsisType | None = ...,
        breaker: PerOrigin[CircuitBreaker] | EllipsisType = ...,
        bulkhead: PerOrigin[Bulkhead] = None,
        bucket: PerOrigin[TokenBucket] = None,
        deadline_header: str | None = None,
        attempt_header: str | None = None,
        http1: bool = True,
        http2: bool = False,
        limits: Any = None,
        max_connections_per_origin: float | None = None,
        max_lifetime: float = 300.0,
        min_idle: int = 0,
        head_timeout: float = math.inf,
        verify: Any = True,
        cert: Any = None,
        uds: str | None = None,
        local_address: str | None = None,
        socket_options: Iterable[tuple[Any, ...]] | None = None,
        retries: int = 0,
        timeout: Any = ...,
        proxy: Any = None,
        mounts: Mapping[str, Any] | None = None,
        trust_env: bool = True,
        transport: Any = None,
        auth: Any = None,
        params: Any = None,
        headers: Any = None,
        cookies: Any = None,
        follow_redirects: bool = False,
        max_redirects: int = 20,
        event_hooks: Mapping[str, list[Any]] | None = None,
        base_url: Any = "",
        default_encoding: Any = "utf-8",
        name: str = "http",
    ) -> None:
        if retries:
            raise TypeError("retries= is not taken here: give a trioresil.Retry as retry=")
        of_pool = {
            "http1": http1,
            "http2": http2,
            "limits": limits,
            "max_connections_per_origin": max_connections_per_origin,
            "max_lifetime": max_lifetime,
            "min_idle": min_idle,
            "head_timeout": head_timeout,
            "verify": verify,
            "cert": cert,
            "uds": uds,
            "local_address": local_address,
            "socket_options": socket_options,
        }
        attempt_timeout = attempt_seconds(attempt_timeout, seconds("total_timeout", total_timeout, zero=False))
        self._pools: list[Any] = []
        if transport is not None:
            _refuse_of_pool({**of_pool, "proxy": proxy})
            proxies: dict[str, Any] = {}
        else:
            of_pool["trust_env"] = trust_env
            transport = self._make_pool(of_pool, f"{name}-pool")
            proxies = self._proxies(proxy, trust_env and uds is None)  # a Unix socket is never beyond a proxy
        self._transport = resilient = self._resilient_class(
            transport,
            retry=retry,
            breaker=breaker,
            bulkhead=bulkhead,
            bucket=bucket,
            total_timeout=total_timeout,
            attempt_timeout=attempt_timeout,
            body_timeout=body_timeout,
            deadline_header=deadline_header,
            attempt_header=attempt_header,
            name=name,
        )
        routes = {
            pattern: None
            if each is None
            else resilient._beside(self._make_pool({**of_pool, "proxy": each}, f"{name}-pool via {each.url.host}"))
            for pattern, each in proxies.items()
        }
        for pattern, mounted in (mounts or {}).items():
            is_ready = mounted is None or isinstance(mounted, ResilientTransport)
            routes[pattern] = mounted if is_ready else resilient._beside(mounted)
        self._client: Any = self._library.client.AsyncClient(
            transport=resilient,
            mounts=routes,
            timeout=self._phases(attempt_timeout) if timeout is ... else timeout,
            trust_env=trust_env,
            auth=auth,
            params=params,
            headers=headers,
            cookies=cookies,
            follow_redirects=follow_redirects,
            max_redirects=max_redirects,
            event_hooks=event_hooks,
            base_url=base_url,
            default_encoding=default_encoding,
        )
        self._tasks = Tasks(f"open_client {name!r}")

    def _make_pool(self, parameters: dict[str, Any], name: str) -> Any:
        pool = self._pool_class(**parameters, name=name)
        self._pools.append(pool)
        return pool

    def _proxies(self, proxy: Any, trust_env: bool) -> dict[str, Any]:
        """Return the proxy, or None, for each URL pattern, by the library's own reading of the environment."""
        client = self._library.client
        if proxy is not None:
            return {"all://": client.Proxy(url=proxy) if isinstance(proxy, (str, client.URL)) else proxy}
        if not trust_env:
            return {}
        found: Mapping[str, str | None] = client._utils.get_environment_proxies()
        return {pattern: None if url is None else client.Proxy(url=url) for pattern, url in found.items()}

    def _phases(self, attempt_timeout: float) -> Any:
        phase = None if attempt_timeout == math.inf else attempt_timeout
        return self._library.client.Timeout(phase, pool=None)

    @property
    def transport(self) -> ResilientTransport:
        """The transport of the client: its statistics, `close_admission` and `wait_drained`."""
        return self._transport

    @enable_ki_protection
    async def _open(self) -> Any:
        tasks = self._tasks
        await tasks.__aenter__()
        try:
            await self._client.__aenter__()
            for pool in self._pools:
                await tasks.start(pool.serve, name=f"trioresil: {pool.name}")
        except BaseException as exc:
            await self._close()
            await tasks.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return self._client

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._tasks.check_task()
        failure: Exception | None = None
        try:
            await self._close()
        except Exception as exc:
            failure = exc
        try:
            swallowed = await self._tasks.__aexit__(kind, error, traceback)
            if failure is not None and error is None:
                raise failure
            return swallowed
        finally:
            del failure, error  # their tracebacks hold this frame

    async def _close(self) -> None:
        """Close the client and all of its transports; ours wait for nothing, and others not for long."""
        try:
            with CancelScope(deadline=current_time() + MAX_CLOSE_SECONDS, shield=True):
                await self._client.__aexit__(None, None, None)
        finally:
            for pool in self._pools:  # a mounted transport may have hung, or raised, before their turn
                await pool.aclose()

    def __repr__(self) -> str:
        return f"<trioresil.{self._library.name}.open_client {self._transport!r}>"


OpenClient.__init__.__qualname__ = "open_client"  # what Python's message about a wrong argument names

_POOL_DEFAULTS: Final[dict[str, Any]] = {
    "http1": True,
    "http2": False,
    "max_lifetime": 300.0,
    "min_idle": 0,
    "head_timeout": math.inf,
    "verify": True,
}


def _refuse_of_pool(given: dict[str, Any]) -> None:
    """Refuse what would have no effect because there is no pool of ours."""
    for argument, value in given.items():
        default = _POOL_DEFAULTS.get(argument)
        if value is not default and value != default:
            raise TypeError(f"{argument} is for a pool, and with transport= there is none: set it up on the transport")
