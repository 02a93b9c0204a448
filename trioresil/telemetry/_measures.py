"""What is measured: one table for all backends, so that they can't disagree.

A measure is named in words joined by dots. Prometheus gets `trioresil_bulkhead_inside`, with `_seconds` and `_total` where its
conventions want them; OpenTelemetry gets `trioresil.bulkhead.inside`, with the unit beside it.
"""

from __future__ import annotations

from typing import Literal

import attrs

Kind = Literal["counter", "gauge", "histogram"]


@attrs.frozen(eq=False)  # told apart by identity: they are keys on hot paths
class Measure:
    """One thing that is measured, for each policy name and each value of its labels."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    unit: str = attrs.field(default="1", kw_only=True)
    """As UCUM writes it, as OpenTelemetry wants it: "s", or what is counted, in braces."""
    combine: Literal["sum", "max", "min"] = attrs.field(default="sum", kw_only=True)
    """What several policies of one name come to."""

    @property
    def prometheus(self) -> str:
        """Its name for Prometheus, without the `_total` of counters, which the client library adds."""
        return f"trioresil_{self.name.replace('.', '_')}{'_seconds' if self.unit == 's' else ''}"

    @property
    def shown(self) -> str:
        """Its name as Prometheus shows it."""
        return f"{self.prometheus}_total" if self.kind == "counter" else self.prometheus

    @property
    def otel(self) -> str:
        """Its name for OpenTelemetry."""
        return f"trioresil.{self.name}"


def gauge(
    name: str,
    text: str,
    *labels: str,
    unit: str = "1",
    combine: Literal["sum", "max", "min"] = "sum",
) -> Measure:
    """Return a measure of what goes up and down."""
    return Measure(name, "gauge", text, labels, unit=unit, combine=combine)


def counter(name: str, text: str, *labels: str, unit: str = "1") -> Measure:
    """Return a measure of what only goes up."""
    return Measure(name, "counter", text, labels, unit=unit)


def histogram(name: str, text: str, *labels: str) -> Measure:
    """Return a measure of how long things take, in seconds."""
    return Measure(name, "histogram", text, labels, unit="s")
