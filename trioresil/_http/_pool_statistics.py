"""What a PoolTransport tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from ._leases import Origin
    from ._ledger import Ledger


@attrs.frozen(kw_only=True)
class PoolOriginStatistics:
    """Snapshot of what a PoolTransport has to do with one origin. What is counted is counted since the run began."""

    open: int
    """Connections that are open: in use or idle."""
    in_use: int
    """Connections that carry a request."""
    idle: int
    """Connections that are ready for one."""
    connecting: int
    """Connections that are being opened."""
    waiting: int
    """Requests that wait for a connection or a stream."""
    requests: int
    """Requests so far."""
    opened: int
    """Connections opened so far."""
    closed: int
    """Connections closed so far."""
    failed: int
    """Connections that could not be opened."""
    reclaimed: int
    """Responses that were thrown away without being closed."""
    last_error: Exception | None
    """Why the last connection could not be opened; None if the last could."""


@attrs.frozen(kw_only=True)
class PoolTransportStatistics:
    """Snapshot of a PoolTransport."""

    name: str
    """Its name."""
    max_connections: float
    """How many connections may be open at once."""
    open: int
    """Connections that are open: in use or idle."""
    in_use: int
    """Connections that carry a request."""
    idle: int
    """Connections that are ready for one."""
    connecting: int
    """Connections that are being opened."""
    waiting: int
    """Requests that wait for a connection or a stream."""
    requests: int
    """Requests so far, of the origins below."""
    closed: bool
    """Whether it takes no more requests."""
    origins: Mapping[str, PoolOriginStatistics]
    """By origin, as "https://host:port" without a default port. Origins that were long quiet are forgotten beyond 1,000."""


def statistics_of(name: str, max_connections: float, closed: bool, ledger: Ledger | None) -> PoolTransportStatistics:
    """Return a snapshot."""
    origins = {} if ledger is None else {each.name: _of_origin(each) for each in ledger.origins.values()}
    totals = origins.values()
    return PoolTransportStatistics(
        name=name,
        max_connections=max_connections,
        open=0 if ledger is None else len(ledger.connections),
        in_use=sum(each.in_use for each in totals),
        idle=0 if ledger is None else len(ledger.idle),
        connecting=0 if ledger is None else ledger.dialling,
        waiting=sum(each.waiting for each in totals),
        requests=sum(each.requests for each in totals),
        closed=closed,
        origins=MappingProxyType(origins),
    )


def _of_origin(origin: Origin) -> PoolOriginStatistics:
    return PoolOriginStatistics(
        open=len(origin.idle) + origin.in_use,
        in_use=origin.in_use,
        idle=len(origin.idle),
        connecting=origin.dialling,
        waiting=origin.waiting,
        requests=origin.requests,
        opened=origin.opened,
        closed=origin.closed,
        failed=origin.failed,
        reclaimed=origin.reclaimed,
        last_error=origin.last_error,
    )
