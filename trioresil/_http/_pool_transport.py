"""PoolTransport: the connection pool under a client. Bound to httpx or httpx2 by a subclass in the module of that binding."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, TypeVar

import trio

from .. import _instruments
from .._checks import chance, count, flag, seconds, text, whole
from .._clock import RunClock
from .._links import mark_unstarted
from ._dial import Dialler
from ._engine import engine_of
from ._http2 import Multiplexer
from ._leases import Origin
from ._ledger import Ledger
from ._pool_requests import RequestPath
from ._pool_statistics import PoolTransportStatistics, statistics_of
from ._proxies import make_proxy
from ._tls import make_tls
from ._upkeep import Upkeep

if TYPE_CHECKING:
    from ._library import Library

S = TypeVar("S", bound="PoolTransport")

_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


class PoolTransport:
    """Keep a client's connections: a pool that stays fast with thousands of tasks, and loses nothing when they are cancelled.

    It takes the place of the client library's own AsyncHTTPTransport, with the same parameters and the same errors, and has no
    policy: no retry, no circuit. Put a ResilientTransport around it for these, or use open_client, which has both. Taking and
    giving back a connection costs the same however many there are, and each origin has a limit of its own, so that one
    that hangs doesn't starve the others.

    Synopsis::

        async with httpx.AsyncClient(transport=PoolTransport(max_lifetime=300)) as client:
            await client.get("https://example.com/")

    Waiting for a connection is first come, first served, for each origin and for the whole. The newest idle connection is
    used first. One that the server closed just as it was taken is replaced, once, where the request can't be processed twice by
    that. A response that was never closed gives its connection back when it is collected, with a ResourceWarning. Shared: by any
    number of clients and tasks of one run, and by many runs in turn, each with connections of its own.

    Args:
      verify (True, False, path, ssl.SSLContext or ClientTLS): as in the client library; a ClientTLS brings client certificates
        whose files may change. Default: True.
      cert, trust_env, http1, proxy, uds, local_address, socket_options: as in the client library's AsyncHTTPTransport. One pool
        serves all that a proxy leads to; socks5:// needs trioresil[socks].
      http2 (bool): offer HTTP/2, and send many requests at once on one connection where the server takes it. Needs
        trioresil[http2]. Default: False.
      limits (Limits): max_connections counts *open* connections, idle ones too, and may be None for no limit. Default: 100, of
        which 20 may be idle, for 5 seconds.
      retries: refused. It would repeat what only a policy should: put a Retry or a ResilientTransport around the pool.
      max_connections_per_origin (int >= 1, math.inf or None): how many of them one origin may use. Default: nine tenths, at
        least 1.
      max_lifetime (float, seconds, > 0): a connection older than this, or than up to a tenth less by chance, takes no new
        request; so DNS changes are seen. Default: math.inf.
      min_idle (int >= 0): how many connections to keep ready for each origin that was called. Needs the maintenance task,
        `await nursery.start(transport.serve)`. Default: 0.
      head_timeout (float, seconds, > 0): from the moment that a request has its connection until the last byte of the response's
        head, the upload included; then a ReadTimeout. A head that drips byte by byte never meets the read timeout.
        Default: math.inf.
      name (str): what errors and events call it.
      rng (random.Random or None): spreads lifetimes. Default: seeded by the system.

    Cancellation: a cancelled request gives everything back. While it waited or dialled, nothing of it was sent; later its
    connection is closed, or over HTTP/2 its stream is reset and the others on the connection go on.

    Raises:
      PoolTimeout: no connection came free within the request's pool timeout.
      PoolClosedError: the transport was closed. It is a ConnectError of the library too.
      ConnectError, ConnectTimeout, ReadTimeout, …: as from the library's own transport.
      RuntimeError: min_idle without the maintenance task; or it is in use in another trio.run.
    """

    _library: ClassVar[Library]

    def __init__(
        self,
        verify: Any = True,
        cert: Any = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: Any = None,
        proxy: Any = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[tuple[Any, ...]] | None = None,
        *,
        max_connections_per_origin: float | None = None,
        max_lifetime: float = math.inf,
        min_idle: int = 0,
        head_timeout: float = math.inf,
        name: str = "pool-transport",
        rng: Random | None = None,
    ) -> None:
        if retries:
            raise TypeError(
                "retries= is not taken here: put a trioresil Retry, or a ResilientTransport, around the pool"
            )
        self._name = text("name", name)
        self._http1, self._http2 = _protocols(http1, http2)
        self._set_limits(limits, max_connections_per_origin)
        self._max_lifetime = seconds("max_lifetime", max_lifetime, zero=False)
        self._min_idle = whole("min_idle", min_idle, least=0)
        self._rng = chance("rng", rng) or Random()
        self._engine = engine = engine_of(self._library)
        self._tls = tls = make_tls(self._library, verify, cert, trust_env)
        if proxy is not None and uds is not None:
            raise ValueError("uds and proxy can't go together: a Unix socket leads to one server")
        dialler = Dialler(
            engine,
            lambda: tls.context,
            alpn=(["h2"] if http2 else []) + (["http/1.1"] if http1 else []),
            proxy=make_proxy(engine, proxy),
            uds=uds,
            local_address=local_address,
            socket_options=socket_options or (),
        )
        self._path = RequestPath(
            self,
            engine,
            tls,
            dialler,
            head_timeout=seconds("head_timeout", head_timeout, zero=False),
            max_per_origin=self._max_per_origin,
            http1=http1,
            http2=http2,
        )
        self._ledger: Ledger | None = None
        self._closed = False
        self._clock = RunClock(self._enter_run, occupied=self._is_occupied, owner=f"PoolTransport {name!r}")

    def _set_limits(self, limits: Any, per_origin: float | None) -> None:
        client = self._library.client
        given = client.Limits(max_connections=100, max_keepalive_connections=20) if limits is None else limits
        if not isinstance(given, client.Limits):
            raise TypeError(
                f"limits must be an {self._library.name}.Limits, not {given!r}: Limits(max_connections=100, ...)"
            )
        self._max_connections = math.inf if given.max_connections is None else given.max_connections
        keepalive = given.max_keepalive_connections
        self._max_idle = math.inf if keepalive is None else keepalive
        self._idle_timeout = math.inf if given.keepalive_expiry is None else given.keepalive_expiry
        if per_origin is None:
            share = self._max_connections * 9 / 10
            per_origin = share if share == math.inf else max(1, int(share))
        self._max_per_origin = count("max_connections_per_origin", per_origin, infinite=True)

    @property
    def name(self) -> str:
        """The name that events and errors carry."""
        return self._name

    # -- requests --------------------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request and return its response; the client calls this."""
        if self._closed:
            await self._refuse()
        if self._tls.changes and self._tls.due():
            await self._refresh()
            if self._closed:  # meanwhile
                await self._refuse()
        now = self._clock.read()
        ledger = self._ledger
        assert ledger is not None
        if self._min_idle and ledger.wake_at == -math.inf:
            raise RuntimeError(
                f"{self._name}: min_idle={self._min_idle} needs the pool's maintenance task: "
                "await nursery.start(transport.serve)"
            )
        if _instruments.installed:
            _instruments.announce(self)
        url = request.url
        key = (url.raw_scheme, url.raw_host, url.port, request.extensions.get("sni_hostname"))
        origin = ledger.origins.get(key)
        if origin is None:
            origin = self._new_origin(key, ledger)
        return await self._path.run(request, ledger, origin, now)

    def _new_origin(self, key: Any, ledger: Ledger) -> Origin:
        scheme, host, port, sni = key
        default = _DEFAULT_PORTS.get(scheme)
        if default is None:
            shown = scheme.decode("ascii")
            raise self._library.client.UnsupportedProtocol(
                f"Request URL has an unsupported protocol '{shown}://'."
                if shown
                else "Request URL is missing an 'http://' or 'https://' protocol."
            )
        shown_host = host.decode("ascii")
        name = f"{scheme.decode('ascii')}://" + (f"[{shown_host}]" if ":" in shown_host else shown_host)
        if port not in (None, default):
            name += f":{port}"
        if sni is not None:
            sni = sni.decode("ascii") if isinstance(sni, bytes) else sni
            name += f" as {sni}"
        core = self._engine.core.Origin(scheme=scheme, host=host, port=port or default)
        ledger.forget_quiet_origins()
        origin = Origin(key, name, core, server_hostname=sni or shown_host, limit=self._max_per_origin)
        ledger.origins[key] = origin
        if self._min_idle:
            ledger.note_short(origin)
        return origin

    async def _refresh(self) -> None:
        try:
            await self._tls.refresh()
        except BaseException as exc:
            mark_unstarted(exc)
            raise

    async def _refuse(self) -> NoReturn:
        await _instruments.reject(self, self._library.pool_closed_error(self._name))

    # -- life ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self: S) -> S:
        self._closed = False
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after idle connections until the pool is closed: `await nursery.start(transport.serve)`.

        It closes them in time while nobody calls (else that is done when the pool is used), and keeps `min_idle` of them
        open for each origin that was called. It takes what is left: it neither queues for a slot nor evicts a connection.

        Cancellation: safe at any time; connections stay as they are.

        Raises:
          RuntimeError: this transport is being looked after already.
        """
        self._clock.read()
        ledger = self._ledger
        assert ledger is not None
        if ledger.wake_at != -math.inf:
            raise RuntimeError(f"{self._name}: serve is running already: one maintenance task is enough")
        await Upkeep(self._path, ledger, self._rng).run(task_status)

    def close_admission(self) -> None:
        """Take no more requests, from now on; those that were taken go on."""
        self._closed = True

    async def wait_drained(self) -> None:
        """Wait until no request is inside, and no response is open."""
        ledger = self._ledger
        if ledger is not None and ledger.inside:
            if ledger.drained is None or ledger.drained.is_set():
                ledger.drained = trio.Event()
            await ledger.drained.wait()
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close every connection, those in use too; later requests get a PoolClosedError. Waits for nothing."""
        self._closed = True
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            self._clock = self._new_clock()
            ledger.shut()

    def _new_clock(self) -> RunClock:
        return RunClock(self._enter_run, occupied=self._is_occupied, owner=f"PoolTransport {self._name!r}")

    def _is_occupied(self) -> bool:
        if self._ledger is None or self._ledger.inside == 0:
            return False
        try:
            self._ledger.token.run_sync_soon(int)
        except trio.RunFinishedError:
            return False  # that run was torn down with requests inside
        return True

    def _enter_run(self, _shift: float) -> None:
        """Begin new books for a new run: the connections of the old one belong to a loop that is gone."""
        if self._ledger is not None:
            self._ledger.abandon()
        self._ledger = Ledger(
            self,
            max_connections=self._max_connections,
            max_idle=self._max_idle,
            idle_timeout=self._idle_timeout,
            min_idle=self._min_idle,
            lifetime=self._lifetime,
            generation=lambda: self._tls.generation,
        )
        if self._http2:
            self._ledger.multiplexer = Multiplexer(self._ledger)

    def _lifetime(self) -> float:
        if self._max_lifetime == math.inf:
            return math.inf
        return self._max_lifetime * (1 - 0.1 * self._rng.random())

    # -- looks -----------------------------------------------------------------------------------------------------------

    def statistics(self) -> PoolTransportStatistics:
        """Return a snapshot: what is open, in use, idle, dialled and waited for, in all and by origin."""
        return statistics_of(self._name, self._max_connections, self._closed, self._ledger)

    def __repr__(self) -> str:
        seen = self.statistics()
        closed = ", closed" if self._closed else ""
        of = "" if seen.max_connections == math.inf else f" of {seen.max_connections:g}"
        return (
            f"<trioresil.PoolTransport {self._name!r} {seen.in_use + seen.connecting}{of} in use, "
            f"{seen.idle} idle, {seen.waiting} waiting{closed}>"
        )


def _protocols(http1: object, http2: object) -> tuple[bool, bool]:
    http1, http2 = flag("http1", http1), flag("http2", http2)
    if not (http1 or http2):
        raise ValueError("http1 and http2 must not both be False: there is no other protocol")
    if http2:
        try:
            import h2  # noqa: F401
        except ImportError:
            raise ImportError("http2=True needs h2: install trioresil[http2]") from None
    return http1, http2
