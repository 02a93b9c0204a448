"""Section `telemetry`: what a call through five policies costs with and without a listener, and what a scrape costs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import trio

import trioresil
from trioresil import telemetry as backends

from . import _calls
from ._measure import Contender, Plan, per_call
from ._report_shapes import Table

NOBODY = "nobody listens"
MANY = 1_000


def telemetry(plan: Plan) -> dict[str, float]:
    """Measure µs for a call, by who listens, and ms for reading 1,000 policies."""
    return trio.run(_telemetry, plan)


async def _telemetry(plan: Plan) -> dict[str, float]:
    call = _calls._pipeline(trio.CapacityLimiter(10))(_calls.fetch)
    contenders = [
        Contender(_calls.BARE, _calls.fetch),
        Contender(NOBODY, call),
        Contender("a listener elsewhere", call, _calls._listening_elsewhere),
        Contender("a listener that does nothing", call, lambda: trioresil.instrument(_calls.Deaf())),
    ]
    makers: dict[str, Callable[[], Any]] = {
        "logging, at INFO": _logging,
        "structlog": lambda: backends.StructlogInstrument(_Silent()),
        "Prometheus": _prometheus,
        "OpenTelemetry, metrics": lambda: _opentelemetry(spans=False),
        "OpenTelemetry, metrics and spans": lambda: _opentelemetry(spans=True),
    }
    for name, make in makers.items():
        try:
            made = make()
        except ImportError:
            continue
        contenders.append(Contender(name, call, lambda made=made: trioresil.instrument(made)))  # type: ignore[misc]
    measured = await per_call(contenders, plan)
    with suppress(ImportError):
        measured[f"scrape of {MANY:,} policies, ms"] = _scrape(plan)
    return measured


class _Silent:
    """A structlog logger that wants nothing below warnings, and writes nowhere."""

    def is_enabled_for(self, level: int) -> bool:
        return level >= logging.WARNING

    def warning(self, event: str, **fields: object) -> None: ...

    error = warning


def _logging() -> Any:
    logger = logging.getLogger("trioresil.bench")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.NullHandler())
    return backends.LoggingInstrument(logger)


def _prometheus() -> Any:
    from prometheus_client import CollectorRegistry

    return backends.PrometheusInstrument(CollectorRegistry())


def _opentelemetry(*, spans: bool) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    return backends.OpenTelemetryInstrument(meters, TracerProvider(shutdown_on_exit=False), spans=spans)


def _scrape(plan: Plan) -> float:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    instrument = backends.PrometheusInstrument(registry)
    policies = [trioresil.CircuitBreaker(name=f"c{number}") for number in range(MANY)]
    instrument.watch(*policies)
    times = []
    for _ in range(plan.repeats(20_000)):
        began = time.thread_time()
        generate_latest(registry)
        times.append(time.thread_time() - began)
    return median(times) * 1e3


def telemetry_tables(measured: dict[str, float]) -> list[Table]:
    """Return the section's tables."""
    bare = measured[_calls.BARE]
    nobody = measured[NOBODY] - bare
    rows = [
        (key, f"{value - bare:.2f}", f"{(value - bare) / max(nobody, 1e-9):.2f}")
        for key, value in measured.items()
        if key != _calls.BARE and not key.startswith("scrape")
    ]
    found = [Table("Five policies, by who listens", ("added to the bare call", "µs", "× nobody"), rows)]
    scrapes = [
        (key.removesuffix(", ms"), f"{value:.1f}") for key, value in measured.items() if key.startswith("scrape")
    ]
    return [*found, Table("Reading for Prometheus", ("", "ms"), scrapes)] if scrapes else found
