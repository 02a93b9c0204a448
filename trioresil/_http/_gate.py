"""The gate of an origin that said 429 and has no bucket: who comes while it is shut waits, and leaves in order when it opens.

It is a TokenBucket so fast that only its pause is felt: its queue is first come, first served, and loses nobody who is
cancelled. It is made at the first 429, and forgotten when it is open and nobody stands at it, so that an origin that behaves
pays nothing for it.
"""

from __future__ import annotations

from typing import Final

from .._policies.token_bucket import TokenBucket

RATE: Final = 1e6
"""Calls a second that an open gate lets through: more than a program can make."""


def make_gate(origin: str) -> TokenBucket:
    """Return an open gate."""
    return TokenBucket(rate=RATE, capacity=1, name=f"{origin} (after 429)")


def is_idle(gate: TokenBucket) -> bool:
    """Tell whether a gate stands open with nobody in front of it."""
    statistics = gate.statistics()
    return not statistics.waiting and not statistics.paused_for
