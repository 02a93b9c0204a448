"""What the pool's books are about: slots, leases, connections, origins. How they go together stands in _ledger."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import trio

Reason: TypeAlias = Literal["idle", "expired", "discarded", "evicted", "stale", "reclaimed", "retired", "closed"]


class Slot:
    """A place for one connection in use."""

    __slots__ = ("held", "origin")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.held = 0  # 1: the origin's; 2: the global one as well


class Lease:
    """One request's hold on a connection."""

    __slots__ = ("connection", "left", "origin", "slot", "stream", "task")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.slot: Slot | None = Slot(origin)
        self.connection: Connection | None = None
        self.left = False
        self.stream: Any = None  # for HTTP/2, once it has begun
        self.task: Any = None


class Connection:
    """One open connection."""

    __slots__ = (
        "core",
        "expires_at",
        "generation",
        "heard_at",
        "idle_at",
        "leases",
        "limit",
        "looking",
        "multiplexed",
        "opened_at",
        "origin",
        "rested",
        "retired",
        "settled",
        "slot",
        "stream",
        "uses",
    )

    def __init__(
        self, origin: Origin, core: Any, stream: Any, *, multiplexed: bool, generation: int, opened_at: float
    ) -> None:
        self.origin = origin
        self.core = core
        self.stream = stream
        self.multiplexed = multiplexed
        self.generation = generation
        self.opened_at = opened_at
        self.expires_at = math.inf
        self.idle_at = self.heard_at = opened_at
        self.uses = 0
        self.rested = False  # it was idle once, so the other side may have closed it
        self.leases: set[Lease] = set()
        # For HTTP/2: how many streams it may carry, whether the peer has said so, whether it takes no more, its slot.
        self.limit = 1
        self.settled = False
        self.looking = False  # somebody looks what came while it was idle; nobody else may use it
        self.retired = False
        self.slot: Slot | None = None

    def was_silent_since(self, instant: float) -> bool:
        """Tell whether nothing was heard on it since; over HTTP/1.1 the end of an exchange is what was heard last."""
        return bool((self.core.heard_at if self.multiplexed else self.heard_at) <= instant)

    def has_surplus(self) -> bool:
        """Tell whether bytes came after an HTTP/1.1 response: they would be taken for the next one."""
        state = getattr(
            self.core, "_h11_state", None
        )  # the engine tells of them only where a connection is handed over
        return (state is not None and state.trailing_data[0] != b"") or bool(self.stream.has_surplus())

    def is_stale(self) -> bool:
        """Tell whether the other side has closed it, or said something unasked.

        Over HTTP/2 a server may speak when it likes; over TLS it sends its session tickets before the first response. Then
        only the end of the connection counts.
        """
        wire = self.stream.wire
        if not wire.is_readable():
            return False
        if self.multiplexed or (self.uses == 0 and self.stream.encrypted):
            return bool(wire.is_ended())
        return True


class Origin:
    """Where connections go to, and what is known of it."""

    __slots__ = (
        "closed",
        "core",
        "dialling",
        "encrypted",
        "failed",
        "idle",
        "in_use",
        "key",
        "last_error",
        "limiter",
        "name",
        "opened",
        "reclaimed",
        "requests",
        "reused",
        "server_hostname",
        "streams",
        "url",
        "waiting",
    )

    def __init__(self, key: Any, name: str, core: Any, *, server_hostname: str, limit: float) -> None:
        self.key = key
        self.name = name
        self.core = core  # the engine's Origin
        self.url = bytes(name.partition(" ")[0], "ascii")
        self.encrypted = core.scheme in (b"https", b"wss")
        self.server_hostname = server_hostname
        self.limiter = None if limit == math.inf else trio.CapacityLimiter(limit)
        self.idle: dict[Connection, None] = {}
        self.streams: Any = None
        self.in_use = self.dialling = self.waiting = 0
        self.requests = self.reused = self.opened = self.closed = self.failed = self.reclaimed = 0
        self.last_error: Exception | None = None

    def is_quiet(self) -> bool:
        """Tell whether nothing is open, and nobody is on the way."""
        return not (self.idle or self.in_use or self.dialling or self.waiting)
