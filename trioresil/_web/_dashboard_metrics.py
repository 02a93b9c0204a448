"""What `/metrics` says: a registry of its own, so that two pages, or a page and the program's own metrics, don't meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..telemetry import PrometheusInstrument


def new_metrics() -> tuple[Any, Callable[[], tuple[bytes, str]]] | None:
    """Return an instrument, and a function that returns its text and content type; None if the package for it is missing."""
    try:
        import prometheus_client
    except ImportError:
        return None
    registry = prometheus_client.CollectorRegistry()
    instrument = PrometheusInstrument(registry)

    def scrape() -> tuple[bytes, str]:
        return prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST

    return instrument, scrape
