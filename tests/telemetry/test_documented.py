"""The table of events and backends in the docs: complete, and true."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

import trioresil
from tests.telemetry._y import Mine, one_of_each
from trioresil import _events
from trioresil.telemetry import LoggingInstrument, OpenTelemetryInstrument, PrometheusInstrument

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "telemetry.md"
CLASSES = {
    name: each
    for name, each in inspect.getmembers(_events, inspect.isclass)
    if issubclass(each, trioresil.Event) and each is not trioresil.Event
}


def rows() -> dict[str, list[str]]:
    """Return the cells of each row of the table, by event."""
    table = PAGE.read_text(encoding="utf-8").partition("## What each event becomes")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if "|" in line]
    return {cells[0].strip("| "): [cell.strip("| ") for cell in cells[1:]] for cells in lines[2:]}


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


@pytest.fixture(params=sorted(CLASSES))
def event(request: pytest.FixtureRequest) -> Any:
    (found,) = [each for each in one_of_each(Mine()) if type(each).__name__ == request.param]
    return found


def test_the_table_has_a_row_for_each_event_and_no_other() -> None:
    assert set(rows()) == set(CLASSES)
    assert all(len(cells) == 4 for cells in rows().values())


def test_the_log_is_as_told(event: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="trioresil")
    level, name, _, _ = rows()[type(event).__name__]
    LoggingInstrument().record(event)
    if level == "–":
        assert (name, caplog.records) == ("–", [])
        return
    (record,) = caplog.records
    assert names(name) == {record.getMessage().split()[1]}
    assert record.levelname.lower() in level


def test_the_metrics_of_prometheus_are_as_told(event: Any) -> None:
    registry = CollectorRegistry()
    PrometheusInstrument(registry).record(event)
    grown = {
        family.name + ("_total" if family.type == "counter" else "") for family in registry.collect() if family.samples
    }
    assert grown - {"trioresil_policies"} == names(rows()[type(event).__name__][2])


def test_the_metrics_and_events_of_opentelemetry_are_as_told(event: Any) -> None:
    reader, exporter, provider = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    instrument = OpenTelemetryInstrument(tracer_provider=provider, meter_provider=meters)
    with provider.get_tracer("user").start_as_current_span("user"):
        instrument.record(event)
    data = reader.get_metrics_data()
    metrics = [
        metric.name
        for resource in (data.resource_metrics if data is not None else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if [*metric.data.data_points]
    ]
    cell = rows()[type(event).__name__][3]
    assert set(metrics) - {"trioresil.policies"} == names(cell)
    (span,) = [each for each in exporter.get_finished_spans() if each.name == "user"]
    told = [each.name for each in span.events if each.name.startswith("trioresil.")]
    assert bool(told) == cell.endswith("an event on the span")
    meters.shutdown()
