"""The client libraries, the transports under test, and what must be true of any of them when it is at rest."""

from __future__ import annotations

import gc
import importlib
import os
import warnings
from typing import Any

import trio

LIBRARIES = ["httpx", "httpx2"]
TRANSPORTS = ["own", "pool", "resilient-own", "resilient-pool"]


class Edge:
    """One client library: its module, its protocol engine, and trioresil's face for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lib: Any = importlib.import_module(name)
        """httpx or httpx2."""
        self.core: Any = importlib.import_module(name.replace("httpx", "httpcore"))

    @property
    def face(self) -> Any:
        """trioresil.httpx or trioresil.httpx2."""
        return importlib.import_module(f"trioresil.{self.name}")

    def pool(self, **options: Any) -> Any:
        return self.face.PoolTransport(**options)

    def transport(self, kind: str, **options: Any) -> Any:
        """A transport with these parameters of AsyncHTTPTransport; "resilient-" ones make one attempt, with no circuit."""
        inner = self.lib.AsyncHTTPTransport(**options) if kind.endswith("own") else self.pool(**options)
        if kind.startswith("resilient-"):
            return self.face.ResilientTransport(inner, retry=None, breaker=None)
        return inner


def assert_at_rest(pool: Any) -> None:
    """Every slot is back: nothing in use, nobody waiting, for the pool as a whole and for each origin."""
    statistics = pool.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0), statistics
    assert statistics.connecting == 0, statistics
    for name, origin in statistics.origins.items():
        assert (origin.in_use, origin.waiting) == (0, 0), (name, origin)


def descriptors() -> int:
    """Open file descriptors of this process; garbage is collected first, so that only what is held counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    """How many tasks live in this run."""
    return int(trio.lowlevel.current_statistics().tasks_living)
