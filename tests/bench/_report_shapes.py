"""What a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One promise, and what came of it."""

    name: str
    target: str
    measured: float
    met: bool


@dataclass(frozen=True)
class Table:
    """Rows to print."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def at_most(name: str, measured: float, limit: float) -> Target:
    """Promise a ratio of at most so much."""
    return Target(name, f"≤ {limit:g}", measured, measured <= limit)


def at_least(name: str, measured: float, limit: float) -> Target:
    """Promise a ratio of at least so much."""
    return Target(name, f"≥ {limit:g}", measured, measured >= limit)
