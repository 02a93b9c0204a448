"""What a response tells of the way it came, and what a request asks of its connection."""

from __future__ import annotations

from typing import Final

import attrs

HEARD_AFTER: Final = "trioresil.heard_after"
"""Extension of a request that is to go over a connection was heard of since that instant. A PoolTransport knows it."""


@attrs.frozen(kw_only=True)
class CallReport:
    """How a response was got: found at `response.extensions["trioresil"]`.

    It is about one request on the wire: a redirect and each round of an authentication has a report of its own.
    """

    attempts: int = 1
    """Attempts made, the one that gave this response included. A stale connection's replacement is no attempt."""
    waited: float = 0.0
    """Seconds spent waiting between attempts."""
    reused: bool | None = None
    """Whether the connection had served a request before; None if the transport doesn't tell."""
