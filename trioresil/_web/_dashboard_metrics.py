"""What `/metrics` says: a registry of its own, so that two pages, or a page and the program's own metrics, don't meet.

A scrape of a thousand policies is a tenth of a second of work. Statistics are read in the run, where they are consistent, a few
policies at a time; the text is written in a thread, which gives way to the program every few milliseconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from ..telemetry import PrometheusInstrument


def new_metrics() -> tuple[Any, Callable[[], Awaitable[tuple[bytes, str]]]] | None:
    """Return an instrument, and a function that returns its text and content type; None if the package for it is missing."""
    try:
        import prometheus_client
    except ImportError:
        return None
    registry = prometheus_client.CollectorRegistry()
    instrument = PrometheusInstrument(registry)

    one_at_a_time, thread = trio.Lock(), trio.CapacityLimiter(1)  # not one of those threads that the program counts on

    async def scrape() -> tuple[bytes, str]:
        async with one_at_a_time:
            families = _Families(await instrument._gather())
            write = partial(prometheus_client.generate_latest, families)
            text = await trio.to_thread.run_sync(write, abandon_on_cancel=True, limiter=thread)
            return text, prometheus_client.CONTENT_TYPE_LATEST

    return instrument, scrape


class _Families:
    """What a scrape has gathered, in the place of a registry."""

    def __init__(self, families: Any) -> None:
        self._families = families

    def collect(self) -> Any:
        return self._families
